"""AnyOrder: the arithmetic of a float32 library, such as onnxruntime, that may order and fuse its
sums as it likes and writes the cells with their gates."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgerl.toolchain.bounds import accuracy
from edgerl.toolchain.bounds.accuracy import Accuracy
from edgerl.toolchain.bounds.arithmetic import Sources, Terms, gated_sum, through
from edgerl.toolchain.bounds.enclosure import (
    LARGEST,
    SLACK,
    TINY,
    Doubles,
    Enclosure,
    added,
    exactly,
    gamma,
    hull,
    multiplied,
    settled,
)
from edgerl.toolchain.ir import Activation, Gru, Lstm, Vector


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
        terms = Terms.of(biases, sources)
        roundings = terms.count + len(biases) + self.spare_roundings
        own = gamma(roundings) * (terms.sizes + terms.inherited) + roundings * TINY
        return terms.summed(terms.inherited + own, roundings)

    def weighted(self, bias: Vector, terms: Sequence[tuple[Vector, Enclosure]]) -> Enclosure:
        """Terms in any order, fused or not."""
        total = exactly(bias, bias)
        sizes = np.abs(bias.astype(np.float64))
        inherited: Doubles = np.zeros(1)
        for scale, x in terms:
            total = self.multiply_add(total, exactly(scale, scale), x)
            weight = np.abs(scale.astype(np.float64))
            sizes = sizes + weight * np.maximum(x.reach, x.size)
            inherited = inherited + weight * x.error
        if not terms:
            return total
        roundings = len(terms) + 1 + self.spare_roundings
        own = gamma(roundings) * sizes + roundings * TINY
        error = np.where(sizes <= LARGEST, (inherited + own) * (1.0 + SLACK), np.inf)
        return settled(total.low, total.high, error, total.low - error, total.high + error)

    def multiply_add(self, start: Enclosure, a: Enclosure, b: Enclosure) -> Enclosure:
        """Two roundings; a fused one makes less."""
        return added(start, multiplied(a, b))

    def activated(self, activation: Activation, x: Enclosure, alpha: float = 1.0) -> Enclosure:
        """By the library's own function."""
        return through(activation, x, alpha, accuracy.onnxruntime(activation, alpha))

    def _squashed(self, activation: Activation, x: Enclosure) -> Enclosure:
        """Tanh or sigmoid inside a cell."""
        return through(activation, x, 1.0, accuracy.onnxruntime_cell(activation))

    def gru(self, op: Gru, x: Enclosure, h: Enclosure) -> Enclosure:
        """h' = (1 - z) n + z h or h' = n + z (h - n), whichever loses more."""
        wr, wz, wn, br, bz, bn = *np.split(op.w_input, 3), *np.split(op.b_input, 3)
        ur, uz, un, cr, cz, cn = *np.split(op.w_hidden, 3), *np.split(op.b_hidden, 3)
        past = self.total([cn], [(un, h)])
        present = self.total([bn], [(wn, x)])
        r = self._squashed("sigmoid", self.total([br, cr], [(wr, x), (ur, h)]))
        z = self._squashed("sigmoid", self.total([bz, cz], [(wz, x), (uz, h)]))
        inner = self.multiply_add(present, r, past)
        n = self._squashed("tanh", inner.within(*gated_sum(present, (r.low, r.high), past)))
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
