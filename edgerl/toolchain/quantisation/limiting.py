"""Limiting: how much of what a calibration reached integers are to hold.

`minmax` holds everything. `percentile` holds, element by element, the magnitude that so many per
cent of the values stay below. `mse` holds the magnitude whose mean squared error, of rounding
within it and of clipping beyond it, is smallest. The latter two see magnitudes in bins of a
fiftieth, down to a millionth of the largest.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Method = Literal["minmax", "percentile", "mse"]

METHODS: tuple[Method, ...] = get_args(Method)
# Magnitudes in bins, so many to a factor of two, down to 2^-20 of the largest.
_OCTAVE, _OCTAVES = 32, 20
_BINS = _OCTAVE * _OCTAVES


@dataclass(frozen=True)
class Extent:
    """Between which values each element of a tensor lies, [size] each."""

    low: Doubles
    high: Doubles

    @property
    def size(self) -> Doubles:
        """The largest magnitude of each element."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    def joined(self, other: "Extent") -> "Extent":
        """The extent that holds both."""
        return Extent(np.minimum(self.low, other.low), np.maximum(self.high, other.high))


Extents = dict[str, Extent]


@dataclass(frozen=True)
class Limits:
    """How extents are limited: by which method, for integers of how many bits."""

    method: Method
    percentile: float
    bits: int


def limited(batches: Iterable[dict[str, Doubles]], reached: Extents, limits: Limits) -> Extents:
    """Extents limited to the magnitude that the method takes of values in batches, [rows, size]
    of each tensor."""
    counts: dict[str, Counts] = {}
    most = {name: extent.size for name, extent in reached.items()}
    for tensors in batches:
        for name, value in tensors.items():
            size = value.shape[-1]
            with np.errstate(divide="ignore", invalid="ignore"):
                octaves = np.log2(np.abs(value) / most[name]) + _OCTAVES
            place = np.clip(np.nan_to_num(octaves, neginf=0.0) * _OCTAVE, 0, _BINS - 1)
            flat = place.astype(np.int64) + _BINS * np.arange(size)
            added = np.bincount(flat.reshape(-1), minlength=size * _BINS).reshape(size, _BINS)
            counts[name] = counts[name] + added if name in counts else added
    edges = 2.0 ** (np.arange(1, _BINS + 1) / _OCTAVE - _OCTAVES)
    found = dict(reached)
    for name, seen in counts.items():
        chosen = (
            _percentile(seen, limits.percentile)
            if limits.method == "percentile"
            else _least_error(seen, edges, limits.bits)
        )
        end = edges[chosen] * most[name]
        low, high = reached[name].low, reached[name].high
        found[name] = Extent(np.clip(low, -end, end), np.clip(high, -end, end))
    return found


def _percentile(counts: Counts, percentile: float) -> Counts:
    """The bin of each row that so many per cent are not beyond."""
    below = np.cumsum(counts, axis=1)
    wanted = np.ceil(below[:, -1:] * (percentile / 100.0))
    return np.asarray((below < wanted).sum(axis=1), np.int64)


def _least_error(counts: Counts, edges: Doubles, bits: int) -> Counts:
    """The bin of each row whose upper edge as a limit has the least mean squared error."""
    centres = edges * 2.0 ** (-0.5 / _OCTAVE)

    def beyond(power: int) -> Doubles:
        moments = counts * centres**power
        total: Doubles = moments.sum(axis=1, keepdims=True) - np.cumsum(moments, axis=1)
        return total

    clipped = beyond(2) - 2.0 * edges * beyond(1) + edges**2 * beyond(0)
    rounded = counts.sum(axis=1, keepdims=True) * (edges * 2.0 ** (1 - bits)) ** 2 / 12.0
    return np.asarray((clipped + rounded).argmin(axis=1), np.int64)
