"""Arithmetic: who computes, and what that adds to the error.

`Emitted` is the code of the C package: sums run over columns in order, activations come from
the tables, the cells are written with t = tanh(gate / 2) in place of the gate. `AnyOrder` is a
float32 library that may order and fuse its sums as it likes and writes the cells with their
gates, as onnxruntime does.

Sums follow Higham (Accuracy and Stability of Numerical Algorithms, 2nd ed., sections 3.1, 3.3
and 4.2): in a known order each partial sum is rounded once, so the error is u times the sum of
the partial sums' sizes; in any order it is gamma_n times the sum of the terms' sizes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from edgerl.toolchain.bounds import accuracy, shapes
from edgerl.toolchain.bounds.accuracy import EXPONENTIAL_LIMIT, Accuracy
from edgerl.toolchain.bounds.enclosure import (
    LARGEST,
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
    settled,
)
from edgerl.toolchain.ir import Activation, Gru, Lstm, Matrix, Vector

Sources = Sequence[tuple[Matrix, Enclosure]]

# A cell value of 2^24 in float32 takes no increment of at most 2 any more (see Emitted.lstm).
_CELL_LIMIT = 2.0**24


class Arithmetic(Protocol):
    """A way to compute the operations of a Program in float32."""

    def total(self, biases: Sequence[Vector], sources: Sources) -> Enclosure:
        """Sum of biases + sum of W @ x."""
        ...

    def multiply_add(self, start: Enclosure, a: Enclosure, b: Enclosure) -> Enclosure:
        """start + a * b."""
        ...

    def activated(self, activation: Activation, x: Enclosure, alpha: float = 1.0) -> Enclosure:
        """An activation of x."""
        ...

    def gru(self, op: Gru, x: Enclosure, h: Enclosure) -> Enclosure:
        """The next state of a GRU."""
        ...

    def lstm(
        self, op: Lstm, x: Enclosure, h: Enclosure, c: Enclosure
    ) -> tuple[Enclosure, Enclosure]:
        """The next state and the next cell of an LSTM."""
        ...

    @property
    def exponential(self) -> Accuracy:
        """The accuracy of exp."""
        ...

    @property
    def variance_cancels(self) -> bool:
        """Whether a variance may be computed as the mean square minus the squared mean."""
        ...


@dataclass(frozen=True)
class Emitted:
    """The emitted C, its multiply-adds fused or not."""

    fused: bool
    variance_cancels: bool = False

    def total(self, biases: Sequence[Vector], sources: Sources) -> Enclosure:
        """The bias (two of them added and rounded beforehand), then sources in order, then
        columns in order."""
        terms = _Terms.of(biases, sources)
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
        growth = 1.0 + gamma(terms.count + 2)
        return terms.summed(growth * (terms.inherited + UNIT * partial + terms.count * TINY))

    def multiply_add(self, start: Enclosure, a: Enclosure, b: Enclosure) -> Enclosure:
        """One rounding, or two."""
        return multiplied_and_added(start, a, b) if self.fused else added(start, multiplied(a, b))

    def activated(self, activation: Activation, x: Enclosure, alpha: float = 1.0) -> Enclosure:
        """By table or polynomial. What goes through the tanh table stays in [-1, 1]."""
        result = _activated(activation, x, alpha, accuracy.emitted(activation, alpha))
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
        n = self.activated("tanh", inner.within(*_gated_sum(present, _gate_of(r), past)))
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
        cell = twice.halved().within(*_gated_sum(new, _gate_of(f), c)).computed_within(-most, most)
        squashed = self.activated("tanh", cell)
        output = self.multiply_add(squashed, o, squashed).halved()
        output = output.within(*product(_gate_of(o), (squashed.low, squashed.high)))
        return output.computed_within(-1.0, 1.0), cell

    @property
    def exponential(self) -> Accuracy:
        """The accuracy of exp."""
        return accuracy.emitted("exp")


@dataclass(frozen=True)
class AnyOrder:
    """A float32 library such as onnxruntime."""

    variance_cancels: bool = True

    # A graph may spend more roundings than the Program it was lowered to: an input normalised
    # before a product into which the Program folds that, weights folded and rounded once, biases
    # that come in two parts.
    spare_roundings: int = 6

    def total(self, biases: Sequence[Vector], sources: Sources) -> Enclosure:
        """Terms in any order, fused or not."""
        terms = _Terms.of(biases, sources)
        roundings = terms.count + len(biases) + self.spare_roundings
        own = gamma(roundings) * (terms.sizes + terms.inherited) + roundings * TINY
        return terms.summed(terms.inherited + own)

    def multiply_add(self, start: Enclosure, a: Enclosure, b: Enclosure) -> Enclosure:
        """Two roundings; a fused one makes less."""
        return added(start, multiplied(a, b))

    def activated(self, activation: Activation, x: Enclosure, alpha: float = 1.0) -> Enclosure:
        """By the library's own function."""
        return _activated(activation, x, alpha, accuracy.onnxruntime(activation, alpha))

    def _squashed(self, activation: Activation, x: Enclosure) -> Enclosure:
        """Tanh or sigmoid inside a cell."""
        return _activated(activation, x, 1.0, accuracy.onnxruntime_cell(activation))

    def gru(self, op: Gru, x: Enclosure, h: Enclosure) -> Enclosure:
        """h' = (1 - z) n + z h or h' = n + z (h - n), whichever loses more."""
        wr, wz, wn, br, bz, bn = *np.split(op.w_input, 3), *np.split(op.b_input, 3)
        ur, uz, un, cr, cz, cn = *np.split(op.w_hidden, 3), *np.split(op.b_hidden, 3)
        past = self.total([cn], [(un, h)])
        present = self.total([bn], [(wn, x)])
        r = self._squashed("sigmoid", self.total([br, cr], [(wr, x), (ur, h)]))
        z = self._squashed("sigmoid", self.total([bz, cz], [(wz, x), (uz, h)]))
        inner = self.multiply_add(present, r, past)
        n = self._squashed("tanh", inner.within(*_gated_sum(present, (r.low, r.high), past)))
        rest = added(exactly(1.0, 1.0), z.negated())
        mixed = added(multiplied(rest, n), multiplied(z, h))
        moved = added(n, multiplied(z, added(h, n.negated())))
        either = settled(
            np.maximum(mixed.low, moved.low),
            np.minimum(mixed.high, moved.high),
            np.maximum(mixed.error, moved.error),
            np.minimum(mixed.least, moved.least),
            np.maximum(mixed.most, moved.most),
        )
        return either.within(*hull(h, n))

    def lstm(
        self, op: Lstm, x: Enclosure, h: Enclosure, c: Enclosure
    ) -> tuple[Enclosure, Enclosure]:
        """c' = f c + i g, h' = o tanh c'."""
        parts = (np.split(a, 4) for a in (op.bias, op.w_input, op.w_hidden))
        sums = [self.total([bias], [(w, x), (u, h)]) for bias, w, u in zip(*parts, strict=True)]
        i, f, o = (self._squashed("sigmoid", sums[k]) for k in (0, 1, 3))
        cell = added(multiplied(f, c), multiplied(i, self._squashed("tanh", sums[2])))
        return multiplied(o, self._squashed("tanh", cell)), cell

    @property
    def exponential(self) -> Accuracy:
        """The accuracy of exp."""
        return accuracy.onnxruntime("exp")


@dataclass(frozen=True)
class _Terms:
    """What all orders of a sum share: the number of products in a row; by row the bias, the
    exact bounds, those of the sum of the operands as computed, the error that they bring, and
    the sum of all their sizes."""

    count: int
    bias: Doubles
    exact: Bounds
    computed: Bounds
    inherited: Doubles
    sizes: Doubles

    @staticmethod
    def of(biases: Sequence[Vector], sources: Sources) -> "_Terms":
        """The terms of biases and products W @ x."""
        parts = [b.astype(np.float64) for b in biases]
        bias: Doubles = np.sum(parts, axis=0)
        sizes: Doubles = np.sum(np.abs(parts), axis=0)
        low, high, least, most, inherited = bias, bias, bias, bias, np.zeros(1)
        for w, x in sources:
            # A zero weight on an unbounded value is undefined here, as it is NaN in C.
            rising, falling = (f(w.astype(np.float64), 0.0).T for f in (np.maximum, np.minimum))
            low = low + (x.low @ rising + x.high @ falling)
            high = high + (x.high @ rising + x.low @ falling)
            least = least + (x.least @ rising + x.most @ falling)
            most = most + (x.most @ rising + x.least @ falling)
            inherited = inherited + x.error @ (rising - falling)
            sizes = sizes + np.maximum(x.reach, x.size) @ (rising - falling)
        return _Terms(
            count=sum(w.shape[1] for w, _ in sources),
            bias=bias,
            exact=(low, high),
            computed=(least, most),
            inherited=inherited * (1.0 + SLACK),
            sizes=sizes * (1.0 + SLACK),
        )

    def summed(self, error: Doubles) -> Enclosure:
        """The sum, computed with this error in all, unbounded where a partial sum may overflow."""
        lost = SLACK * self.sizes
        own = gamma(self.count + 2) * self.sizes + self.count * TINY
        fits = self.sizes + own <= LARGEST
        return settled(
            self.exact[0] - lost,
            self.exact[1] + lost,
            error + lost,
            np.where(fits, self.computed[0] - own - lost, -np.inf),
            np.where(fits, self.computed[1] + own + lost, np.inf),
        )


def _activated(activation: Activation, x: Enclosure, alpha: float, own: Accuracy) -> Enclosure:
    """The exact image, and the error of the argument carried over plus the function's own."""
    low, high = shapes.image(activation, x.low, x.high, alpha)
    least, most = shapes.image(activation, x.least, x.most, alpha)
    carried = shapes.slope(activation, *x.both, alpha) * x.error
    if activation == "sqrt":  # infinitely steep at zero, but no farther than the root
        carried = np.minimum(carried, np.sqrt(x.error))
        least = np.where(x.least < 0.0, np.nan, least)
    # Two values of a function are no farther apart than all its values there.
    carried = np.fmin(carried, np.maximum(high, most) - np.minimum(low, least))
    made = own.at(x.reach, np.maximum(np.abs(least), np.abs(most))) + TINY
    fits = np.isfinite(x.reach) & np.isfinite(made)
    return settled(
        low,
        high,
        np.where(fits, carried + made, np.inf),
        np.where(fits, least - made, -np.inf),
        np.where(fits, most + made, np.inf),
    )


def _gate_of(t: Enclosure) -> Bounds:
    """Exact bounds of the gate 1/2 + 1/2 t."""
    return 0.5 + 0.5 * t.low, 0.5 + 0.5 * t.high


def _gated_sum(start: Enclosure, gate: Bounds, past: Enclosure) -> Bounds:
    """Exact bounds of start + gate * past."""
    low, high = product(gate, (past.low, past.high))
    lost = SLACK * (start.size + past.size)
    return start.low + low - lost, start.high + high + lost


def _power_of_two(values: Doubles, least: float) -> Doubles:
    """The smallest power of two that is no less than a value and `least`."""
    return np.exp2(np.ceil(np.log2(np.maximum(values, least))))
