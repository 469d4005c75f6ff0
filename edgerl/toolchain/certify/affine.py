"""Affine forms: quantities that share their unknowns, so that what cancels does cancel.

A form is centre + noise @ e with every unknown e in [-1, 1] (de Figueiredo and Stolfi, Affine
arithmetic: concepts and applications, Numerical Algorithms 37, 2004). Matrices act on forms
exactly; a factor or slope of which only an interval is known acts by its middle, and its other
half becomes an unknown of its own.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Form:
    """A vector [n] over the unknowns so far: `centre` [n], `noise` [n, k]. Unknowns that came
    later have no part in it."""

    centre: Doubles
    noise: Doubles

    @property
    def radius(self) -> Doubles:
        """How far it can be from its centre."""
        total: Doubles = np.abs(self.noise).sum(axis=1)
        return total

    @property
    def size(self) -> Doubles:
        """The largest magnitude."""
        return np.abs(self.centre) + self.radius

    @property
    def low(self) -> Doubles:
        """The least value."""
        return self.centre - self.radius

    @property
    def high(self) -> Doubles:
        """The largest value."""
        return self.centre + self.radius

    def plus(self, other: "Form") -> "Form":
        """The sum, unknown by unknown."""
        most = max(self.noise.shape[1], other.noise.shape[1])
        noise = sum(np.pad(f.noise, ((0, 0), (0, most - f.noise.shape[1]))) for f in (self, other))
        return Form(self.centre + other.centre, np.asarray(noise))

    def under(self, matrix: Doubles) -> "Form":
        """matrix [m, n] @ this."""
        return Form(matrix @ self.centre, matrix @ self.noise)

    def times(self, factor: Doubles) -> "Form":
        """Element by element."""
        return Form(self.centre * factor, self.noise * factor[:, np.newaxis])

    def taken(self, rows: list[int]) -> "Form":
        """Some of its elements."""
        return Form(self.centre[rows], self.noise[rows])


@dataclass
class Unknowns:
    """The unknowns of an analysis, handed out once each."""

    count: int = field(default=0)

    def within(self, low: npt.ArrayLike, high: npt.ArrayLike) -> Form:
        """A vector [n] of which each element is somewhere in its interval, of its own."""
        least, most = np.broadcast_arrays(np.asarray(low, np.float64), np.asarray(high, np.float64))
        start, n = self.count, len(least)
        self.count += n
        noise = np.zeros((n, self.count))
        noise[:, start:] = np.diag(0.5 * (most - least))
        return Form(0.5 * (least + most), noise)

    def scaled(self, form: Form, low: Doubles, high: Doubles) -> Form:
        """A form times factors of which each is somewhere in its interval."""
        rest = 0.5 * (high - low) * form.size
        return form.times(0.5 * (low + high)).plus(self.within(-rest, rest))

    def capped(self, form: Form, low: Doubles, high: Doubles) -> Form:
        """A form that is known to be in [low, high] too: where that says more, only that."""
        loose = form.size > np.maximum(np.abs(low), np.abs(high))
        kept = form.times(np.where(loose, 0.0, 1.0))
        return kept.plus(self.within(np.where(loose, low, 0.0), np.where(loose, high, 0.0)))


def exact(n: int) -> Form:
    """A vector of zeros."""
    return Form(np.zeros(n), np.zeros((n, 0)))
