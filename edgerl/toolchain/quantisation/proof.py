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
from edgerl.toolchain.quantisation.program import (
    PACK_SHIFT,
    Doubles,
    FixedDense,
    FixedGather,
    FixedGru,
    FixedInput,
    FixedLstm,
    FixedOutput,
    FixedProgram,
    Form,
    Rows,
    gates,
)
from edgerl.toolchain.quantisation.table import FRACTION, Integers, Table

LIMIT = 1 << 31
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
    `x` the vector multiplied.
    """

    layer: str
    part: str
    x: str
    total: Range

    @property
    def ratios(self) -> Doubles:
        """The largest magnitude of each row over 2^31: proved where below 1."""
        return self.total.size / LIMIT


def stretches(program: FixedProgram) -> tuple[Stretch, ...]:
    """Every accumulation of a program and every other int32 that sums make, in order."""
    ranges: dict[str, Range] = {}
    found: list[Stretch] = []
    cells = {operation.c for operation in program.operations if isinstance(operation, FixedLstm)}
    for before, _ in program.states:
        size = program.halfwords[before].size
        ranges[before] = (
            any_halfword(size) if before in cells else packed_state(program.table, size)
        )
    for operation in program.operations:
        match operation:
            case FixedInput(y=y, exponents=exponents):
                ranges[y] = any_halfword(len(exponents))
            case FixedDense(rows, form, y):
                totals, result = accumulated(rows, ranges, at(rows))
                found += _named(y, "", rows, totals)
                ranges[y] = formed(result, form, program.table)
            case FixedGru(h_next=h_next):
                found += _gru(operation, ranges, program.table)
                ranges[h_next] = packed_state(program.table, operation.reset.size)
            case FixedLstm(h_next=h_next, c_next=c_next):
                found += _lstm(operation, ranges, program.table)
                ranges[h_next] = packed_state(program.table, operation.input.size)
                ranges[c_next] = any_halfword(operation.input.size)
            case FixedGather(sources, picks, y):
                ranges[y] = gathered([ranges[x] for x in sources], picks)
            case FixedOutput():
                pass
    return tuple(found)


def require_no_overflow(program: FixedProgram) -> float:
    """The largest ratio of any accumulator to 2^31, below 1.

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
        f"{stretch.layer}{part} row {row}: its accumulator can reach {ratio:.3g} x 2^31, so int32 "
        f"may overflow; it is provable with the range of {stretch.x} or the row's weights "
        f"{ratio:.3g} times smaller"
    )


def any_halfword(size: int) -> Range:
    """Any int16: an observation, and a packed cell."""
    return Range(np.full(size, -(1 << 15)), np.full(size, (1 << 15) - 1))


def packed_state(table: Table, size: int) -> Range:
    """A state as matrices read it."""
    reach = state_reach(table)
    return Range(np.full(size, -reach >> PACK_SHIFT), np.full(size, reach >> PACK_SHIFT))


def state_reach(table: Table) -> int:
    """The largest magnitude of a state in Q29: half the table's in Q30, rounded up."""
    low, high = table.ends
    return (max(-low, high) + 1) // 2


def at(rows: Rows) -> Range:
    """The range of an accumulation before its products: its bias."""
    bias = rows.bias.astype(np.int64)
    return Range(bias, bias)


def accumulated(rows: Rows, ranges: Ranges, start: Range) -> tuple[tuple[Range, ...], Range]:
    """The range of each stretch before its shift, and of the result."""
    totals = []
    low, high = start.low, start.high
    for product in rows.products:
        weights, x = product.weights.astype(np.int64), ranges[product.x]
        # Zero is in every range, also where the column never reaches it.
        least, most = np.minimum(x.low, 0), np.maximum(x.high, 0)
        rising, falling = np.maximum(weights, 0), np.minimum(weights, 0)
        low = low + rising @ least + falling @ most
        high = high + rising @ most + falling @ least
        totals.append(Range(low, high))
        low, high = low >> product.shift, high >> product.shift
    return tuple(totals), Range(low, high)


def formed(result: Range, form: Form, table: Table) -> Range:
    """The range of what a form makes of a row's result."""
    low, high = result.low, result.high
    ends = np.array(table.ends)[:, np.newaxis] + np.zeros(len(low), np.int64)
    match form:
        case "signed":
            limits = -(1 << 15), (1 << 15) - 1
            return Range(np.clip(low, *limits), np.clip(high, *limits))
        case "relu":
            limits = 0, (1 << 15) - 1
            return Range(np.clip(low, *limits), np.clip(high, *limits))
        case "tanh":
            return Range(*(ends >> 15))
        case "sigmoid":
            return Range(*(ends + _ONE >> 16))
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


def gathered(parts: Sequence[Range], picks: Sequence[tuple[int, int]]) -> Range:
    """The range of elements picked from vectors."""
    return Range(
        np.array([parts[k].low[j] for k, j in picks]),
        np.array([parts[k].high[j] for k, j in picks]),
    )


def _named(layer: str, part: str, rows: Rows, totals: tuple[Range, ...]) -> list[Stretch]:
    products = zip(rows.products, totals, strict=True)
    return [Stretch(layer, part, product.x, total) for product, total in products]


def _gru(gru: FixedGru, ranges: Ranges, table: Table) -> list[Stretch]:
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
    found.append(Stretch(gru.h_next, "distance", gru.h, distance))
    return found


def _lstm(lstm: FixedLstm, ranges: Ranges, table: Table) -> list[Stretch]:
    found: list[Stretch] = []
    for part, rows in gates(lstm):
        totals, _ = accumulated(rows, ranges, at(rows))
        found += _named(lstm.h_next, part, rows, totals)
    # A cell of 30 bits, and 1.0 or less in its units, which is no more.
    total = Range(np.array([-(1 << 30)]), np.array([1 << 30]))
    found.append(_share(lstm.h_next, lstm.h, table))
    found.append(Stretch(lstm.c_next, "cell", lstm.c, total))
    return found


def _share(layer: str, x: str, table: Table) -> Stretch:
    """What the table gives plus one, in Q31."""
    low, high = table.ends
    return Stretch(layer, "share", x, Range(np.array([low + _ONE]), np.array([high + _ONE])))
