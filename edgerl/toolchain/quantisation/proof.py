"""The proof that no int32 overflows, from the quantised integers themselves.

Ranges are propagated through a FixedProgram as exact intervals of integers: an input is any
int16 whatever the observation, a state anything that it can ever be. The range of a row is its
bias plus, column by column, the weight times whichever end of the column's range is worse. Every
column's range holds zero, so each partial sum, in any order of the columns and any grouping,
lies within the range of bias and whole: the proof covers every order of summation.

Every step keeps a hidden state's range: h' lies between h and n/2, to nearest, or is o * t / 2 with
o below 1. A cell is saturated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgerl.errors import UserError
from edgerl.toolchain.quantisation.arithmetic import (
    STATE_BITS,
    curve_shift,
    sigmoid_shift,
    state_shift,
    upper,
)
from edgerl.toolchain.quantisation.cubic import CubicTable
from edgerl.toolchain.quantisation.program import (
    WIDTH,
    Doubles,
    FixedArgMax,
    FixedClip,
    FixedDense,
    FixedGather,
    FixedGru,
    FixedInput,
    FixedLstm,
    FixedMultiply,
    FixedOutput,
    FixedProgram,
    Form,
    Halfword,
    Rows,
    Words,
    gates,
)
from edgerl.toolchain.quantisation.table import FRACTION, Integers, Table

INT32 = 1 << 31
# What an accumulator must stay below: less than int32 holds by the most that saturation to a
# table's argument may add or subtract where it compares.
LIMIT = INT32 - (1 << 24)
_ONE = 1 << FRACTION


@dataclass(frozen=True)
class Range:
    """Least and largest integer of each element of a vector, int64."""

    low: Integers
    high: Integers

    @property
    def size(self) -> Integers:
        """The largest magnitude of each element."""
        return np.maximum(np.abs(self.low), np.abs(self.high))


Ranges = Mapping[str, Range]


@dataclass(frozen=True)
class Stretch:
    """What the rows of a stretch of an accumulation can be, before its shift.

    `layer` is the tensor that the operation writes, `part` the gate (empty for a dense layer),
    `x` the vector multiplied. `limit` is what it must stay below.
    """

    layer: str
    part: str
    x: str
    total: Range
    limit: int = LIMIT

    @property
    def ratios(self) -> Doubles:
        """The largest magnitude of each row over its limit: proved where below 1."""
        return self.total.size / self.limit


def stretches(program: FixedProgram) -> tuple[Stretch, ...]:
    """Every accumulation of a program and every other int32 that sums make, in order."""
    return propagated(program)[1]


def propagated(
    program: FixedProgram, observed: Range | None = None
) -> tuple[dict[str, Range], tuple[Stretch, ...]]:
    """What every vector of integers can be, as matrices read it where it is a state, and every
    int32 that sums make. `observed` is what the observation in integers can be, by default
    anything that it has bits for."""
    ranges: dict[str, Range] = {}
    found: list[Stretch] = []
    cells = {operation.c for operation in program.operations if isinstance(operation, FixedLstm)}
    for before, _ in program.states:
        read = program.halfwords[before]
        if before not in program.recurrent:
            ranges[before] = any_halfword(read)
        else:
            cell = before in cells
            ranges[before] = packed_cell(read) if cell else packed_state(program.table, read)
    for operation in program.operations:
        match operation:
            case FixedInput(y=y):
                ranges[y] = observed or any_halfword(program.halfwords[y])
            case FixedDense(rows, form, y, curve):
                totals, result = accumulated(rows, ranges, at(rows))
                found += _named(y, "", rows, totals)
                bits = program.halfwords[y].bits if y in program.halfwords else WIDTH
                table = program.table if curve is None else program.curves[curve]
                ranges[y] = formed(result, form, table, bits)
            case FixedGru(h_next=h_next):
                found += _gru(operation, ranges, program.table)
                ranges[h_next] = packed_state(program.table, program.halfwords[h_next])
            case FixedLstm(h_next=h_next, c_next=c_next):
                found += _lstm(operation, ranges, program.table)
                ranges[h_next] = packed_state(program.table, program.halfwords[h_next])
                ranges[c_next] = packed_cell(program.halfwords[c_next])
            case FixedGather(sources, picks, y):
                ranges[y] = gathered([ranges[x] for x in sources], picks)
            case FixedClip(x, low, high, y):
                ranges[y] = clipped(ranges[x], low, high)
            case FixedMultiply(a, b, shift, y):
                bits = program.halfwords[y].bits
                whole, ranges[y] = multiplied(ranges[a], ranges[b], shift, bits)
                found.append(Stretch(y, "product", a, whole, INT32))
            case FixedArgMax(x, y):
                size = len(ranges[x].low)
                ranges[y] = Range(np.zeros(1, np.int64), np.full(1, size - 1))
            case FixedOutput():
                pass
    return ranges, tuple(found)


def require_no_overflow(program: FixedProgram) -> float:
    """The largest ratio of any accumulator to its limit, below 1.

    Raises UserError, naming layer, row, and what would make it provable, where one may overflow.
    """
    worst = 0.0
    for stretch in stretches(program):
        row = int(stretch.ratios.argmax())
        ratio = float(stretch.ratios[row])
        if ratio >= 1.0:
            raise UserError(overflow(stretch, row))
        worst = max(worst, ratio)
    return worst


def overflow(stretch: Stretch, row: int) -> str:
    """One line about a row that may overflow."""
    part = f" {stretch.part}" if stretch.part else ""
    ratio = float(stretch.ratios[row])
    return (
        f"{stretch.layer}{part} row {row}: its accumulator can reach {ratio:.4g} x 2^31, so int32 "
        f"may overflow; it is provable with the range of {stretch.x} or the row's weights "
        f"{ratio:.3g} times smaller"
    )


def any_halfword(read: Halfword) -> Range:
    """Any integer of a vector's bits: an observation."""
    half = 1 << (read.bits - 1)
    return Range(np.full(read.size, -half), np.full(read.size, half - 1))


def packed_cell(read: Halfword) -> Range:
    """Any cell as matrices read it."""
    half, shift = 1 << (STATE_BITS - 1), state_shift(read.bits)
    return Range(np.full(read.size, -half >> shift), np.full(read.size, half - 1 >> shift))


def packed_state(table: Table | CubicTable, read: Halfword) -> Range:
    """A hidden state as matrices read it."""
    reach, shift = state_reach(table), state_shift(read.bits)
    return Range(np.full(read.size, -reach >> shift), np.full(read.size, reach >> shift))


def state_reach(table: Table | CubicTable) -> int:
    """The largest magnitude of a state in Q29: half the table's in Q30, rounded up."""
    low, high = table.ends
    return (max(-low, high) + 1) // 2


def at(rows: Rows) -> Range:
    """The range of an accumulation before its products: its bias."""
    bias = rows.bias.astype(np.int64)
    return Range(bias, bias)


def accumulated(rows: Rows, ranges: Ranges, start: Range) -> tuple[tuple[Range, ...], Range]:
    """The range of each stretch before its shift, and of the result after all."""
    totals = []
    low, high = start.low, start.high
    for product in rows.products:
        weights, x = product.weights.astype(np.int64), ranges[product.x]
        # Zero is in every range, also where the column never reaches it.
        least, most = np.minimum(x.low, 0), np.maximum(x.high, 0)
        low = low + _sum(product.dropped, weights, most, least)
        high = high + _sum(product.dropped, weights, least, most)
        totals.append(Range(low, high))
        low, high = low >> product.shift, high >> product.shift
    result = lifted(Range(low, high), rows.lift)
    if rows.multipliers is not None:
        # They are positive, so that ends stay ends.
        result = Range(*(upper(end * rows.multipliers) for end in (result.low, result.high)))
    return tuple(totals), result


def lifted(result: Range, lift: int) -> Range:
    """The range of results that are shifted up, saturated before."""
    half = 1 << (31 - lift)
    return Range(*(np.clip(end, -half, half - 1) << lift for end in (result.low, result.high)))


def _sum(dropped: int, weights: Integers, falling: Integers, rising: Integers) -> Integers:
    """Of each row the sum of its weights times elements: those of negative weights `falling`,
    those of the others `rising`."""
    if not dropped:
        rises: Integers = np.maximum(weights, 0) @ rising
        falls: Integers = np.minimum(weights, 0) @ falling
        return rises + falls
    total: Integers = upper(weights * np.where(weights < 0, falling, rising), dropped).sum(axis=1)
    return total


def formed(result: Range, form: Form, table: Table | CubicTable, bits: int = WIDTH) -> Range:
    """The range of what a form makes of a row's result."""
    low, high = result.low, result.high
    ends = np.array(table.ends)[:, np.newaxis] + np.zeros(len(low), np.int64)
    half = 1 << (bits - 1)
    match form:
        case "signed":
            limits = -half, half - 1
            return Range(np.clip(low, *limits), np.clip(high, *limits))
        case "relu":
            limits = 0, half - 1
            return Range(np.clip(low, *limits), np.clip(high, *limits))
        case "tanh":
            return Range(*(ends >> curve_shift(bits)))
        case "sigmoid":
            return Range(*(ends + _ONE >> sigmoid_shift(bits)))
        case "curve":
            return Range(*(ends >> 32 - bits))
        case "wide":
            return result
        case "wide_relu":
            return Range(np.maximum(low, 0), np.maximum(high, 0))
        case "wide_tanh":
            return Range(*ends)
        case "wide_sigmoid":
            return Range(*(ends + _ONE))


def reset_applied(bias: Integers, hidden: Range) -> Range:
    """The range of bias + (gh >> 2) + ((t_r * gh) >> 32), its first sum included.

    As |t_r| < 2^30, the product is between -|gh| / 4 and |gh| / 4, and each shift rounds down by
    less than one.
    """
    low = bias + np.minimum(hidden.low >> 1, 0) - 2
    return Range(low, bias + np.maximum((hidden.high >> 1) + 1, 0))


def clipped(x: Range, low: Words, high: Words) -> Range:
    """The range of a vector within limits."""
    return Range(*(np.minimum(np.maximum(end, low), high) for end in (x.low, x.high)))


def multiplied(a: Range, b: Range, shift: int, bits: int) -> tuple[Range, Range]:
    """The range of a product with its rounding, and of what a vector of so many bits has of it."""
    corners = np.stack([x * y for x in (a.low, a.high) for y in (b.low, b.high)])
    half = 1 << shift >> 1
    whole = Range(corners.min(axis=0) + half, corners.max(axis=0) + half)
    ends = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return whole, Range(*(np.clip(end >> shift, *ends) for end in (whole.low, whole.high)))


def gathered(parts: Sequence[Range], picks: Sequence[tuple[int, int]]) -> Range:
    """The range of elements picked from vectors."""
    return Range(
        np.array([parts[k].low[j] for k, j in picks]),
        np.array([parts[k].high[j] for k, j in picks]),
    )


def _named(layer: str, part: str, rows: Rows, totals: tuple[Range, ...]) -> list[Stretch]:
    products = zip(rows.products, totals, strict=True)
    return [Stretch(layer, part, product.x, total) for product, total in products]


def _gru(gru: FixedGru, ranges: Ranges, table: Table | CubicTable) -> list[Stretch]:
    found: list[Stretch] = []
    hidden = at(gru.hidden)
    for part, rows in gates(gru):
        start = at(rows)
        if part == "candidate":
            start = reset_applied(rows.bias.astype(np.int64), hidden)
        totals, result = accumulated(rows, ranges, start)
        if part == "hidden":
            hidden = result
        found += _named(gru.h_next, part, rows, totals)
    (low, high), reach = table.ends, 2 * state_reach(table)
    distance = Range(np.array([low - reach]), np.array([high + reach]))
    found.append(_share(gru.h_next, gru.h, table))
    found.append(Stretch(gru.h_next, "distance", gru.h, distance, INT32))
    return found


def _lstm(lstm: FixedLstm, ranges: Ranges, table: Table | CubicTable) -> list[Stretch]:
    found: list[Stretch] = []
    for part, rows in gates(lstm):
        totals, _ = accumulated(rows, ranges, at(rows))
        found += _named(lstm.h_next, part, rows, totals)
    # A cell of 30 bits, and 1.0 or less in its units, which is no more.
    total = Range(np.array([-(1 << 30)]), np.array([1 << 30]))
    found.append(_share(lstm.h_next, lstm.h, table))
    found.append(Stretch(lstm.c_next, "cell", lstm.c, total))
    return found


def _share(layer: str, x: str, table: Table | CubicTable) -> Stretch:
    """What the table gives plus one, in Q31."""
    low, high = table.ends
    share = Range(np.array([low + _ONE]), np.array([high + _ONE]))
    return Stretch(layer, "share", x, share, INT32)
