"""Curves: any activation as an activation table of its own, over the range that it is read in.

The cells are those of `table.py`, with edges at multiples of their width, so that a function's
kink, at zero or where its pieces end, lies between two. The argument is counted from the middle
of the range and a value is int16 after a shift by 16, so that both are used whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgerl.errors import UserError
from edgerl.toolchain import interpreter
from edgerl.toolchain.ir import Activate, Activation, Program
from edgerl.toolchain.quantisation.limiting import Extent, Extents
from edgerl.toolchain.quantisation.table import CELL_BITS, VALUE_BITS, Table, low_half

Doubles = npt.NDArray[np.float64]

MOST_INDEX_BITS = 10
# Of a curve's largest value: an error that more cells are not spent on, and one too large.
_FINE_ERROR = 2.0**-12
_COARSE_ERROR = 2.0**-9
_SAMPLES = 65
_LARGEST_VALUE = (1 << 15) - 1
_LARGEST_SLOPE = (1 << 15) - 1
# Straight pieces leave the curve by a little, in int32 as well.
_UNITS = 2.0**31 * (1.0 - 2.0**-8)
# Widths are rounded up to so many bits, or the last bit of somebody's sums would decide them.
_WIDTH_BITS = 10
# Where pieces of a function meet at an angle, beside zero.
_KINKS = {"hard_sigmoid": 3.0, "hard_swish": 3.0}


def curve_table(
    activation: Activation, alpha: float, low: float, high: float, index_bits: int
) -> Table:
    """The table of an activation for arguments from `low` to `high`: of 2^index_bits cells, more
    where that many are not enough for an error of 2^-12 of the largest value, at most 2^10.

    `error` is measured on a grid of each cell. Raises UserError where the best is worse than 2^-9
    of the largest value: the function is too steep or too long for straight pieces.
    """
    for bits in range(index_bits, MOST_INDEX_BITS + 1):
        table, relative = _fitted(activation, alpha, low, high, bits)
        if relative <= _FINE_ERROR:
            break
    if relative > _COARSE_ERROR:
        raise UserError(
            f"{activation} over [{low:.3g}, {high:.3g}] is too steep or too long for a table of "
            f"2^{MOST_INDEX_BITS} cells (error {relative:.2g} of its largest value); calibrate "
            "with a narrower range, away from its pole, or compile with format f32"
        )
    return table


def _fitted(
    activation: Activation, alpha: float, low: float, high: float, bits: int
) -> tuple[Table, float]:
    """The table of so many cells, and its error over the largest value."""
    count = 1 << bits
    width = _width(activation, (high - low) / (count - 1))
    first = int(np.floor(low / width))
    edges = (first + np.arange(count + 1)) * width
    offsets = np.linspace(0, (1 << CELL_BITS) - 1, _SAMPLES).astype(np.int64)
    x = edges[:-1, np.newaxis] + offsets * (width * 2.0**-CELL_BITS)
    with np.errstate(all="ignore"):
        wanted, ends = (interpreter.activate(activation, at, alpha) for at in (x, edges))
    # Cells beyond the range are there because there are so many; they hold its end.
    inside = (edges[:-1] < high) & (edges[1:] > low)
    wanted = wanted[inside]
    # A function may be zero on all of it.
    largest = float(np.abs(wanted).max()) or 1.0
    if not (np.isfinite(wanted).all() and np.isfinite(ends[:-1][inside]).all()):
        return _nothing(bits), np.inf
    unit = largest / _UNITS
    v = (np.arange(-(count >> 1), count >> 1)[inside, np.newaxis] << CELL_BITS) + offsets
    rise = np.diff(np.stack([ends[:-1], ends[1:]]), axis=0)[0][inside]
    slope = np.rint(np.nan_to_num(rise) / (unit * (1 << CELL_BITS)))
    if np.abs(slope).max() > _LARGEST_SLOPE:
        return _nothing(bits), np.inf
    rest = wanted / unit - slope[:, np.newaxis] * (low_half(v) + 1)
    middle = 0.5 * (rest.max(axis=1) + rest.min(axis=1)) / (1 << VALUE_BITS)
    value = np.clip(np.rint(middle), -_LARGEST_VALUE, _LARGEST_VALUE)
    word = (value.astype(np.int64) << VALUE_BITS) + slope.astype(np.int64)
    start, last = np.flatnonzero(inside)[[0, -1]].tolist()
    words = np.zeros(count, np.int64)
    words[inside] = word
    words[:start], words[last + 1 :] = (
        _level(float(end), unit) for end in (ends[start], ends[last + 1])
    )
    table = Table(bits, 0.5 * count * width, words.astype(np.int32), 0.0)
    error = float(np.abs(table.look_up(v) * unit - wanted).max())
    centre = (first + (count >> 1)) * width
    done = Table(bits, table.reach, table.words, error, centre=centre, unit=unit)
    return done, error / largest


def _level(end: float, unit: float) -> int:
    """The word of a piece that stays at a value."""
    value = np.rint(np.nan_to_num(end) / (unit * (1 << VALUE_BITS)))
    return int(np.clip(value, -_LARGEST_VALUE, _LARGEST_VALUE)) << VALUE_BITS


def _width(activation: Activation, least: float) -> float:
    """A cell's width, no less than `least`, that the function's kinks are multiples of."""
    fraction, exponent = np.frexp(least)
    width = float(np.ldexp(np.ceil(np.ldexp(fraction, _WIDTH_BITS)), exponent - _WIDTH_BITS))
    kink = _KINKS.get(activation, 0.0)
    return kink / np.floor(kink / width) if width <= kink else width


def _nothing(bits: int) -> Table:
    return Table(bits, 1.0, np.zeros(1 << bits, np.int32), np.inf)


@dataclass(frozen=True)
class Curves:
    """The curves of a program by name, and which of them each activation reads, by the tensor
    that it writes."""

    tables: dict[str, Table]
    of: dict[str, str]


def curves(program: Program, extents: Extents, margin: float, index_bits: int) -> Curves:
    """A table for every activation, over the extent of what it reads with a margin.

    Activations of one kind share a table where its range is at most twice that of each: half of
    a table unused costs a bit and saves its flash.
    """
    ranges: dict[str, tuple[float, float]] = {}
    kinds: dict[tuple[Activation, float], list[Activate]] = {}
    for op in program.operations:
        if isinstance(op, Activate):
            ranges[op.x] = _widened(extents[op.x], margin)
            kinds.setdefault((op.activation, op.alpha), []).append(op)
    tables: dict[str, Table] = {}
    of: dict[str, str] = {}
    for (activation, alpha), members in kinds.items():
        for low, high, sharing in _shared(members, ranges):
            name = f"{activation}_{len(tables)}"
            try:
                tables[name] = curve_table(activation, alpha, low, high, index_bits)
            except UserError as refused:
                raise UserError(f"{sharing[0].y}: {refused}") from refused
            of |= {op.y: name for op in sharing}
    return Curves(tables, of)


def _widened(extent: Extent, margin: float) -> tuple[float, float]:
    """An extent's ends, each so many times as far out; where all of it lies on one side of zero,
    its near end so many times as near."""
    low, high = float(extent.low.min()), float(extent.high.max())
    low = low * margin if low < 0.0 else low / margin
    high = high * margin if high > 0.0 else high / margin
    return (low, high) if low < high else (low - 1.0, high + 1.0)


def _shared(
    members: list[Activate], ranges: Mapping[str, tuple[float, float]]
) -> list[tuple[float, float, list[Activate]]]:
    """The members in groups that one range serves: its ends, and who they are."""

    def width(op: Activate) -> float:
        low, high = ranges[op.x]
        return high - low

    groups: list[tuple[float, float, list[Activate]]] = []
    for op in sorted(members, key=width, reverse=True):
        low, high = ranges[op.x]
        for k, (least, most, sharing) in enumerate(groups):
            wider = min(least, low), max(most, high)
            if wider[1] - wider[0] <= 2.0 * width(op):
                groups[k] = (*wider, [*sharing, op])
                break
        else:
            groups.append((low, high, [op]))
    return groups
