"""The definition in `program.py`, once more in Python's own integers, one element at a time."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from hypothesis import HealthCheck, given, settings
from random_fixed import observations, programs

from edgerl.errors import UserError
from edgerl.toolchain import quantisation
from edgerl.toolchain.ir import Program
from edgerl.toolchain.quantisation import FixedProgram
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


class Scalar:
    """One step in plain integers. `int16` has what matrices read, `whole` what leaves a step."""

    def __init__(self, program: FixedProgram, states: Sequence[Sequence[int]]) -> None:
        self.words = [int(word) for word in program.table.words]
        self.bits = program.table.argument_bits
        self.whole: Values = {}
        self.int16: Values = {}
        for (before, _), state in zip(program.states, states, strict=True):
            self.keep(before, [int(x) for x in state])

    def keep(self, name: str, state: list[int]) -> None:
        self.whole[name], self.int16[name] = state, [x >> 14 for x in state]

    def accumulate(self, rows: Rows, row: int, start: int) -> int:
        for product in rows.products:
            for w, x in zip(product.weights[row].tolist(), self.int16[product.x], strict=True):
                start += w * x
                assert -(2**31) <= start < 2**31
            start >>= product.shift
        return start

    def table(self, result: int) -> int:
        v = min(max(result, -(1 << self.bits - 1)), (1 << self.bits - 1) - 1)
        word = self.words[(v >> 15) + len(self.words) // 2]
        slope, offset = ((x & 0xFFFF) - (0x10000 if x & 0x8000 else 0) for x in (word, v))
        return word + slope * offset

    def rows(self, rows: Rows) -> list[int]:
        return [self.accumulate(rows, k, int(b)) for k, b in enumerate(rows.bias)]

    def dense(self, op: FixedDense) -> None:
        results = self.rows(op.rows)
        one = 1 << 30
        match op.form:
            case "signed":
                self.int16[op.y] = [min(max(x, -32768), 32767) for x in results]
            case "relu":
                self.int16[op.y] = [min(max(x, 0), 32767) for x in results]
            case "tanh":
                self.int16[op.y] = [self.table(x) >> 15 for x in results]
            case "sigmoid":
                self.int16[op.y] = [(self.table(x) + one) >> 16 for x in results]
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
            reached = self.table(cell * op.factor + (1 << 31) >> 32)
            hidden.append((o + (1 << 30)) * reached >> 32)
        self.keep(op.h_next, hidden)
        self.keep(op.c_next, cells)


def converted(value: float, exponent: int) -> int:
    if math.isnan(value):
        return 0
    if math.isinf(value):
        return 32767 if value > 0 else -32768
    return min(max(math.trunc(Fraction(value) * Fraction(2) ** exponent), -32768), 32767)


def step(
    program: FixedProgram, observation: Sequence[float], states: Sequence[Sequence[int]]
) -> tuple[list[float], list[list[int]]]:
    scalar = Scalar(program, states)
    action: list[float] = []
    for op in program.operations:
        match op:
            case FixedInput():
                pairs = zip(observation, op.exponents, strict=True)
                scalar.int16[op.y] = [converted(float(x), e) for x, e in pairs]
            case FixedDense():
                scalar.dense(op)
            case FixedGru():
                scalar.gru(op)
            case FixedLstm():
                scalar.lstm(op)
            case FixedGather():
                scalar.int16[op.y] = [scalar.int16[op.sources[k]][j] for k, j in op.picks]
            case FixedOutput():
                singles = np.array(scalar.whole[op.x], np.int64).astype(np.float32)
                action = [float(x) * 2.0**-op.exponent for x in singles]
    return action, [scalar.whole[after] for _, after in program.states]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs())
def test_the_interpreter_is_the_definition(drawn: tuple[Program, int]) -> None:
    program, seed = drawn
    seen = observations(program, seed, 40, 8)
    try:
        fixed = quantisation.quantise(program, seen)
    except UserError:
        return
    states = quantisation.reset(fixed)
    far = np.random.default_rng(seed).choice([np.nan, np.inf, -1e9, 3.0, 1e-42], size=seen.shape[2])
    for observation in (*seen[:5, 0], far.astype(np.float32), *seen[5:7, 0]):
        action, after = step(fixed, observation.tolist(), [s.tolist() for s in states])
        got, states = quantisation.run(fixed, observation, states)
        assert got.tolist() == action
        assert [s.tolist() for s in states] == after
