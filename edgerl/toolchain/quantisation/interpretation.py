"""The exact interpreter: what a FixedProgram computes, to the last bit.

Integers are int64 and checked: one that leaves int32 raises, since what C or a core does there is
no part of the definition, and `proof` shows that it cannot happen.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.toolchain.quantisation.program import (
    PACK_SHIFT,
    FixedDense,
    FixedGather,
    FixedGru,
    FixedInput,
    FixedLstm,
    FixedOperation,
    FixedOutput,
    FixedProgram,
    Form,
    Rows,
    Words,
)
from edgerl.toolchain.quantisation.table import FRACTION, Integers, Table

Singles = npt.NDArray[np.float32]
Array = npt.NDArray[Any]

_ONE = 1 << FRACTION


def reset(program: FixedProgram, batch: tuple[int, ...] = ()) -> tuple[Words, ...]:
    """The states after a reset, int32: zeros."""
    sizes = (program.halfwords[before].size for before, _ in program.states)
    return tuple(np.zeros((*batch, size), np.int32) for size in sizes)


def run(
    program: FixedProgram, observation: npt.ArrayLike, states: Sequence[npt.ArrayLike]
) -> tuple[Singles, tuple[Words, ...]]:
    """The action [..., m] float32 and next states [..., k] int32 for an observation [..., n]
    float32 and states int32. Leading axes are a batch.

    Raises OverflowError where an integer leaves int32.
    """
    tensors = trace(program, observation, states)
    return tensors[program.action], tuple(
        tensors[after].astype(np.int32) for _, after in program.states
    )


def trace(
    program: FixedProgram, observation: npt.ArrayLike, states: Sequence[npt.ArrayLike]
) -> dict[str, Array]:
    """Every tensor of one step by name: float32 outside, int64 inside, states whole."""
    tensors: dict[str, Array] = {program.observation: np.asarray(observation, np.float32)}
    for (before, _), state in zip(program.states, states, strict=True):
        tensors[before] = np.asarray(state, np.int64)
    step = _Step(program.table, {name for pair in program.states for name in pair}, tensors)
    for operation in program.operations:
        step.perform(operation)
    return tensors


class _Step:
    """One step under way: the tensors so far."""

    def __init__(self, table: Table, states: set[str], tensors: dict[str, Array]) -> None:
        self.table = table
        self.states = states
        self.tensors = tensors

    def perform(self, operation: FixedOperation) -> None:
        """Write what one operation makes."""
        match operation:
            case FixedInput(x, exponents, y):
                self.tensors[y] = _converted(self.tensors[x], exponents)
            case FixedDense(rows, form, y):
                zero = np.zeros(1, np.int64)
                self.tensors[y] = self._formed(self._accumulated(rows, rows.bias + zero, y), form)
            case FixedGru():
                self.tensors[operation.h_next] = self._gru(operation)
            case FixedLstm():
                h, c = self._lstm(operation)
                self.tensors[operation.h_next], self.tensors[operation.c_next] = h, c
            case FixedGather(sources, picks, y):
                parts = [self._halfwords(x) for x in sources]
                picked = [parts[k][..., j] for k, j in picks]
                self.tensors[y] = np.stack(np.broadcast_arrays(*picked), axis=-1)
            case FixedOutput(x, exponent, y):
                rounded = self.tensors[x].astype(np.float32)
                self.tensors[y] = np.ldexp(rounded, -exponent)

    def _halfwords(self, name: str) -> Integers:
        """A vector as matrices read it."""
        x = self.tensors[name]
        return x >> PACK_SHIFT if name in self.states else x

    def _accumulated(self, rows: Rows, start: Integers, where: str) -> Integers:
        """The products of `rows` added to a start that has their bias in it."""
        total = start
        for product in rows.products:
            # Doubles hold every partial sum exactly: below 2^53 for 2^22 columns.
            x = self._halfwords(product.x).astype(np.float64)
            added = (x @ product.weights.T.astype(np.float64)).astype(np.int64)
            total = _int32(total + added, where) >> product.shift
        return total

    def _looked_up(self, result: Integers) -> Integers:
        half = 1 << (self.table.argument_bits - 1)
        return self.table.look_up(np.clip(result, -half, half - 1))

    def _formed(self, result: Integers, form: Form) -> Integers:
        match form:
            case "signed":
                return np.clip(result, -(1 << 15), (1 << 15) - 1)
            case "relu":
                return np.clip(result, 0, (1 << 15) - 1)
            case "wide":
                return result
            case "wide_relu":
                return np.maximum(result, 0)
            case "tanh":
                return self._looked_up(result) >> 15
            case "sigmoid":
                return (self._looked_up(result) + _ONE) >> 16
            case "wide_tanh":
                return self._looked_up(result)
            case "wide_sigmoid":
                return self._looked_up(result) + _ONE

    def _gate(self, rows: Rows, where: str) -> Integers:
        """The table's value of rows that begin with their bias, Q30."""
        return self._looked_up(self._accumulated(rows, rows.bias.astype(np.int64), where))

    def _gru(self, gru: FixedGru) -> Integers:
        where = gru.h_next
        reset_tanh = self._gate(gru.reset, where)
        share = _int32(self._gate(gru.update, where) + _ONE, where)
        hidden = self._accumulated(gru.hidden, gru.hidden.bias.astype(np.int64), where)
        start = _int32(gru.candidate.bias + (hidden >> 2), where)
        start = _int32(start + (reset_tanh * hidden >> 32), where)
        new = self._looked_up(self._accumulated(gru.candidate, start, where))
        h = self.tensors[gru.h]
        distance = _int32(new - 2 * h, where)
        return _int32(h + _upper(distance * share), where)

    def _lstm(self, lstm: FixedLstm) -> tuple[Integers, Integers]:
        where = lstm.h_next
        opened = (lstm.input, lstm.forget, lstm.output)
        enter, keep, leave = (_int32(self._gate(rows, where) + _ONE, where) for rows in opened)
        twice = _int32(2 * self.tensors[lstm.c], lstm.c_next)
        added = _upper(enter * self._gate(lstm.new, where)) >> lstm.shift
        c_next = np.clip(_upper(twice * keep) + added, -(1 << 29), (1 << 29) - 1)
        argument = _upper(c_next * lstm.factor)
        return leave * self._looked_up(argument) >> 32, c_next


def _upper(product: Integers) -> Integers:
    """The upper half of a 64-bit product, to nearest."""
    return product + (1 << 31) >> 32


def _converted(x: Singles, exponents: Sequence[int]) -> Integers:
    """Float32 to int16, as one conversion instruction does it: exact scaling, then rounded
    towards zero and saturated; NaN is 0."""
    scaled = np.ldexp(x.astype(np.float64), np.asarray(exponents))
    limited = np.clip(np.nan_to_num(scaled, nan=0.0), -(2.0**15), 2.0**15 - 1.0)
    whole: Integers = np.trunc(limited).astype(np.int64)
    return whole


def _int32(x: Integers, where: str) -> Integers:
    """x, which fits in int32."""
    if x.size and (x.min() < -(1 << 31) or x.max() >= 1 << 31):
        raise OverflowError(f"{where}: an integer leaves int32")
    return x
