"""Conversion: a float Program and its calibration to a FixedProgram.

Scales are chosen in this order, each with all that was decided before it:

- a signal of the observation gets the finest power of two that holds its range;
- a layer that int16 readers follow gets one real scale a row, which costs nothing because the
  readers' columns absorb it, and the largest common shift;
- rows that the table reads get the table's scale times the largest power of two;
- the output accumulates at the largest power of two, int32 and unshifted.

The range of a signal or cell is `MARGIN` times the largest magnitude that the calibration
reached, that of a layer's row `LAYER_MARGIN` times: a unit that saturates costs far more than
the quarter of a bit.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from edgerl.errors import UserError, suggestion
from edgerl.policies.spec import PolicySpec
from edgerl.toolchain.ir import Dense, Gather, Gru, Lstm, Operation, Program, reads, writes
from edgerl.toolchain.quantisation.calibration import Calibration, Sizes, largest, signals
from edgerl.toolchain.quantisation.layers import (
    LARGEST_HALFWORD,
    cell_exponent,
    gated,
    output,
    per_row,
    remembered,
    tabulated,
)
from edgerl.toolchain.quantisation.program import (
    PACK_SHIFT,
    PACKED_FRACTION,
    FixedDense,
    FixedGather,
    FixedInput,
    FixedOperation,
    FixedOutput,
    FixedProgram,
    Form,
    Halfword,
)
from edgerl.toolchain.quantisation.proof import (
    Range,
    any_halfword,
    formed,
    gathered,
    packed_state,
    require_no_overflow,
)
from edgerl.toolchain.quantisation.scaling import Operands, RealRows
from edgerl.toolchain.quantisation.table import Table, tanh_table

NUMBER_FORMATS = ("w16a16",)
MARGIN = 1.25
LAYER_MARGIN = 1.5

# A spec's range is held whole where that costs no more than two bits against the calibration.
_WIDENING = 4.0
_EXPONENTS = range(-48, 49)
_FORMS: Mapping[str | None, tuple[Form, Form]] = {
    None: ("signed", "wide"),
    "relu": ("relu", "wide_relu"),
    "tanh": ("tanh", "wide_tanh"),
    "sigmoid": ("sigmoid", "wide_sigmoid"),
}
# Of a function that the table gives: how its argument is scaled, and the fraction of its wide form.
_CURVES: Mapping[str | None, tuple[float, int]] = {"tanh": (1.0, 30), "sigmoid": (0.5, 31)}


def quantise(
    program: Program,
    calibration: Calibration,
    number_format: str = "w16a16",
    *,
    spec: PolicySpec | None = None,
    index_bits: int = 7,
) -> FixedProgram:
    """`program` in integers that provably cannot overflow.

    `calibration` are observations, [T, n] or [T, B, n], B sequences from a reset, or a tuple of
    such recordings (see `calibration.largest`). `spec` brings the observation's signals, each of
    which gets a scale of its own, and their valid ranges. The activation table has 2^index_bits
    cells of 4 bytes.

    Raises UserError for an unusable calibration, an operator or format that integers are not
    made for, a scale that underflows, and a row that cannot be proved.
    """
    if number_format not in NUMBER_FORMATS:
        raise UserError(
            f"number format {number_format[:60]!r} is unknown to the quantiser; "
            f"{suggestion(number_format, NUMBER_FORMATS)}"
        )
    _require_supported(program)
    conversion = _Conversion(program, largest(program, calibration, spec), tanh_table(index_bits))
    conversion.load(spec)
    for operation in program.operations:
        conversion.convert(operation)
    fixed = FixedProgram(
        name=program.name,
        number_format=number_format,
        observation=program.observation,
        action=program.action,
        states=program.states,
        operations=tuple(conversion.operations),
        halfwords=conversion.halfwords,
        table=conversion.table,
    )
    require_no_overflow(fixed)
    return fixed


def _require_supported(program: Program) -> None:
    """UserError, naming the operator, for what has no integer form."""
    kept = {h_next for _, h_next in program.states}
    for operation in program.operations:
        name = ", ".join(writes(operation))
        kind = type(operation).__name__
        match operation:
            case Dense(activation=activation):
                if activation not in _FORMS:
                    raise _unsupported(f"{kind} with activation {activation}", name)
            case Gru(h=h, h_next=h_next):
                if (h, h_next) not in program.states:
                    raise _unsupported(f"{kind} on a state that is not the program's", name)
                continue
            case Lstm(h=h, c=c, h_next=h_next, c_next=c_next):
                if not {(h, h_next), (c, c_next)} <= set(program.states):
                    raise _unsupported(f"{kind} on a state that is not the program's", name)
                continue
            case Gather():
                if operation.y == program.action:
                    raise _unsupported(f"{kind} of the action", name)
            case _:
                raise _unsupported(kind, name)
        if program.action in reads(operation):
            raise _unsupported(f"{kind} that reads the action", name)
        if operation.y in kept:
            raise _unsupported(f"{kind} that writes a recurrent state", name)


def _unsupported(what: str, where: str) -> UserError:
    return UserError(
        f"{where}: {what} has no integer form yet; compile this policy with format f32"
    )


@dataclass
class _Conversion:
    """The fixed program so far: operations, how each int16 vector is read and what it can be, and
    the fractions of cells."""

    program: Program
    sizes: Sizes
    table: Table
    operations: list[FixedOperation] = field(default_factory=list)
    halfwords: dict[str, Halfword] = field(default_factory=dict)
    ranges: dict[str, Range] = field(default_factory=dict)
    cells: dict[str, int] = field(default_factory=dict)

    def load(self, spec: PolicySpec | None) -> None:
        """The observation and the states, as integers."""
        program = self.program
        exponents: list[int] = []
        for number, (name, part) in enumerate(signals(program, spec)):
            reached = float(self.sizes[program.observation][part].max())
            if spec is not None:
                valid = max(map(abs, spec.observation[number].range))
                if reached < valid <= _WIDENING * MARGIN * reached:
                    reached = valid / MARGIN
            exponents += [_exponent(name, reached * MARGIN)] * (part.stop - part.start)
        lsb = 2.0 ** -np.array(exponents, np.float64)
        self.place(self.observed, Halfword(lsb, np.zeros(len(lsb))), any_halfword(len(lsb)))
        self.operations.append(FixedInput(program.observation, tuple(exponents), self.observed))
        for before, after in program.states:
            size = program.size(before)
            for name in (before, after):
                self.place(name, self.packed(name), packed_state(self.table, size))
        for operation in program.operations:
            if isinstance(operation, Lstm):
                reach = MARGIN * float(self.sizes[operation.c_next].max())
                fraction = cell_exponent(operation.c_next, reach, self.table)
                self.cells[operation.c_next] = fraction
                for name in (operation.c, operation.c_next):
                    packed = self.packed(name, fraction - PACK_SHIFT)
                    self.place(name, packed, any_halfword(packed.size))

    def packed(self, name: str, fraction: int = PACKED_FRACTION) -> Halfword:
        """How a vector of this fraction is read that was rounded down to it."""
        size = self.program.size(name)
        return Halfword(np.full(size, 2.0**-fraction), np.full(size, 0.5))

    @property
    def observed(self) -> str:
        """The name of the observation in integers."""
        return _beside(self.program, self.program.observation)

    def place(self, name: str, halfword: Halfword, possible: Range) -> None:
        """Make an int16 vector known."""
        self.halfwords[name], self.ranges[name] = halfword, possible

    def convert(self, operation: Operation) -> None:
        """Append an operation in integers."""
        match operation:
            case Dense():
                self.dense(operation)
            case Gru():
                self.operations.append(
                    gated(operation, self.operand(operation.x), self.operands, self.table)
                )
            case Lstm(x=x, c_next=c_next):
                fraction = self.cells[c_next]
                self.operations.append(
                    remembered(operation, self.operand(x), fraction, self.operands, self.table)
                )
            case Gather(sources, picks, y):
                names = tuple(self.operand(x) for x in sources)
                read = [self.halfwords[name] for name in names]
                halfword = Halfword(
                    np.array([read[k].lsb[j] for k, j in picks]),
                    np.array([read[k].offset[j] for k, j in picks]),
                )
                self.place(y, halfword, gathered([self.ranges[name] for name in names], picks))
                self.operations.append(FixedGather(names, picks, y))

    def operand(self, name: str) -> str:
        """The int16 vector that stands for a tensor."""
        return self.observed if name == self.program.observation else name

    @property
    def operands(self) -> Operands:
        """What rows may read."""
        return Operands(self.halfwords, self.ranges)

    def dense(self, op: Dense) -> None:
        """A dense layer, which either other layers read or the action is."""
        sources = tuple((self.operand(x), w.astype(np.float64)) for x, w in op.sources)
        real = RealRows(op.y, "", op.bias.astype(np.float64), sources)
        inner, outer = _FORMS[op.activation]
        is_action = op.y == self.program.action
        size = len(op.bias)
        if op.activation in _CURVES:
            unit, exponent = _CURVES[op.activation]
            chosen = tabulated(real, unit * self.table.scale, self.operands)
            halfword = self.packed(op.y)
        elif is_action:
            exponent, chosen = output(real, self.operands)
        else:
            lsb, chosen = per_row(real, LAYER_MARGIN * self.sizes[op.y], self.operands)
            halfword = Halfword(lsb, np.zeros(size))
        if is_action:
            wide = _beside(self.program, op.y)
            self.operations.append(FixedDense(chosen.rows, outer, wide))
            self.operations.append(FixedOutput(wide, exponent, op.y))
        else:
            self.operations.append(FixedDense(chosen.rows, inner, op.y))
            self.place(op.y, halfword, formed(chosen.result, inner, self.table))


def _exponent(signal: str, reach: float) -> int:
    """The largest with reach * 2^exponent in int16."""
    exponent = math.floor(math.log2(LARGEST_HALFWORD / reach)) if reach > 0.0 else math.inf
    if exponent not in _EXPONENTS:
        raise UserError(
            f"signal {signal!r}: its scale underflows or overflows (it reaches {reach:.3g}); give "
            "it a unit in which it is between 1e-9 and 1e18"
        )
    return int(exponent)


def _beside(program: Program, name: str) -> str:
    """A name for a tensor's integers that no tensor has."""
    beside = f"{name}_fixed"
    while beside in program.tensors:
        beside += "t"
    return beside
