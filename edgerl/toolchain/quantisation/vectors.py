"""Vectors: the scales of what is neither a layer nor a gated unit."""

import math
from collections.abc import Sequence

import numpy as np

from edgerl.toolchain.ir import Vector
from edgerl.toolchain.quantisation.program import Doubles, Halfword, Words
from edgerl.toolchain.quantisation.scaling import (
    Candidate,
    Operands,
    RealRows,
    candidate,
    first_fitting,
)

_SHIFTS = range(20, -1, -1)
_MOST_PRODUCT_SHIFT = 30


def picked(parts: Sequence[Halfword], picks: Sequence[tuple[int, int]]) -> Halfword:
    """How elements picked from vectors are read."""
    return Halfword(
        np.array([parts[k].lsb[j] for k, j in picks]),
        np.array([parts[k].offset[j] for k, j in picks]),
        max(part.bits for part in parts),
    )


def alike(one: Halfword, other: Halfword) -> bool:
    """Whether two vectors are read the same."""
    return np.array_equal(one.lsb, other.lsb) and np.array_equal(one.offset, other.offset)


def rescaled(x: str, to: Halfword, operands: Operands, y: str) -> Candidate:
    """Rows whose results are the vector x as `to` is read, saturated where it is beyond."""
    size = to.size
    real = RealRows(y, "", -to.offset * to.lsb, ((x, np.eye(size)),))
    _, chosen = first_fitting(
        _SHIFTS, lambda shift: candidate(real, 1.0 / to.lsb, (shift,), operands)
    )
    return chosen


def limits(low: Vector, high: Vector, read: Halfword) -> tuple[Words, Words]:
    """Limits as integers of a vector, to nearest."""
    half = 1 << (read.bits - 1)
    return _whole(low, read.lsb, read.offset, half), _whole(high, read.lsb, read.offset, half)


def wide_limits(low: Vector, high: Vector, exponent: int) -> tuple[Words, Words]:
    """Limits as integers of an int32 vector of that exponent, to nearest."""
    lsb, offset = np.full(len(low), 2.0**-exponent), np.zeros(len(low))
    return _whole(low, lsb, offset, 1 << 31), _whole(high, lsb, offset, 1 << 31)


def _whole(limit: Vector, lsb: Doubles, offset: Doubles, half: int) -> Words:
    whole = np.rint(np.asarray(limit, np.float64) / lsb - offset)
    return np.clip(whole, -half, half - 1).astype(np.int32)


def product(a: Halfword, b: Halfword, reach: Doubles, bits: int) -> tuple[int, Halfword]:
    """The shift after a product of two vectors, as small as lets so many bits hold `reach`
    [size], and how the result is read."""
    lsb = a.lsb * b.lsb
    most = float((reach / lsb).max()) / ((1 << (bits - 1)) - 1)
    shift = max(0, math.ceil(math.log2(most))) if most > 0.0 else 0
    shift = min(shift, _MOST_PRODUCT_SHIFT)
    return shift, Halfword(lsb * 2.0**shift, np.zeros(a.size), bits)
