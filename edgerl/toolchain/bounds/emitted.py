"""Emitted: the arithmetic of the C package.

Sums run over columns in order, activations come from the tables, and the cells are written with
t = tanh(gate / 2) in place of the gate.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgerl.toolchain.bounds import accuracy
from edgerl.toolchain.bounds.accuracy import EXPONENTIAL_LIMIT, Accuracy
from edgerl.toolchain.bounds.arithmetic import Sources, Terms, gated_sum, through
from edgerl.toolchain.bounds.enclosure import (
    SLACK,
    TINY,
    UNIT,
    Bounds,
    Doubles,
    Enclosure,
    added,
    exactly,
    gamma,
    hull,
    multiplied,
    multiplied_and_added,
    product,
)
from edgerl.toolchain.ir import Activation, Gru, Lstm, Vector

# A cell of 2^24 in float32 takes no increment of at most 2 any more (see Emitted.lstm).
_CELL_LIMIT = 2.0**24


@dataclass(frozen=True)
class Emitted:
    """The emitted C, its multiply-adds fused or not."""

    fused: bool
    variance_cancels: bool = False

    def total(self, biases: Sequence[Vector], sources: Sources) -> Enclosure:
        """The bias (two of them added and rounded beforehand), then sources in order, then
        columns in order."""
        terms = Terms.of(biases, sources)
        low, high, partial = terms.bias, terms.bias, np.zeros(1)
        for w, x in sources:
            for column, weights in enumerate(w.T):
                at_low = weights * x.low[..., column, np.newaxis]
                at_high = weights * x.high[..., column, np.newaxis]
                low = low + np.minimum(at_low, at_high)
                high = high + np.maximum(at_low, at_high)
                partial = partial + np.maximum(np.abs(low), np.abs(high))
        partial = partial + terms.count * SLACK * terms.sizes
        if not self.fused:
            partial = partial + terms.sizes
        if len(biases) > 1:
            partial = partial + np.abs(terms.bias)
        # An error made on the way grows by gamma_n at most until the end.
        roundings = terms.count + 2
        error = terms.inherited + UNIT * partial + roundings * TINY
        return terms.summed((1.0 + gamma(roundings)) * error, roundings)

    def weighted(self, bias: Vector, terms: Sequence[tuple[Vector, Enclosure]]) -> Enclosure:
        """Terms in order."""
        total = exactly(bias, bias)
        for scale, x in terms:
            total = self.multiply_add(total, exactly(scale, scale), x)
        return total

    def multiply_add(self, start: Enclosure, a: Enclosure, b: Enclosure) -> Enclosure:
        """One rounding, or two."""
        return multiplied_and_added(start, a, b) if self.fused else added(start, multiplied(a, b))

    def activated(self, activation: Activation, x: Enclosure, alpha: float = 1.0) -> Enclosure:
        """By table or polynomial. What goes through the tanh table stays in [-1, 1]."""
        result = through(activation, x, alpha, accuracy.emitted(activation, alpha))
        if activation == "tanh":
            return result.computed_within(-1.0, 1.0)
        if activation in ("sigmoid", "hard_sigmoid"):
            return result.computed_within(0.0, 1.0)
        if activation == "exp":
            saturates = x.both[1] > EXPONENTIAL_LIMIT
            return replace(result, error=np.where(saturates, np.inf, result.error))
        return result

    def _gate(self, biases: Sequence[Vector], sources: Sources) -> Enclosure:
        """t = tanh(gate / 2): the gate is 1/2 + 1/2 t."""
        return self.activated("tanh", self.total(biases, sources).halved())

    def gru(self, op: Gru, x: Enclosure, h: Enclosure) -> Enclosure:
        """n = tanh(a + g' + t g'), h' = 1/2 ((h + n) + t (h - n)), g' half the hidden part.

        Where |h| <= M, a power of two of at least 1, the computed |h'| <= M as well: |n| and |t|
        are at most 1, so |h + n| + |h - n| <= 2M. The larger term is rounded by at most M 2^-24
        and the smaller, itself at most M, by half of that; a float next above 2M is 4M 2^-24
        away, so the sum rounds to 2M at most.
        """
        wr, wz, wn, br, bz, bn = *np.split(op.w_input, 3), *np.split(op.b_input, 3)
        ur, uz, un, cr, cz, cn = *np.split(op.w_hidden, 3), *np.split(op.b_hidden, 3)
        past = self.total([cn], [(un, h)])
        present = self.total([bn], [(wn, x)])
        r = self._gate([br, cr], [(wr, x), (ur, h)])
        half = past.halved()
        inner = self.multiply_add(added(present, half), r, half)
        n = self.activated("tanh", inner.within(*gated_sum(present, _gate_of(r), past)))
        z = self._gate([bz, cz], [(wz, x), (uz, h)])
        twice = self.multiply_add(added(h, n), z, added(h, n.negated()))
        most = _power_of_two(h.reach, 1.0)
        return twice.halved().within(*hull(h, n)).computed_within(-most, most)

    def lstm(
        self, op: Lstm, x: Enclosure, h: Enclosure, c: Enclosure
    ) -> tuple[Enclosure, Enclosure]:
        """c' = 1/2 ((c + t_f c) + (g + t_i g)), h' = 1/2 (tanh c' + t_o tanh c').

        Where |c| <= M, a power of two of at least 2^24, the computed |c'| <= M as well: the
        first term is at most 2M and the second at most 2, half a unit in the last place of 2M,
        which rounds back to 2M (ties to even).
        """
        parts = (np.split(a, 4) for a in (op.bias, op.w_input, op.w_hidden))
        sums = [([bias], [(w, x), (u, h)]) for bias, w, u in zip(*parts, strict=True)]
        i, f, o = (self._gate(*sums[k]) for k in (0, 1, 3))
        g = self.activated("tanh", self.total(*sums[2]))
        new = self.multiply_add(g, i, g)
        twice = added(self.multiply_add(c, f, c), new)
        new = new.halved().within(*product(_gate_of(i), (g.low, g.high)))
        most = _power_of_two(c.reach, _CELL_LIMIT)
        cell = twice.halved().within(*gated_sum(new, _gate_of(f), c)).computed_within(-most, most)
        squashed = self.activated("tanh", cell)
        output = self.multiply_add(squashed, o, squashed).halved()
        output = output.within(*product(_gate_of(o), (squashed.low, squashed.high)))
        return output.computed_within(-1.0, 1.0), cell

    @property
    def exponential(self) -> Accuracy:
        """The accuracy of exp."""
        return accuracy.emitted("exp")


def _gate_of(t: Enclosure) -> Bounds:
    """Exact bounds of the gate 1/2 + 1/2 t."""
    return 0.5 + 0.5 * t.low, 0.5 + 0.5 * t.high


def _power_of_two(values: Doubles, least: float) -> Doubles:
    """The smallest power of two that is no less than a value and `least`."""
    return np.exp2(np.ceil(np.log2(np.maximum(values, least))))
