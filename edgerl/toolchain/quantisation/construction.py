"""Construction: a FixedProgram under way, operation by operation.

Scales are chosen in this order, each with all that was decided before it:

- a signal of the observation gets the finest power of two that holds its range;
- a layer that int16 readers follow gets one real scale a row, which costs nothing because the
  readers' columns absorb it, and the largest common shift;
- rows that the table reads get the table's scale times the largest power of two;
- the output accumulates at the largest power of two, int32 and unshifted.

That is the arithmetic of 16 bits; `words.py` says what 32 bits do instead.

The range of a signal or cell is `MARGIN` times the largest magnitude that the calibration
reached, that of a layer's row its scheme's margin times: a unit that saturates costs far more
than the quarter of a bit.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from edgerl.errors import UserError
from edgerl.policies.spec import PolicySpec
from edgerl.toolchain.ir import (
    Activate,
    ArgMax,
    Binary,
    Clip,
    Dense,
    Gather,
    Gru,
    Lstm,
    Operation,
    Program,
)
from edgerl.toolchain.quantisation.arithmetic import Width, curve_shift, sigmoid_shift, state_shift
from edgerl.toolchain.quantisation.calibration import signals
from edgerl.toolchain.quantisation.cubic import CubicTable
from edgerl.toolchain.quantisation.curve import Curves, curves
from edgerl.toolchain.quantisation.kept import kept_halfwords
from edgerl.toolchain.quantisation.layers import cell_exponent, gated, remembered, row_steps
from edgerl.toolchain.quantisation.limiting import Extents
from edgerl.toolchain.quantisation.program import (
    STATE_FRACTION,
    WIDTH,
    Doubles,
    FixedArgMax,
    FixedClip,
    FixedDense,
    FixedGather,
    FixedInput,
    FixedMultiply,
    FixedOperation,
    FixedOutput,
    Form,
    Halfword,
    Rows,
    Stored,
)
from edgerl.toolchain.quantisation.proof import (
    Range,
    any_halfword,
    clipped,
    formed,
    gathered,
    multiplied,
    packed_cell,
    packed_state,
)
from edgerl.toolchain.quantisation.received import received_steps
from edgerl.toolchain.quantisation.rewriting import inner_layers
from edgerl.toolchain.quantisation.rounding import Coarse, Inputs, Moments, coarsened
from edgerl.toolchain.quantisation.scaling import Candidate, Operands, RealRows
from edgerl.toolchain.quantisation.scheme import Scheme
from edgerl.toolchain.quantisation.table import Table
from edgerl.toolchain.quantisation.vectors import (
    alike,
    limits,
    picked,
    product,
    rescaled,
    wide_limits,
)
from edgerl.toolchain.quantisation.widths import balanced, widths

MARGIN = 1.25
_EXPONENTS = range(-48, 49)
_FORMS: Mapping[str | None, tuple[Form, Form]] = {
    None: ("signed", "wide"),
    "relu": ("relu", "wide_relu"),
    "tanh": ("tanh", "wide_tanh"),
    "sigmoid": ("sigmoid", "wide_sigmoid"),
}
_POSITIVE = ("relu", "sigmoid")
# Of a function that the table gives: how its argument is scaled, and the fraction of its wide form.
_CURVES: Mapping[str | None, tuple[float, int]] = {"tanh": (1.0, 30), "sigmoid": (0.5, 31)}


@dataclass
class Construction:
    """The fixed program so far: operations, how each int16 vector is read and what it can be, and
    the fractions of cells."""

    program: Program
    extents: Extents
    scheme: Scheme
    table: Table | CubicTable
    operations: list[FixedOperation] = field(default_factory=list)
    halfwords: dict[str, Halfword] = field(default_factory=dict)
    ranges: dict[str, Range] = field(default_factory=dict)
    cells: dict[str, int] = field(default_factory=dict)
    curves: Curves = field(default_factory=lambda: Curves({}, {}))
    # Layers whose result only one other operation reads, which makes them part of it.
    inner: dict[str, Dense] = field(default_factory=dict)
    # Of layers with fewer bits a weight, how they are rounded; of vectors with fewer, how many.
    coarse: Mapping[str, Coarse] = field(default_factory=dict)
    bits: Mapping[str, int] = field(default_factory=dict)
    # The bits of each layer's weights, and what it reads.
    weights: tuple[Mapping[str, Stored], Mapping[str, Moments]] | None = None

    def economise(
        self, stored: Mapping[str, Stored], inputs: Inputs, wider: int, first: float
    ) -> None:
        """Give weights the bits that they are `stored` in, and vectors those that pay, or so many
        more."""
        margin = self.scheme.margin
        reach = {name: margin * extent.size for name, extent in self.extents.items()}
        steps = received_steps(self.program)
        self.coarse = {
            layer: replace(coarse, steps=steps.get(layer), first=first)
            for layer, coarse in coarsened(
                self.program, stored, inputs.moments, self.operand
            ).items()
        }
        if self.width == WIDTH:
            self.bits = widths(self.program, stored, reach, inputs.moments, wider)
            self.weights = stored, inputs.moments

    def load(self, spec: PolicySpec | None, index_bits: int) -> None:
        """The observation, the states and the curves, as integers."""
        program = self.program
        exponents: list[int] = []
        margin, parts = self.scheme.signal_margin, [part for _, part in signals(program, spec)]
        bits = self.width_of(program.observation)
        for number, (name, part) in enumerate(signals(program, spec)):
            reached = float(self.extents[program.observation].size[part].max())
            if spec is not None:
                valid = max(map(abs, spec.observation[number].range))
                if reached < valid <= self.scheme.widening * margin * reached:
                    reached = valid / margin
            exponents.append(_exponent(name, reached * margin, (1 << bits - 1) - 1))
        if self.weights is not None:
            exponents = balanced(program, *self.weights, parts, exponents, bits)
        sizes = [part.stop - part.start for part in parts]
        exponents = np.repeat(exponents, sizes).tolist()
        lsb = 2.0 ** -np.array(exponents, np.float64)
        arithmetic = self.scheme.arithmetic
        observed = Halfword(lsb, np.zeros(len(lsb)), bits)
        self.place(self.observed, observed, any_halfword(observed))
        self.operations.append(
            FixedInput(program.observation, tuple(exponents), self.observed, arithmetic.guard)
        )
        for before, after in program.states:
            for name in (before, after):
                packed = self.packed(name, STATE_FRACTION, state_shift)
                self.place(name, packed, packed_state(self.table, packed))
        for operation in program.operations:
            if isinstance(operation, Lstm):
                reach = MARGIN * float(self.extents[operation.c_next].size.max())
                fraction = cell_exponent(operation.c_next, reach)
                self.cells[operation.c_next] = fraction
                for name in (operation.c, operation.c_next):
                    packed = self.packed(name, fraction, state_shift)
                    self.place(name, packed, packed_cell(packed))
        self._keep()
        self.inner = inner_layers(program)
        self.curves = curves(program, self.extents, self.scheme.margin, index_bits)

    def _keep(self) -> None:
        """Make kept states known."""

        def exponent(name: str, reach: float) -> int:
            return _exponent(name, MARGIN * reach, self.scheme.arithmetic.largest)

        known = self.halfwords | {self.program.observation: self.halfwords[self.observed]}
        for name, read in kept_halfwords(self.program, known, self.extents, exponent).items():
            whole = Halfword(read.lsb, read.offset, self.width)
            self.place(name, whole, any_halfword(whole))

    @property
    def width(self) -> Width:
        """Bits of a vector's elements."""
        return self.scheme.arithmetic.width

    def width_of(self, name: str) -> int:
        """Bits of a tensor's elements."""
        return self.bits.get(name, self.width)

    def packed(self, name: str, fraction: int, shift_to: Callable[[int], int]) -> Halfword:
        """How the upper bits of a vector of this fraction are read, which rounds down; `shift_to`
        gives the shift that leaves so many."""
        size, bits = self.program.size(name), self.width_of(name)
        shift = shift_to(bits)
        lost = np.full(size, 0.5 if shift else 0.0)
        return Halfword(np.full(size, 2.0 ** (shift - fraction)), lost, bits)

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
            case Dense(y=y) if y in self.inner:
                pass
            case Dense(sources=(), bias=bias, y=y) if y != self.program.action:
                self.constant(bias.astype(np.float64), y)
            case Dense():
                self.dense(operation)
            case Activate():
                self.activate(operation)
            case Clip(x=x):
                self.clip(operation)
            case Binary(a=a, b=b, y=y):
                self.multiply(self.operand(a), self.operand(b), y)
            case ArgMax(x=x, y=y):
                _, chosen = self.scheme.output(self.real(self.inner[x]), self.operands)
                self.operations += [FixedDense(chosen.rows, "wide", x), FixedArgMax(x, y)]
                index = Halfword(np.ones(1), np.zeros(1), self.width)
                most = np.full(1, self.program.size(x) - 1)
                self.place(y, index, Range(np.zeros(1, np.int64), most))
            case Gru():
                read = self.operand(operation.x)
                self.operations.append(
                    gated(operation, read, self.operands, self.table.scale, self.scheme)
                )
            case Lstm(x=x, c_next=c_next):
                read, fraction = self.operand(x), self.cells[c_next]
                scale = self.table.scale
                self.operations.append(
                    remembered(operation, read, fraction, self.operands, scale, self.scheme)
                )
            case Gather(sources, picks, y):
                self.gather(tuple(self.operand(x) for x in sources), picks, y)

    def operand(self, name: str) -> str:
        """The int16 vector that stands for a tensor."""
        return self.observed if name == self.program.observation else name

    def constant(self, value: Doubles, y: str) -> None:
        """A vector that is always the same, exact where it is a power of two."""
        largest = self.scheme.arithmetic.largest
        reach = float(np.abs(value).max(initial=0.0)) or 1.0
        lsb = 2.0 ** -_exponent(y, MARGIN * reach, largest)
        whole = np.rint(value / lsb).astype(np.int64)
        self.operations.append(FixedDense(Rows(whole.astype(np.int32), ()), "signed", y))
        size = len(value)
        read = Halfword(np.full(size, lsb), np.zeros(size), self.width)
        self.place(y, read, Range(whole, whole))

    def gather(self, names: tuple[str, ...], picks: tuple[tuple[int, int], ...], y: str) -> None:
        """Elements of vectors; those of a kept state at its scale."""
        found = picked([self.halfwords[name] for name in names], picks)
        possible = gathered([self.ranges[name] for name in names], picks)
        kept = self.halfwords.get(y)
        if kept is None or alike(found, kept):
            self.operations.append(FixedGather(names, picks, y))
            self.place(y, found, possible)
            return
        before = _beside(self.program, y)
        self.operations.append(FixedGather(names, picks, before))
        self.place(before, found, possible)
        rows = rescaled(before, kept, self.operands, y).rows
        self.operations.append(FixedDense(rows, "signed", y))

    def clip(self, op: Clip) -> None:
        """Limits on a vector, or on the layer that leaves."""
        if op.x in self.inner:
            inner = self.inner[op.x]
            exponent, rows = self.leaving(inner)
            low, high = wide_limits(op.low, op.high, exponent)
            wide = _beside(self.program, op.y)
            self.operations += [
                FixedDense(rows.rows, _FORMS[inner.activation][1], op.x),
                FixedClip(op.x, low, high, wide),
                FixedOutput(wide, exponent, op.y),
            ]
            return
        x = self.operand(op.x)
        read = self.halfwords[x]
        low, high = limits(op.low, op.high, read)
        self.operations.append(FixedClip(x, low, high, op.y))
        self.place(op.y, read, clipped(self.ranges[x], low, high))

    def multiply(self, a: str, b: str, y: str) -> None:
        """The product of two vectors."""
        reach = self.scheme.margin * self.extents[y].size
        shift, read = product(self.halfwords[a], self.halfwords[b], reach, self.width)
        _, possible = multiplied(self.ranges[a], self.ranges[b], shift, self.width)
        self.operations.append(FixedMultiply(a, b, shift, y))
        self.place(y, read, possible)

    def activate(self, op: Activate) -> None:
        """A layer whose activation has a table of its own."""
        name = self.curves.of[op.y]
        table = self.curves.tables[name]
        real = self.real(self.inner[op.x])
        centred = replace(real, layer=op.y, bias=real.bias - table.centre)
        chosen = self.scheme.tabulated(centred, table.scale, self.operands)
        self.operations.append(FixedDense(chosen.rows, "curve", op.y, name))
        size, bits = len(real.bias), self.width_of(op.y)
        read = Halfword(np.full(size, table.unit * 2.0 ** (32 - bits)), np.full(size, 0.5), bits)
        self.place(op.y, read, formed(chosen.result, "curve", table, bits))

    def real(self, op: Dense) -> RealRows:
        """A layer's rows in real numbers."""
        sources = tuple((self.operand(x), w.astype(np.float64)) for x, w in op.sources)
        return RealRows(op.y, "", op.bias.astype(np.float64), sources)

    @property
    def operands(self) -> Operands:
        """What rows may read."""
        return Operands(self.halfwords, self.ranges, self.scheme.arithmetic, self.coarse)

    def dense(self, op: Dense) -> None:
        """A dense layer, which either other layers read or the action is."""
        inner, outer = _FORMS[op.activation]
        centred = self.scheme.centred and op.activation in _POSITIVE
        if op.y == self.program.action:
            exponent, chosen = self.leaving(op)
            wide = _beside(self.program, op.y)
            self.operations.append(FixedDense(chosen.rows, outer, wide))
            self.operations.append(FixedOutput(wide, exponent, op.y))
            return
        real = self.real(op)
        if op.activation in _CURVES:
            unit, exponent = _CURVES[op.activation]
            chosen = self.scheme.tabulated(real, unit * self.table.scale, self.operands)
            inner = "tanh" if centred else inner
            shift = curve_shift if inner == "tanh" else sigmoid_shift
            halfword = self.packed(op.y, exponent, shift)
        else:
            bits = self.width_of(op.y)
            # Fewer bits are as many for a range that is so much larger.
            reach = self.scheme.margin * self.extents[op.y].size * 2.0 ** (self.width - bits)
            if centred:
                inner, reach = "signed", 0.5 * reach
                half = row_steps(real, reach, self.scheme.arithmetic.largest) * 2.0 ** (bits - 1)
                real = replace(real, bias=real.bias - half)
            lsb, chosen = self.scheme.per_row(real, reach, self.operands)
            halfword = Halfword(lsb, np.zeros(len(op.bias)), bits)
        if centred:
            halfword = replace(halfword, offset=halfword.offset + 2.0 ** (halfword.bits - 1))
        self.operations.append(FixedDense(chosen.rows, inner, op.y))
        self.place(op.y, halfword, formed(chosen.result, inner, self.table, halfword.bits))

    def leaving(self, op: Dense) -> tuple[int, Candidate]:
        """Rows whose results are int32, of one exponent, and that exponent."""
        if op.activation not in _CURVES:
            return self.scheme.output(self.real(op), self.operands)
        unit, exponent = _CURVES[op.activation]
        scale = unit * self.table.scale
        return exponent, self.scheme.tabulated(self.real(op), scale, self.operands)


def _exponent(signal: str, reach: float, largest: int) -> int:
    """The largest with reach * 2^exponent no more than the largest integer."""
    exponent = math.floor(math.log2(largest / reach)) if reach > 0.0 else math.inf
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
