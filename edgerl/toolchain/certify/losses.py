"""Losses: what a fixed program's vectors have lost so far, and how sums and tables add to it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from edgerl.errors import UserError
from edgerl.policies.spec import PolicySpec
from edgerl.toolchain import ir
from edgerl.toolchain.bounds import interval_bounds
from edgerl.toolchain.certify.affine import Doubles, Form, Unknowns, exact
from edgerl.toolchain.certify.tensors import integer_ranges
from edgerl.toolchain.quantisation.arithmetic import state_shift
from edgerl.toolchain.quantisation.program import (
    FixedInput,
    FixedOutput,
    FixedProgram,
    Rows,
)
from edgerl.toolchain.quantisation.proof import Range, accumulated, at

# What float64 may lose of a sum, relative to the size of all its terms.
_SLACK = 2.0**-44
_HALF = 0.5

Bounds = tuple[Doubles, Doubles]
# Of the rows of one gate: each source's weights by the name of the int16 vector, and the bias.
Real = tuple[Mapping[str, Doubles], Doubles]


@dataclass
class Losses:
    """What is lost so far: of each `packed` vector as matrices read it, and of what is
    `whole`: int32, and the action. `limited` are the vectors that may reach the ends of their
    bits."""

    program: ir.Program
    fixed: FixedProgram
    spec: PolicySpec
    unknowns: Unknowns = field(default_factory=Unknowns)
    packed: dict[str, Form] = field(default_factory=dict)
    whole: dict[str, Form] = field(default_factory=dict)
    limited: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        fixed = self.fixed
        self.integers = integer_ranges(fixed, self.spec)
        states = [self.state_range(before) for before, _ in fixed.states]
        self.real = interval_bounds(
            self.program, self.spec, states=[np.stack(state, axis=-1) for state in states]
        )
        self.written = {
            name: operation
            for operation in self.program.operations
            for name in ir.writes(operation)
        }
        self.named = {o.x: o.y for o in fixed.operations if isinstance(o, FixedOutput)}
        self.exponents = {o.x: o.exponent for o in fixed.operations if isinstance(o, FixedOutput)}
        self.entry = next(o for o in fixed.operations if isinstance(o, FixedInput))
        for before, _ in fixed.states:
            self.pack(before, exact(self.fixed.halfwords[before].size))

    def state_range(self, name: str) -> Bounds:
        """What a state can be: of int32 at least all that its packed form can."""
        read, packed = self.fixed.halfwords[name], self.integers[name]
        if name not in self.fixed.recurrent:
            return (packed.low + read.offset) * read.lsb, (packed.high + read.offset) * read.lsb
        more = 1 if state_shift(read.bits) else 0
        return packed.low * read.lsb, (packed.high + more) * read.lsb

    def pack(self, name: str, error: Form) -> None:
        """Note the error of a state, and of an int32 one's upper bits as matrices read it."""
        read = self.fixed.halfwords[name]
        self.whole[name] = self.packed[name] = error
        if name in self.fixed.recurrent:
            lost = self.floored(state_shift(read.bits), read.lsb, read.offset)
            self.packed[name] = error.plus(lost)

    def floored(self, shift: int, lsb: Doubles, offset: Doubles) -> Form:
        """What shifting right does, and reading what is left `offset` higher."""
        return self.unknowns.within((offset - (1.0 - 2.0**-shift)) * lsb, offset * lsb)

    def value(self, name: str) -> Bounds:
        """What the real vector can be that an int16 one stands for."""
        return self.real[self.program.observation if name == self.entry.y else name]

    def summed(
        self, rows: Rows, real: Real, unit: Doubles, layer: str, start: Range | None = None
    ) -> Form:
        """The error of rows whose results are `unit` [rows] times the real ones, the last limit of
        the results apart. They begin in `start`, by default with their bias."""
        weights, bias = real
        if set(weights) != {product.x for product in rows.products}:
            raise uncovered("a sum over other vectors than the policy's", layer)
        share = gain(rows) / unit
        left = sum(product.shift for product in rows.products)
        constant = share * rows.bias * 2.0**-left - bias
        size = np.abs(bias) + np.abs(constant)
        total = exact(rows.size)
        low = high = np.zeros(rows.size)
        for product in rows.products:
            halfword = self.fixed.halfwords[product.x]
            scale = share * 2.0 ** -(left + product.dropped)
            effective = product.weights.astype(np.float64) * scale[:, np.newaxis]
            constant = constant - effective @ halfword.offset
            effective = effective / halfword.lsb
            value = self.unknowns.within(*self.value(product.x))
            wrong = effective - weights[product.x]
            total = total.plus(self.packed[product.x].under(effective)).plus(value.under(wrong))
            size = size + np.abs(effective) @ value.size
            if product.dropped:
                lost = _HALF * np.count_nonzero(product.weights, axis=1) * share * 2.0**-left
                low, high = low - lost, high + lost
            left -= product.shift
            low = low - (1.0 - 2.0**-product.shift) * share * 2.0**-left
        if rows.multipliers is not None:
            low, high = low - _HALF / unit, high + _HALF / unit
        slack = _SLACK * size
        rounding = self.unknowns.within(low + constant - slack, high + constant + slack)
        return total.plus(rounding).plus(self.lifted(rows, start or at(rows), share))

    def lifted(self, rows: Rows, start: Range, unit: Doubles) -> Form:
        """What saturating before a lift takes from rows. Where no multipliers follow it is the
        limit of int32, which the results have anyway."""
        if rows.multipliers is None:
            return exact(rows.size)
        plain = replace(rows, lift=0, multipliers=None)
        return self.held(accumulated(plain, self.integers, start)[1], 32 - rows.lift, unit)

    def held(self, result: Range, bits: int, unit: Doubles) -> Form:
        """What limiting integers of `unit` [rows] to so many bits takes from them."""
        half = 1 << (bits - 1)
        over = np.maximum(result.high - (half - 1), 0) * unit
        return self.unknowns.within(-over, np.maximum(-half - result.low, 0) * unit)

    def span(self, real: Real) -> Bounds:
        """What a real sum can be."""
        weights, bias = real
        low, high = bias, bias
        for x, w in weights.items():
            least, most = self.value(x)
            rising, falling = np.maximum(w, 0.0), np.minimum(w, 0.0)
            low = low + rising @ least + falling @ most
            high = high + rising @ most + falling @ least
        return low, high

    def tanh(self, error: Form, span: Bounds) -> tuple[Form, Bounds]:
        """The error of the table's tanh, and what the real one can be."""
        low, high = (
            np.minimum(span[0], span[0] + error.low),
            np.maximum(span[1], span[1] + error.high),
        )
        near = np.maximum(np.maximum(low, -high), 0.0)
        far = np.maximum(np.abs(low), np.abs(high))
        flat, steep = (np.cosh(np.minimum(x, 300.0)) ** -2.0 for x in (far, near))
        carried = self.unknowns.scaled(error, flat, steep)
        ends = np.tanh(span[0]), np.tanh(span[1])
        # Two values of tanh are no farther apart than all its values there.
        carried = self.unknowns.capped(carried, np.tanh(low) - ends[1], np.tanh(high) - ends[0])
        own = np.full(len(near), self.fixed.table.error)
        return carried.plus(self.unknowns.within(-own, own)), ends

    def share(self, rows: Rows, real: Real, layer: str) -> tuple[Form, Bounds]:
        """The error of a gate, 1/2 + 1/2 tanh of half a sum, and what the real one can be."""
        unit = np.full(rows.size, 0.5 * self.fixed.table.scale)
        error = self.summed(rows, real, unit, layer)
        return self.sigmoid(error, self.span(real))

    def sigmoid(self, error: Form, span: Bounds) -> tuple[Form, Bounds]:
        """The same of 1/2 + 1/2 tanh of half an argument."""
        half = np.full(len(error.centre), _HALF)
        squashed, ends = self.tanh(error.times(half), (_HALF * span[0], _HALF * span[1]))
        return squashed.times(half), (_HALF + _HALF * ends[0], _HALF + _HALF * ends[1])

    def product(self, a: Form, real_a: Bounds, b: Form, real_b: Bounds) -> Form:
        """The error of a * b: the computed a moves b's error, the real b that of a."""
        computed = real_a[0] + np.minimum(a.low, 0.0), real_a[1] + np.maximum(a.high, 0.0)
        return self.unknowns.scaled(b, *computed).plus(self.unknowns.scaled(a, *real_b))

    def rows(self, sources: tuple[tuple[str, npt.ArrayLike], ...], bias: npt.ArrayLike) -> Real:
        """Weights by int16 vector, of one that is read twice the sum."""
        weights: dict[str, Doubles] = {}
        for x, w in sources:
            name = self.entry.y if x == self.program.observation else x
            weights[name] = weights.get(name, 0.0) + np.asarray(w, np.float64)
        return weights, np.asarray(bias, np.float64)

    def rectified(self, error: Form, span: Bounds) -> Form:
        """max(x, 0): slope 0 or 1, and which where the sign is known."""
        low, high = span[0] + np.minimum(error.low, 0.0), span[1] + np.maximum(error.high, 0.0)
        return self.unknowns.scaled(
            error, np.where(low >= 0.0, 1.0, 0.0), np.where(high > 0.0, 1.0, 0.0)
        )


def gain(rows: Rows) -> Doubles:
    """By what lift and multipliers move a result, one factor a row."""
    gain: Doubles = np.full(rows.size, 2.0**rows.lift)
    if rows.multipliers is not None:
        gain = gain * rows.multipliers.astype(np.float64) * 2.0**-32
    return gain


def uncovered(what: str, where: str) -> UserError:
    """What to say of an operation that nothing is said of."""
    return UserError(f"{where}: {what} is not covered by the analysis of rounding")
