"""Scaling: real rows to integer rows at the finest scale that provably cannot overflow.

A row in real numbers is bias + sum of W @ x over its sources. Its integer result, after all
shifts, is to be `unit` times that; a stretch that s bits of shifts follow is accumulated at
unit * 2^s. The more bits are shifted out in the end, the more bits the weights have, so the
search begins with many and takes the first that fits.

One 32-bit bias a row starts the accumulation and holds everything constant: the real bias, half
a unit for each shift that rounds down, and the mean of what operands lost to rounding down.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgerl.errors import UserError
from edgerl.toolchain.quantisation.arithmetic import HALVES, Arithmetic
from edgerl.toolchain.quantisation.program import Doubles, Halfword, Product, Rows
from edgerl.toolchain.quantisation.proof import (
    LIMIT,
    Range,
    Ranges,
    Stretch,
    accumulated,
    overflow,
)
from edgerl.toolchain.quantisation.rounding import Coarse
from edgerl.toolchain.quantisation.table import Integers

# Beyond any limit, and far from where int64 ends.
_HUGE = 2.0**40

Start = Callable[[Integers], Range]


@dataclass(frozen=True)
class RealRows:
    """bias [rows] + sum of W [rows, len(x)] @ x, and where it comes from: the tensor that the
    operation writes, and the gate."""

    layer: str
    part: str
    bias: Doubles
    sources: tuple[tuple[str, Doubles], ...]


@dataclass(frozen=True)
class Operands:
    """How the int16 vectors so far are read, and what they can be; and, by layer, how weights are
    rounded that have fewer bits."""

    halfwords: Mapping[str, Halfword]
    ranges: Ranges
    arithmetic: Arithmetic = HALVES
    coarse: Mapping[str, Coarse] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """Integer rows at one choice of scales, and what they come to.

    `weights` are before they were limited to `largest`; `result` is the range after all shifts.
    """

    real: RealRows
    rows: Rows
    bias: Integers
    weights: tuple[Integers, ...]
    totals: tuple[Range, ...]
    result: Range
    largest: int

    @property
    def fits(self) -> npt.NDArray[np.bool_]:
        """Which rows have weights that fit, an int32 bias, and cannot overflow, [rows]."""
        fits = np.abs(self.bias) < LIMIT
        for weights, total in zip(self.weights, self.totals, strict=True):
            fits &= np.abs(weights).max(axis=1, initial=0) <= self.largest
            fits &= total.size < LIMIT
        return fits

    @property
    def refusal(self) -> str:
        """One line about the first row that does not fit."""
        row = int(np.flatnonzero(~self.fits)[0])
        where = f"{self.real.layer} {self.real.part}".rstrip() + f" row {row}"
        for (x, _), weights in zip(self.real.sources, self.weights, strict=True):
            ratio = np.abs(weights[row]).max(initial=0) / self.largest
            if ratio > 1.0:
                return (
                    f"{where}: a weight on {x} times that element's range is {ratio:.3g} times "
                    f"what int{self.largest.bit_length() + 1} weights can scale; it fits with the "
                    "range or the weight so much smaller"
                )
        for (x, _), total in zip(self.real.sources, self.totals, strict=True):
            if total.size[row] >= LIMIT:
                return overflow(Stretch(self.real.layer, self.real.part, x, total), row)
        return f"{where}: its bias is {abs(int(self.bias[row])) / LIMIT:.3g} times what int32 holds"


def candidate(
    real: RealRows,
    unit: npt.ArrayLike,
    shifts: tuple[int, ...],
    operands: Operands,
    start: Start | None = None,
) -> Candidate:
    """`real` in integers, `unit` [rows] or one for all, with a shift after each source.

    `start` gives the range of the accumulation before its products from the bias; by default it
    is the bias itself.
    """
    arithmetic = operands.arithmetic
    units = np.broadcast_to(np.asarray(unit, np.float64), real.bias.shape)
    bias = real.bias * units * 2.0 ** sum(shifts)
    weights = []
    before = 0
    for (x, w), shift in zip(real.sources, shifts, strict=True):
        halfword = operands.halfwords[x]
        finer = 2.0 ** (sum(shifts) - before + arithmetic.dropped)
        integers = _rounded(w * halfword.lsb * (units * finer)[:, np.newaxis])
        lost = integers @ halfword.offset * 2.0**-arithmetic.dropped
        bias = bias + (lost + (0.5 * 2.0**shift if shift else 0.0)) * 2.0**before
        weights.append(integers)
        before += shift
    whole = _rounded(bias)
    largest = arithmetic.largest
    products = tuple(
        Product(
            x, np.clip(w, -largest, largest).astype(arithmetic.integers), shift, arithmetic.width
        )
        for (x, _), w, shift in zip(real.sources, weights, shifts, strict=True)
    )
    rows = Rows(np.clip(whole, -LIMIT, LIMIT).astype(np.int32), products)
    begin = Range(whole, whole) if start is None else start(whole)
    totals, result = accumulated(rows, operands.ranges, begin)
    return Candidate(real, rows, whole, tuple(weights), totals, result, largest)


def first_fitting(steps: Iterable[int], make: Callable[[int], Candidate]) -> tuple[int, Candidate]:
    """The first of the steps, finest first, at which all rows fit, and its candidate.

    Raises UserError, naming layer and row of the last one, when there is none.
    """
    for step in steps:
        tried = make(step)
        if tried.fits.all():
            return step, tried
    raise UserError(tried.refusal)


def _rounded(x: Doubles) -> Integers:
    """To the nearest integer; what is far beyond every limit stays beyond them."""
    return np.rint(np.clip(x, -_HUGE, _HUGE)).astype(np.int64)
