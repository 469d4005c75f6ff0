"""Arithmetic: who computes the operations of a Program, and what that adds to the error.

Sums follow Higham (Accuracy and Stability of Numerical Algorithms, 2nd ed., sections 3.1, 3.3
and 4.2): in a known order each partial sum is rounded once, so the error is u times the sum of
the partial sums' sizes; in any order it is gamma_n times the sum of the terms' sizes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgerl.toolchain.bounds import shapes
from edgerl.toolchain.bounds.accuracy import Accuracy
from edgerl.toolchain.bounds.enclosure import (
    LARGEST,
    SLACK,
    TINY,
    Bounds,
    Doubles,
    Enclosure,
    gamma,
    product,
    settled,
)
from edgerl.toolchain.ir import Activation, Gru, Lstm, Matrix, Vector

Sources = Sequence[tuple[Matrix, Enclosure]]


class Arithmetic(Protocol):
    """A way to compute the operations of a Program in float32."""

    def total(self, biases: Sequence[Vector], sources: Sources) -> Enclosure:
        """Sum of biases + sum of W @ x."""
        ...

    def weighted(self, bias: Vector, terms: Sequence[tuple[Vector, Enclosure]]) -> Enclosure:
        """bias + sum of scale * x, element by element."""
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
class Terms:
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
    def of(biases: Sequence[Vector], sources: Sources) -> "Terms":
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
        return Terms(
            count=sum(w.shape[1] for w, _ in sources),
            bias=bias,
            exact=(low, high),
            computed=(least, most),
            inherited=inherited * (1.0 + SLACK),
            sizes=sizes * (1.0 + SLACK),
        )

    def summed(self, error: Doubles, roundings: int) -> Enclosure:
        """The sum, computed with this error in all and so many roundings of any term, unbounded
        where a partial sum may overflow."""
        lost = SLACK * self.sizes
        own = gamma(roundings) * self.sizes + roundings * TINY
        fits = self.sizes + own <= LARGEST
        return settled(
            self.exact[0] - lost,
            self.exact[1] + lost,
            error + lost,
            np.where(fits, self.computed[0] - own - lost, -np.inf),
            np.where(fits, self.computed[1] + own + lost, np.inf),
        )


def through(activation: Activation, x: Enclosure, alpha: float, own: Accuracy) -> Enclosure:
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


def gated_sum(start: Enclosure, gate: Bounds, past: Enclosure) -> Bounds:
    """Exact bounds of start + gate * past."""
    low, high = product(gate, (past.low, past.high))
    lost = SLACK * (start.size + past.size)
    return start.low + low - lost, start.high + high + lost
