"""Enclosures: intervals of exact values together with bounds on the error of computed ones.

The model of arithmetic is the standard one (Higham, Accuracy and Stability of Numerical
Algorithms, 2nd ed., SIAM 2002, sections 2.2 and 2.8): a float32 operation gives the exact
result times 1 + d with |d| <= u = 2^-24, plus at most the smallest positive float32 where the
result is subnormal. It holds while nothing overflows. A value beyond `LARGEST` counts as
overflown, which is early enough for the powers of two that the emitted code scales by; from
there on nothing is claimed, and every bound that depends on it is infinite.

The analysis itself runs in float64; whatever it rounds is covered by `SLACK`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Bounds = tuple[Doubles, Doubles]

UNIT = 2.0**-24
TINY = 2.0**-149
LARGEST = float(np.finfo(np.float32).max) / 16.0
# Relative to the sum of the sizes of all terms; float64 loses 2^-53 a term.
SLACK = 2.0**-36


def gamma(roundings: int) -> float:
    """Bound on the relative error of so many roundings in a row (Higham, lemma 3.1)."""
    return roundings * UNIT / (1.0 - roundings * UNIT)


@dataclass(frozen=True)
class Enclosure:
    """A vector [..., n]: its exact value lies in [low, high], its computed value lies in
    [least, most] and differs from the exact one by at most `error`."""

    low: Doubles
    high: Doubles
    error: Doubles
    least: Doubles
    most: Doubles

    @property
    def size(self) -> Doubles:
        """The largest magnitude of the exact value."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    @property
    def reach(self) -> Doubles:
        """The largest magnitude of the computed value."""
        return np.maximum(np.abs(self.least), np.abs(self.most))

    @property
    def both(self) -> tuple[Doubles, Doubles]:
        """The interval that holds the exact and the computed value."""
        return np.minimum(self.low, self.least), np.maximum(self.high, self.most)

    def within(self, low: npt.ArrayLike, high: npt.ArrayLike) -> "Enclosure":
        """The same vector, its exact value known to lie in [low, high] too."""
        return replace(self, low=np.maximum(self.low, low), high=np.minimum(self.high, high))

    def computed_within(self, least: npt.ArrayLike, most: npt.ArrayLike) -> "Enclosure":
        """The same vector, its computed value known to lie in [least, most] unless something
        overflows on the way."""
        known = np.isfinite(self.reach)
        return replace(
            self,
            least=np.where(known, np.maximum(self.least, least), self.least),
            most=np.where(known, np.minimum(self.most, most), self.most),
        )

    def halved(self) -> "Enclosure":
        """Half of it; powers of two scale without rounding."""
        return Enclosure(*(0.5 * part for part in self._parts))

    def negated(self) -> "Enclosure":
        """Its opposite."""
        return Enclosure(-self.high, -self.low, self.error, -self.most, -self.least)

    def take(self, rows: npt.ArrayLike) -> "Enclosure":
        """Some of its elements."""
        return Enclosure(*(part[..., np.asarray(rows)] for part in self._parts))

    @property
    def _parts(self) -> tuple[Doubles, ...]:
        return self.low, self.high, self.error, self.least, self.most


def exactly(low: npt.ArrayLike, high: npt.ArrayLike) -> Enclosure:
    """Float32 values between two bounds, computed without error."""
    lower, upper = np.asarray(low, np.float64), np.asarray(high, np.float64)
    return settled(lower, upper, np.zeros_like(lower), lower, upper)


def side_by_side(parts: Sequence[Enclosure]) -> Enclosure:
    """Vectors one after the other, leading axes broadcast."""
    batch = np.broadcast_shapes(*(part.low.shape[:-1] for part in parts))

    def joined(values: Sequence[Doubles]) -> Doubles:
        return np.concatenate([np.broadcast_to(v, (*batch, v.shape[-1])) for v in values], axis=-1)

    return Enclosure(
        joined([p.low for p in parts]),
        joined([p.high for p in parts]),
        joined([p.error for p in parts]),
        joined([p.least for p in parts]),
        joined([p.most for p in parts]),
    )


def settled(
    low: Doubles, high: Doubles, error: Doubles, least: Doubles, most: Doubles
) -> Enclosure:
    """The enclosure with these bounds, each sharpened by the others, and without a bound where
    one is undefined or larger than a float may be."""
    low = np.where(np.isnan(low) | (low < -LARGEST), -np.inf, low)
    high = np.where(np.isnan(high) | (high > LARGEST), np.inf, high)
    error = np.where(np.isnan(error), np.inf, error)
    # What was computed without error needs no room for the roundings of the analysis.
    room = np.where(error > 0.0, error + SLACK * np.maximum(np.abs(low), np.abs(high)), 0.0)
    # fmax and fmin pass over what is undefined.
    least, most = np.fmax(least, low - room), np.fmin(most, high + room)
    lost = ~(np.maximum(np.abs(least), np.abs(most)) <= LARGEST)
    return Enclosure(
        low,
        high,
        np.where(lost, np.inf, error),
        np.where(lost, -np.inf, least),
        np.where(lost, np.inf, most),
    )


def rounded(exact: Bounds, inherited: Doubles, computed: Bounds) -> Enclosure:
    """The result of one operation: its exact bounds, the error its operands bring, and the
    bounds of what it makes of the computed operands before it rounds."""
    low, high = exact
    size = np.maximum(np.abs(low), np.abs(high)) * (1.0 + SLACK)
    largest = np.maximum(np.abs(computed[0]), np.abs(computed[1])) * (1.0 + SLACK)
    own = UNIT * np.fmin(size + inherited, largest) * (1.0 + SLACK) + TINY
    margin, outside = SLACK * size, 2.0 * UNIT * largest + TINY
    return settled(
        low - margin,
        high + margin,
        (inherited + own) * (1.0 + SLACK),
        computed[0] - outside,
        computed[1] + outside,
    )


def added(a: Enclosure, b: Enclosure) -> Enclosure:
    """a + b, rounded."""
    return rounded(
        (a.low + b.low, a.high + b.high), a.error + b.error, (a.least + b.least, a.most + b.most)
    )


def multiplied(a: Enclosure, b: Enclosure) -> Enclosure:
    """a * b, rounded."""
    return rounded(*products(a, b))


def multiplied_and_added(start: Enclosure, a: Enclosure, b: Enclosure) -> Enclosure:
    """start + a * b, rounded once."""
    (low, high), inherited, (least, most) = products(a, b)
    return rounded(
        (start.low + low, start.high + high),
        start.error + inherited,
        (start.least + least, start.most + most),
    )


def products(a: Enclosure, b: Enclosure) -> tuple[Bounds, Doubles, Bounds]:
    """Bounds of a * b, exact and computed but not yet rounded, and between them the error that
    the operands bring."""
    exact = product((a.low, a.high), (b.low, b.high))
    # One of the two factors moves first, so that the other is exact or computed.
    inherited = np.fmin(a.size * b.error + b.reach * a.error, b.size * a.error + a.reach * b.error)
    return exact, inherited, product((a.least, a.most), (b.least, b.most))


def product(a: Bounds, b: Bounds) -> Bounds:
    """Bounds of the products of two intervals; zero times infinity poisons them."""
    corners = [x * y for x in a for y in b]
    return np.minimum.reduce(corners), np.maximum.reduce(corners)


def divided(a: Enclosure, b: Enclosure) -> Enclosure:
    """a / b, rounded; unbounded where b may be zero, exact or computed."""
    below, above = b.both
    exact = _quotient((a.low, a.high), (b.low, b.high))
    nearest = np.minimum(np.abs(b.least), np.abs(b.most))
    inherited = (a.error + np.maximum(np.abs(exact[0]), np.abs(exact[1])) * b.error) / nearest
    unknown = (below <= 0.0) & (above >= 0.0)
    computed = _quotient((a.least, a.most), (b.least, b.most))
    return rounded(
        (np.where(unknown, -np.inf, exact[0]), np.where(unknown, np.inf, exact[1])),
        np.where(unknown, np.inf, inherited),
        (np.where(unknown, -np.inf, computed[0]), np.where(unknown, np.inf, computed[1])),
    )


def _quotient(a: Bounds, b: Bounds) -> Bounds:
    corners = [x / y for x in a for y in b]
    return np.minimum.reduce(corners), np.maximum.reduce(corners)


def hull(a: Enclosure, b: Enclosure) -> Bounds:
    """Exact bounds of anything between a and b."""
    return np.minimum(a.low, b.low), np.maximum(a.high, b.high)
