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
    """A vector [..., n]: its exact value lies in [low, high], its computed value differs from
    that by at most `error` and is nowhere larger than `reach`."""

    low: Doubles
    high: Doubles
    error: Doubles
    reach: Doubles

    @property
    def size(self) -> Doubles:
        """The largest magnitude of the exact value."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    @property
    def widened(self) -> tuple[Doubles, Doubles]:
        """The interval that holds the exact and the computed value."""
        computed = np.where(np.isfinite(self.error), self.error, np.inf)
        return self.low - computed, self.high + computed

    def within(self, low: npt.ArrayLike, high: npt.ArrayLike) -> "Enclosure":
        """The same vector, its exact value known to lie in [low, high] too."""
        return replace(self, low=np.maximum(self.low, low), high=np.minimum(self.high, high))

    def reaching(self, most: npt.ArrayLike) -> "Enclosure":
        """The same vector, its computed value known not to exceed `most` in size, unless it
        overflows."""
        known = np.minimum(self.reach, most)
        return replace(self, reach=np.where(np.isfinite(self.error), known, np.inf))

    def halved(self) -> "Enclosure":
        """Half of it; powers of two scale without rounding."""
        return Enclosure(0.5 * self.low, 0.5 * self.high, 0.5 * self.error, 0.5 * self.reach)

    def negated(self) -> "Enclosure":
        """Its opposite."""
        return replace(self, low=-self.high, high=-self.low)

    def take(self, rows: npt.ArrayLike) -> "Enclosure":
        """Some of its elements."""
        parts = (self.low, self.high, self.error, self.reach)
        return Enclosure(*(part[..., np.asarray(rows)] for part in parts))


def exactly(low: npt.ArrayLike, high: npt.ArrayLike) -> Enclosure:
    """Float32 values between two bounds, computed without error."""
    lower, upper = np.asarray(low, np.float64), np.asarray(high, np.float64)
    return settled(lower, upper, np.zeros_like(lower), np.maximum(np.abs(lower), np.abs(upper)))


def joined(parts: Sequence[Enclosure]) -> Enclosure:
    """Vectors one after the other."""
    fields = zip(*((p.low, p.high, p.error, p.reach) for p in parts), strict=True)
    shape = np.broadcast_shapes(*(p.low.shape[:-1] for p in parts))
    return Enclosure(
        *(
            np.concatenate([np.broadcast_to(v, (*shape, v.shape[-1])) for v in field], axis=-1)
            for field in fields
        )
    )


def settled(low: Doubles, high: Doubles, error: Doubles, reach: Doubles) -> Enclosure:
    """An enclosure in which whatever is undefined or too large to be a float is unbounded."""
    low = np.where(np.isnan(low) | (low < -LARGEST), -np.inf, low)
    high = np.where(np.isnan(high) | (high > LARGEST), np.inf, high)
    lost = np.isnan(error) | np.isnan(reach) | ~(reach <= LARGEST)
    return Enclosure(
        low, high, np.where(lost, np.inf, error), np.where(lost, np.inf, reach)
    )


def rounded(low: Doubles, high: Doubles, inherited: Doubles) -> Enclosure:
    """The result of one operation: exact bounds, the error its operands bring, and its own
    rounding."""
    size = np.maximum(np.abs(low), np.abs(high)) * (1.0 + SLACK)
    arrived = (size + inherited) * (1.0 + SLACK)
    own = UNIT * arrived + TINY
    margin = SLACK * size
    return settled(low - margin, high + margin, (inherited + own) * (1.0 + SLACK), arrived + own)


def added(a: Enclosure, b: Enclosure) -> Enclosure:
    """a + b, rounded."""
    return rounded(a.low + b.low, a.high + b.high, a.error + b.error)


def product(a: Enclosure, b: Enclosure) -> tuple[Doubles, Doubles, Doubles]:
    """Exact bounds of a * b, and the error that the operands bring."""
    corners = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
    # Undefined corners (zero times infinity) poison the result, as they should.
    low, high = np.minimum.reduce(corners), np.maximum.reduce(corners)
    return low, high, a.size * b.error + b.size * a.error + a.error * b.error


def multiplied(a: Enclosure, b: Enclosure) -> Enclosure:
    """a * b, rounded."""
    return rounded(*product(a, b))


def divided(a: Enclosure, b: Enclosure) -> Enclosure:
    """a / b, rounded; unbounded where b, as computed, may be zero."""
    low, high = b.widened
    least = np.where((low > 0.0) | (high < 0.0), np.minimum(np.abs(low), np.abs(high)), 0.0)
    corners = [x / y for x in (a.low, a.high) for y in (b.low, b.high)]
    lower, upper = np.minimum.reduce(corners), np.maximum.reduce(corners)
    inherited = (a.error + np.maximum(np.abs(lower), np.abs(upper)) * b.error) / least
    unknown = least == 0.0
    return rounded(
        np.where(unknown, -np.inf, lower),
        np.where(unknown, np.inf, upper),
        np.where(unknown, np.inf, inherited),
    )


def hull(a: Enclosure, b: Enclosure) -> tuple[Doubles, Doubles]:
    """Exact bounds of anything between a and b."""
    return np.minimum(a.low, b.low), np.maximum(a.high, b.high)
