"""The exact interpreter: what a FixedProgram computes, to the last bit.

Integers are int64 and checked: one that leaves int32 raises, since what C or a core does there is
no part of the definition, and `proof` shows that it cannot happen.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.toolchain.quantisation.arithmetic import (
    curve_shift,
    sigmoid_shift,
    state_shift,
    upper,
)
from edgerl.toolchain.quantisation.cubic import CubicTable
from edgerl.toolchain.quantisation.program import (
    WIDTH,
    FixedArgMax,
    FixedClip,
    FixedDense,
    FixedGather,
    FixedGru,
    FixedInput,
    FixedLstm,
    FixedMultiply,
    FixedOperation,
    FixedOutput,
    FixedProgram,
    Form,
    Product,
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
    batch = np.shape(observation)[:-1]

    def whole(value: Array) -> Array:
        """One for each of the batch, also where nothing that it comes from differs within."""
        return np.broadcast_to(value, (*batch, value.shape[-1])).copy()

    return whole(tensors[program.action]), tuple(
        whole(tensors[after].astype(np.int32)) for _, after in program.states
    )


def trace(
    program: FixedProgram, observation: npt.ArrayLike, states: Sequence[npt.ArrayLike]
) -> dict[str, Array]:
    """Every tensor of one step by name: float32 outside, int64 inside, states whole."""
    tensors: dict[str, Array] = {program.observation: np.asarray(observation, np.float32)}
    for (before, _), state in zip(program.states, states, strict=True):
        tensors[before] = np.asarray(state, np.int64)
    step = _Step(program, tensors)
    for operation in program.operations:
        step.perform(operation)
    return tensors


class _Step:
    """One step under way: the tensors so far."""

    def __init__(self, program: FixedProgram, tensors: dict[str, Array]) -> None:
        self.table = program.table
        self.curves = program.curves
        self.halfwords = program.halfwords
        self.states = program.recurrent
        self.tensors = tensors

    def perform(self, operation: FixedOperation) -> None:
        """Write what one operation makes."""
        match operation:
            case FixedInput(x=x, y=y):
                self.tensors[y] = _converted(self.tensors[x], operation, self.halfwords[y].bits)
            case FixedDense(rows, form, y, curve):
                zero = np.zeros(1, np.int64)
                result = self._accumulated(rows, rows.bias + zero, y)
                bits = self.halfwords[y].bits if y in self.halfwords else WIDTH
                table = self.table if curve is None else self.curves[curve]
                self.tensors[y] = _formed(result, form, table, bits)
            case FixedGru():
                self.tensors[operation.h_next] = self._gru(operation)
            case FixedLstm():
                h, c = self._lstm(operation)
                self.tensors[operation.h_next], self.tensors[operation.c_next] = h, c
            case FixedGather(sources, picks, y):
                parts = [self._halfwords(x) for x in sources]
                picked = [parts[k][..., j] for k, j in picks]
                self.tensors[y] = np.stack(np.broadcast_arrays(*picked), axis=-1)
            case FixedClip(x, low, high, y):
                value = self._halfwords(x) if x in self.halfwords else self.tensors[x]
                self.tensors[y] = np.minimum(np.maximum(value, low), high)
            case FixedMultiply(a, b, shift, y):
                half = 1 << (self.halfwords[y].bits - 1)
                product = self._halfwords(a) * self._halfwords(b) + (1 << shift >> 1)
                self.tensors[y] = np.clip(_int32(product, y) >> shift, -half, half - 1)
            case FixedArgMax(x, y):
                self.tensors[y] = self.tensors[x].argmax(axis=-1, keepdims=True)
            case FixedOutput(x, exponent, y):
                rounded = self.tensors[x].astype(np.float32)
                self.tensors[y] = np.ldexp(rounded, -exponent)

    def _halfwords(self, name: str) -> Integers:
        """A vector as matrices read it."""
        x = self.tensors[name]
        return x >> state_shift(self.halfwords[name].bits) if name in self.states else x

    def _accumulated(self, rows: Rows, start: Integers, where: str) -> Integers:
        """The products of `rows` added to a start that has their bias in it."""
        total = start
        for product in rows.products:
            added = _multiplied(product, self._halfwords(product.x))
            total = _int32(total + added, where) >> product.shift
        total = _lifted(total, rows.lift)
        return total if rows.multipliers is None else upper(total * rows.multipliers)

    def _looked_up(self, result: Integers) -> Integers:
        return _read(self.table, result)

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
        return _int32(h + upper(distance * share), where)

    def _lstm(self, lstm: FixedLstm) -> tuple[Integers, Integers]:
        where = lstm.h_next
        opened = (lstm.input, lstm.forget, lstm.output)
        enter, keep, leave = (_int32(self._gate(rows, where) + _ONE, where) for rows in opened)
        twice = _int32(2 * self.tensors[lstm.c], lstm.c_next)
        added = upper(enter * self._gate(lstm.new, where)) >> lstm.shift
        c_next = np.clip(upper(twice * keep) + added, -(1 << 29), (1 << 29) - 1)
        argument = _lifted(upper(c_next * lstm.factor), lstm.lift)
        return leave * self._looked_up(argument) >> 32, c_next


def _formed(result: Integers, form: Form, table: Table | CubicTable, bits: int) -> Integers:
    """What a form makes of rows' results, `table` being the one that it reads if any."""
    half = 1 << (bits - 1)
    match form:
        case "signed":
            return np.clip(result, -half, half - 1)
        case "relu":
            return np.clip(result, 0, half - 1)
        case "wide":
            return result
        case "wide_relu":
            return np.maximum(result, 0)
        case "curve":
            return _read(table, result) >> (32 - bits)
        case "tanh":
            return _read(table, result) >> curve_shift(bits)
        case "sigmoid":
            return (_read(table, result) + _ONE) >> sigmoid_shift(bits)
        case "wide_tanh":
            return _read(table, result)
        case "wide_sigmoid":
            return _read(table, result) + _ONE


def _read(table: Table | CubicTable, result: Integers) -> Integers:
    """What a table gives for a result, which is saturated to its argument."""
    half = 1 << (table.argument_bits - 1)
    return table.look_up(np.clip(result, -half, half - 1))


def _multiplied(product: Product, x: Integers) -> Integers:
    """What a product of x [..., columns] adds to each row."""
    if product.dropped:
        total = np.zeros((*x.shape[:-1], len(product.weights)), np.int64)
        for column, weights in enumerate(product.weights.T.astype(np.int64)):
            total += upper(x[..., column, np.newaxis] * weights, product.dropped)
        return total
    # Doubles hold every partial sum exactly: below 2^53 for 2^22 columns.
    whole: Integers = (x.astype(np.float64) @ product.weights.T.astype(np.float64)).astype(np.int64)
    return whole


def _lifted(total: Integers, lift: int) -> Integers:
    """Shifted up, saturated before."""
    if not lift:
        return total
    half = 1 << (31 - lift)
    return np.clip(total, -half, half - 1) << lift


def _converted(x: Singles, entry: FixedInput, bits: int) -> Integers:
    """Float32 to integers of so many bits, as a conversion instruction does it: exact scaling,
    then rounded towards zero and saturated; NaN is 0."""
    guard = entry.guard
    half = 2.0 ** (bits + guard - 1)
    scaled = np.ldexp(x.astype(np.float64), np.asarray(entry.exponents) + guard)
    limited = np.clip(np.nan_to_num(scaled, nan=0.0), -half, half - 1.0)
    whole: Integers = np.trunc(limited).astype(np.int64)
    return np.minimum(upper(whole, guard), (1 << (bits - 1)) - 1)


def _int32(x: Integers, where: str) -> Integers:
    """x, which fits in int32."""
    if x.size and (x.min() < -(1 << 31) or x.max() >= 1 << 31):
        raise OverflowError(f"{where}: an integer leaves int32")
    return x
