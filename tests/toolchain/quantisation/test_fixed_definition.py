"""The definition in `program.py`, once more in Python's own integers, one element at a time."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from random_fixed import observations, programs

from edgerl.errors import UserError
from edgerl.toolchain import quantisation
from edgerl.toolchain.ir import Program
from edgerl.toolchain.quantisation import FixedProgram
from edgerl.toolchain.quantisation.cubic import CubicTable
from edgerl.toolchain.quantisation.program import (
    FixedDense,
    FixedGather,
    FixedGru,
    FixedInput,
    FixedLstm,
    FixedOutput,
    Rows,
)

Values = dict[str, list[int]]


def within(x: int, bits: int) -> int:
    """Saturated to so many bits, the sign among them."""
    return min(max(x, -(1 << bits - 1)), (1 << bits - 1) - 1)


def shifted(x: int, places: int) -> int:
    """Shifted right, if it is to the right."""
    return x >> max(places, 0)


class Scalar:
    """One step in plain integers. `read` has what matrices read, `whole` what leaves a step."""

    def __init__(self, program: FixedProgram, states: Sequence[Sequence[int]]) -> None:
        self.given = program.table
        self.bits = {name: vector.bits for name, vector in program.halfwords.items()}
        self.whole: Values = {}
        self.read: Values = {}
        for (before, _), state in zip(program.states, states, strict=True):
            self.keep(before, [int(x) for x in state])

    def keep(self, name: str, state: list[int]) -> None:
        self.whole[name] = state
        self.read[name] = [shifted(x, 30 - self.bits[name]) for x in state]

    def accumulate(self, rows: Rows, row: int, start: int) -> int:
        for product in rows.products:
            for w, x in zip(product.weights[row].tolist(), self.read[product.x], strict=True):
                start += w * x + (1 << 31) >> 32 if product.stored == 32 else w * x
                assert -(2**31) <= start < 2**31
            start >>= product.shift
        start = within(start, 32 - rows.lift) << rows.lift
        if rows.multipliers is not None:
            start = start * int(rows.multipliers[row]) + (1 << 31) >> 32
        return start

    def table(self, result: int) -> int:
        if isinstance(self.given, CubicTable):
            return self.cubic(self.given, result)
        v = within(result, self.given.argument_bits)
        word = int(self.given.words[(v >> 15) + len(self.given.words) // 2])
        slope, offset = ((x & 0xFFFF) - (0x10000 if x & 0x8000 else 0) for x in (word, v))
        return word + slope * offset

    def cubic(self, table: CubicTable, v: int) -> int:
        cell = v >> 32 - table.index_bits
        t = (v << table.index_bits - 1) & 0xFFFFFFFF
        t -= (t >> 31) << 32
        y, *lower = reversed(table.coefficients[cell + len(table.coefficients) // 2].tolist())
        for coefficient in lower:
            y = coefficient + (y * t + (1 << 31) >> 32)
            assert -(2**31) <= y < 2**31
        return int(y)

    def rows(self, rows: Rows) -> list[int]:
        return [self.accumulate(rows, k, int(b)) for k, b in enumerate(rows.bias)]

    def dense(self, op: FixedDense) -> None:
        results = self.rows(op.rows)
        one = 1 << 30
        bits = self.bits.get(op.y, 32)
        match op.form:
            case "signed":
                self.read[op.y] = [within(x, bits) for x in results]
            case "relu":
                self.read[op.y] = [within(max(x, 0), bits) for x in results]
            case "tanh":
                self.read[op.y] = [shifted(self.table(x), 31 - bits) for x in results]
            case "sigmoid":
                self.read[op.y] = [shifted(self.table(x) + one, 32 - bits) for x in results]
            case "wide":
                self.whole[op.y] = results
            case "wide_relu":
                self.whole[op.y] = [max(x, 0) for x in results]
            case "wide_tanh":
                self.whole[op.y] = [self.table(x) for x in results]
            case "wide_sigmoid":
                self.whole[op.y] = [self.table(x) + one for x in results]

    def gru(self, op: FixedGru) -> None:
        after = []
        for k, h in enumerate(self.whole[op.h]):
            r, share = (
                self.table(self.accumulate(rows, k, int(rows.bias[k])))
                for rows in (op.reset, op.update)
            )
            hidden = self.accumulate(op.hidden, k, int(op.hidden.bias[k]))
            start = int(op.candidate.bias[k]) + (hidden >> 2) + (r * hidden >> 32)
            n = self.table(self.accumulate(op.candidate, k, start))
            after.append(h + ((n - 2 * h) * (share + (1 << 30)) + (1 << 31) >> 32))
        self.keep(op.h_next, after)

    def lstm(self, op: FixedLstm) -> None:
        hidden, cells = [], []
        for k, c in enumerate(self.whole[op.c]):
            i, f, g, o = (
                self.table(self.accumulate(rows, k, int(rows.bias[k])))
                for rows in (op.input, op.forget, op.new, op.output)
            )
            p = 2 * c * (f + (1 << 30)) + (1 << 31) >> 32
            q = (i + (1 << 30)) * g + (1 << 31) >> 32
            cell = min(max(p + (q >> op.shift), -(1 << 29)), (1 << 29) - 1)
            cells.append(cell)
            argument = within(cell * op.factor + (1 << 31) >> 32, 32 - op.lift)
            reached = self.table(argument << op.lift)
            hidden.append((o + (1 << 30)) * reached >> 32)
        self.keep(op.h_next, hidden)
        self.keep(op.c_next, cells)


def converted(value: float, exponent: int, bits: int) -> int:
    if math.isnan(value):
        return 0
    if math.isinf(value):
        return within(math.trunc(math.copysign(1 << bits, value)), bits)
    return within(math.trunc(Fraction(value) * Fraction(2) ** exponent), bits)


def entered(value: float, exponent: int, bits: int, guard: int) -> int:
    if not guard:
        return converted(value, exponent, bits)
    finer = converted(value, exponent + guard, bits + guard)
    return within(finer + (1 << guard - 1) >> guard, bits)


def step(
    program: FixedProgram, observation: Sequence[float], states: Sequence[Sequence[int]]
) -> tuple[list[float], list[list[int]]]:
    scalar = Scalar(program, states)
    action: list[float] = []
    for op in program.operations:
        match op:
            case FixedInput():
                pairs, bits = zip(observation, op.exponents, strict=True), scalar.bits[op.y]
                scalar.read[op.y] = [entered(float(x), e, bits, op.guard) for x, e in pairs]
            case FixedDense():
                scalar.dense(op)
            case FixedGru():
                scalar.gru(op)
            case FixedLstm():
                scalar.lstm(op)
            case FixedGather():
                scalar.read[op.y] = [scalar.read[op.sources[k]][j] for k, j in op.picks]
            case FixedOutput():
                singles = np.array(scalar.whole[op.x], np.int64).astype(np.float32)
                action = [float(x) * 2.0**-op.exponent for x in singles]
    return action, [scalar.whole[after] for _, after in program.states]


@pytest.mark.parametrize("number_format", ["w16a16", "w8a16", "w4a16", "w32a32", "w8a8"])
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn=programs())
def test_the_interpreter_is_the_definition(number_format: str, drawn: tuple[Program, int]) -> None:
    program, seed = drawn
    seen = observations(program, seed, 40, 8)
    try:
        fixed = quantisation.quantise(program, seen, number_format)
    except UserError:
        return
    states = quantisation.reset(fixed)
    far = np.random.default_rng(seed).choice([np.nan, np.inf, -1e9, 3.0, 1e-42], size=seen.shape[2])
    for observation in (*seen[:5, 0], far.astype(np.float32), *seen[5:7, 0]):
        action, after = step(fixed, observation.tolist(), [s.tolist() for s in states])
        got, states = quantisation.run(fixed, observation, states)
        assert got.tolist() == action
        assert [s.tolist() for s in states] == after
