"""Rescaling: other weights at a FixedProgram's scales, and its weights as real numbers.

How large integers are for what they stand for is decided once, with a calibration. From then on
other weights come to integers at the same scales, plainly rounded, and integer weights can be
read as the real numbers that they multiply like, which come to the same integers again. That is
what weights are trained through.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.errors import UserError
from edgerl.toolchain.ir import Dense, Gru, Lstm, Matrix, Operation, Program, writes
from edgerl.toolchain.quantisation.program import (
    Doubles,
    FixedClip,
    FixedDense,
    FixedGru,
    FixedLstm,
    FixedOperation,
    FixedOutput,
    FixedProgram,
    Halfword,
    Rows,
    Stored,
    gates,
)
from edgerl.toolchain.quantisation.proof import LIMIT, require_no_overflow, stretches
from edgerl.toolchain.quantisation.rounding import Moments, fed_back
from edgerl.toolchain.quantisation.table import Integers

_WIDTH = 16
_LARGEST = (1 << (_WIDTH - 1)) - 1
# Sums that no weight enters.
_UNTRAINED = ("share", "distance", "cell")
# How many times larger than int32 holds rows [rows] can become, by layer and part.
Excess = dict[str, dict[str, Doubles]]

FixedLayer = FixedDense | FixedGru | FixedLstm

_LIGHTENINGS = 60
_MARGIN = 2.0**-12
_GATES = ("reset", "update", "hidden", "candidate")


@dataclass(frozen=True)
class Accumulation:
    """Rows of a layer in integers. `units` [rows] of their result before multipliers stand for
    `sign` times 1.0, the sum that the layer's own weights make."""

    rows: Rows
    units: Doubles
    sign: float = 1.0

    @property
    def finer(self) -> tuple[float, ...]:
        """How many times finer than the result each stretch accumulates."""
        shifts = [product.shift for product in self.rows.products]
        return tuple(2.0 ** sum(shifts[k:]) for k in range(len(shifts)))

    @property
    def bias_scale(self) -> Doubles:
        """What a bias of 1.0 is in integers, [rows]."""
        scale: Doubles = self.sign * self.units * self.finer[0]
        return scale

    def columns(self, lsb: Sequence[Doubles]) -> Doubles:
        """What 1.0 on each column is in integers, [rows, columns], operands of these steps."""
        steps = [step * finer for step, finer in zip(lsb, self.finer, strict=True)]
        scale: Doubles = self.sign * self.units[:, np.newaxis] * np.concatenate(steps)
        return scale


@dataclass(frozen=True)
class Real:
    """The same rows of a layer in real numbers: bias [rows], and a matrix for each product."""

    bias: Doubles
    matrices: tuple[Doubles, ...]


def with_weights(fixed: FixedProgram, program: Program) -> FixedProgram:
    """`fixed` with the weights and biases of `program` instead, at the same scales, each weight to
    the nearest there is.

    `program` has the layers that `fixed` was made of. Nothing is proved of the new rows. Raises
    UserError where a layer is missing.
    """
    layers = _layers(program)
    names = _real_names(fixed)
    operations: list[FixedOperation] = []
    for operation in fixed.operations:
        match operation:
            case FixedDense() | FixedGru() | FixedLstm():
                own = accumulations(fixed, operation)
                layer = names.get(_written(operation), _written(operation))
                real = real_parts(layers[layer]) if layer in layers else {}
                if real.keys() != own.keys():
                    raise UserError(f"{layer}: the program whose scales are kept has other layers")
                rows = {part: _rounded(fixed, own[part], real[part]) for part in own}
                operations.append(_replaced(operation, rows))
            case _:
                operations.append(operation)
    return replace(fixed, operations=tuple(operations))


def proved_with_weights(fixed: FixedProgram, program: Program) -> tuple[FixedProgram, Program]:
    """`with_weights` where nothing can overflow, and the program that it has the weights of:
    `program`, where rows could, with those of their weights a step nearer to zero that were
    nearest to it.

    Raises UserError where that does not help.
    """
    for attempt in range(_LIGHTENINGS):
        made = with_weights(fixed, program)
        excess = _excess(made)
        if not excess:
            return made, program
        units = _layer_units(made)

        def lighter(
            operation: Operation,
            made: FixedProgram = made,
            excess: Excess = excess,
            units: Mapping[str, FixedLayer] = units,
            more: int = attempt,
        ) -> Operation:
            layer = writes(operation)[0]
            if layer not in excess:
                return operation
            own, parts = accumulations(made, units[layer]), real_parts(operation)
            for part, ratios in excess[layer].items():
                parts[part] = _lighter(made, own[part], parts[part], ratios, more)
            return _joined(operation, parts)

        program = replace(program, operations=tuple(map(lighter, program.operations)))
    require_no_overflow(made)
    return made, program


def _lighter(
    fixed: FixedProgram, own: Accumulation, real: Real, ratios: Doubles, more: int
) -> Real:
    """Rows of a part that is `own` in integers, where they exceed int32 with as many weights a step
    smaller as should do, and some `more`: those above others in a word change with them."""
    stored = own.rows.products[0].stored
    if stored == _WIDTH:
        by = np.where(ratios >= 1.0, (1.0 - _MARGIN) / np.maximum(ratios, 1.0), 1.0)
        return Real(by * real.bias, tuple(by[:, np.newaxis] * matrix for matrix in real.matrices))
    read, step = _read(fixed, own), 1 << (_WIDTH - stored)
    columns = own.columns([halfword.lsb for halfword in read])
    whole = np.concatenate([p.weights.astype(np.float64) for p in own.rows.products], axis=1)
    wanted = np.concatenate(real.matrices, axis=1) * columns
    nearer = whole - np.sign(whole) * step
    # What a step less leaves of the distance, for weights that have a step to lose.
    cost = np.where(np.abs(whole) >= 0.5 * step, np.abs(wanted - nearer), np.inf)
    # A step of any column, of operands as large as they come, takes so much off a sum.
    saved = step * 2.0 ** (max(halfword.bits for halfword in read) - 1)
    for row in np.flatnonzero(ratios >= 1.0):
        needed = max(1, math.ceil((ratios[row] - 1.0) * LIMIT / saved)) + more
        chosen = np.argsort(cost[row], kind="stable")[:needed]
        wanted[row, chosen] = nearer[row, chosen]
    ends = np.cumsum([halfword.size for halfword in read])[:-1]
    return Real(real.bias, tuple(np.split(wanted / columns, ends, axis=1)))


def _layer_units(fixed: FixedProgram) -> dict[str, FixedLayer]:
    """The operations with weights, by the tensor that the layer they are writes first."""
    names = _real_names(fixed)
    return {
        names.get(_written(operation), _written(operation)): operation
        for operation in fixed.operations
        if isinstance(operation, FixedLayer)
    }


def _excess(fixed: FixedProgram) -> Excess:
    """Of layers and parts with rows that can overflow."""
    names = _real_names(fixed)
    found: Excess = {}
    for stretch in stretches(fixed):
        if (stretch.ratios >= 1.0).any() and stretch.part not in _UNTRAINED:
            parts = found.setdefault(names.get(stretch.layer, stretch.layer), {})
            before = parts.get(stretch.part, stretch.ratios)
            parts[stretch.part] = np.maximum(before, stretch.ratios)
    return found


def effective(fixed: FixedProgram, program: Program) -> Program:
    """`program` with the weights and biases that those of `fixed`, which was made of it, act
    like. Of a gate's two biases the one beside the input takes what there is to take."""
    units = _layer_units(fixed)

    def read(operation: Operation) -> Operation:
        layer = writes(operation)[0]
        if not isinstance(operation, Dense | Gru | Lstm):
            return operation
        parts = accumulations(fixed, units[layer])
        return _joined(operation, {part: _read_back(fixed, own) for part, own in parts.items()})

    return replace(program, operations=tuple(map(read, program.operations)))


def accumulations(fixed: FixedProgram, operation: FixedLayer) -> dict[str, Accumulation]:
    """The accumulations of an operation by part, as the overflow proof names them.

    Raises UserError for one whose scale nothing tells, and for widths other than 16 bits.
    """
    if fixed.width != _WIDTH:
        raise UserError(
            f"{fixed.name}: weights are trained for int16 activations, formats w16a16, w8a16 and "
            f"w4a16, not {fixed.width} bits"
        )
    scale = fixed.table.scale
    match operation:
        case FixedDense(rows=rows):
            return {"": _before(rows, _dense_units(fixed, operation))}
        case FixedGru():
            new = _before(operation.candidate, scale)
            return {
                "reset": _before(operation.reset, 0.5 * scale),
                "update": _before(operation.update, 0.5 * scale, -1.0),
                # It enters the candidate's accumulation at twice the scale that that begins at.
                "hidden": _before(operation.hidden, 2.0 * new.units * new.finer[0]),
                "candidate": new,
            }
        case FixedLstm():
            share = {"new": 1.0}
            return {
                part: _before(rows, share.get(part, 0.5) * scale) for part, rows in gates(operation)
            }


def _before(rows: Rows, units: float | Doubles, sign: float = 1.0) -> Accumulation:
    """Rows whose result after multipliers is `units` times the real one."""
    whole = np.broadcast_to(np.asarray(units, np.float64), rows.bias.shape)
    if rows.multipliers is not None:
        whole = whole * 2.0**32 / rows.multipliers
    return Accumulation(rows, whole, sign)


def _dense_units(fixed: FixedProgram, dense: FixedDense) -> float | Doubles:
    outputs = _outputs(fixed)
    match dense.form:
        case "tanh" | "wide_tanh":
            return fixed.table.scale
        case "sigmoid" | "wide_sigmoid":
            return 0.5 * fixed.table.scale
        case "curve":
            return fixed.curves[dense.curve or ""].scale
        case "signed" | "relu":
            return 1.0 / fixed.halfwords[dense.y].lsb
        case _ if dense.y in outputs:
            return float(2.0 ** outputs[dense.y].exponent)
        case _:
            raise UserError(f"{dense.y}: its integers are only compared, which tells no scale")


def _outputs(fixed: FixedProgram) -> dict[str, FixedOutput]:
    """By the int32 vector that leaves, limited or not."""
    outputs = {op.x: op for op in fixed.operations if isinstance(op, FixedOutput)}
    for clip in reversed([op for op in fixed.operations if isinstance(op, FixedClip)]):
        if clip.y in outputs:
            outputs[clip.x] = outputs[clip.y]
    return outputs


def _real_names(fixed: FixedProgram) -> Mapping[str, str]:
    """The tensors that int32 vectors that leave stand for."""
    return {x: output.y for x, output in _outputs(fixed).items()}


def _layers(program: Program) -> dict[str, Operation]:
    return {writes(op)[0]: op for op in program.operations if isinstance(op, Dense | Gru | Lstm)}


def _written(operation: FixedLayer) -> str:
    return operation.y if isinstance(operation, FixedDense) else operation.h_next


def real_parts(operation: Operation) -> dict[str, Real]:
    """A layer's real numbers by part, matrices in the order in which integers accumulate."""
    match operation:
        case Dense(sources, bias):
            return {"": _real(bias, *(w for _, w in sources))}
        case Gru(w_input=w_input, w_hidden=w_hidden, b_input=b_input, b_hidden=b_hidden):
            inputs, hiddens = np.split(w_input, 3), np.split(w_hidden, 3)
            of_x, of_h = np.split(b_input, 3), np.split(b_hidden, 3)
            both = [x.astype(np.float64) + h for x, h in zip(of_x, of_h, strict=True)]
            return {
                "reset": _real(both[0], hiddens[0], inputs[0]),
                "update": _real(both[1], hiddens[1], inputs[1]),
                "hidden": _real(of_h[2], hiddens[2]),
                "candidate": _real(of_x[2], inputs[2]),
            }
        case Lstm(w_input=w_input, w_hidden=w_hidden, bias=bias):
            blocks = (np.split(v, 4) for v in (bias, w_hidden, w_input))
            rows = zip(*blocks, strict=True)
            names = ("input", "forget", "new", "output")
            return {name: _real(*row) for name, row in zip(names, rows, strict=True)}
        case _:
            return {}


def _real(bias: npt.NDArray[np.floating], *matrices: Matrix) -> Real:
    return Real(bias.astype(np.float64), tuple(w.astype(np.float64) for w in matrices))


def _joined(operation: Operation, parts: Mapping[str, Real]) -> Operation:
    """A layer with the real numbers of its parts."""

    def stacked(blocks: Iterable[npt.NDArray[np.floating]]) -> Matrix:
        return np.concatenate([*blocks]).astype(np.float32)

    match operation:
        case Dense(sources):
            (own,) = parts.values()
            matrices = (matrix.astype(np.float32) for matrix in own.matrices)
            pairs = zip((x for x, _ in sources), matrices, strict=True)
            return replace(operation, sources=tuple(pairs), bias=own.bias.astype(np.float32))
        case Gru(b_hidden=b_hidden):
            r, z, hidden, new = (parts[name] for name in _GATES)
            of_h = np.split(b_hidden, 3)[:2]
            shared = [own.bias - b for own, b in zip((r, z), of_h, strict=True)]
            return replace(
                operation,
                w_input=stacked([r.matrices[1], z.matrices[1], new.matrices[0]]),
                w_hidden=stacked([r.matrices[0], z.matrices[0], hidden.matrices[0]]),
                b_input=stacked([*shared, new.bias]),
                b_hidden=stacked([*of_h, hidden.bias]),
            )
        case Lstm():
            hiddens, inputs = zip(*(own.matrices for own in parts.values()), strict=True)
            biases = stacked(own.bias for own in parts.values())
            return replace(
                operation, w_input=stacked(inputs), w_hidden=stacked(hiddens), bias=biases
            )
        case _:
            return operation


def _read(fixed: FixedProgram, own: Accumulation) -> list[Halfword]:
    return [fixed.halfwords[product.x] for product in own.rows.products]


def _read_back(fixed: FixedProgram, own: Accumulation) -> Real:
    """The real numbers that integer rows act like."""
    read, products = _read(fixed, own), own.rows.products
    whole = np.concatenate([p.weights.astype(np.float64) for p in products], axis=1)
    real = whole / own.columns([halfword.lsb for halfword in read])
    matrices = np.split(real, np.cumsum([halfword.size for halfword in read])[:-1], axis=1)
    integers = [product.weights for product in products]
    bias = (own.rows.bias - _made_up(own, read, integers)) / own.bias_scale
    return Real(bias, tuple(matrices))


def _rounded(fixed: FixedProgram, own: Accumulation, real: Real) -> Rows:
    """Real rows at the scales of integer ones."""
    read = _read(fixed, own)
    widths = [halfword.size for halfword in read]
    columns = own.columns([halfword.lsb for halfword in read])
    wanted = np.clip(np.concatenate(real.matrices, axis=1) * columns, -_LARGEST, _LARGEST)
    whole = _nearest(wanted, widths, own.rows.products[0].stored)
    weights = np.split(whole, np.cumsum(widths)[:-1], axis=1)
    bias = np.rint(real.bias * own.bias_scale + _made_up(own, read, weights))
    products = tuple(
        replace(product, weights=integers.astype(np.int16))
        for product, integers in zip(own.rows.products, weights, strict=True)
    )
    begin = np.clip(bias, -LIMIT, LIMIT - 1).astype(np.int32)
    return replace(own.rows, bias=begin, products=products)


def _made_up(
    own: Accumulation, read: Sequence[Halfword], weights: Sequence[npt.NDArray[np.integer]]
) -> Doubles:
    """What of a bias [rows] makes up for roundings down: of operands, and by shifts."""
    total = np.zeros(own.rows.size)
    each = zip(own.rows.products, weights, read, own.finer, strict=True)
    for product, integers, halfword, finer in each:
        lost = integers @ halfword.offset + (0.5 * 2.0**product.shift if product.shift else 0.0)
        total = total + lost * (own.finer[0] / finer)
    return total


def _nearest(wanted: Doubles, widths: Sequence[int], stored: Stored) -> Integers:
    """Effective weights nearest to the wanted ones, each of those that there are above what lies
    below it in its word."""
    if stored == _WIDTH:
        return np.rint(wanted).astype(np.int64)
    # Columns that do not vary together take nothing of each other's errors.
    alone = Moments(np.zeros(wanted.shape[1]), np.eye(wanted.shape[1]))
    return fed_back(wanted, widths, stored, alone)


def _replaced(operation: FixedLayer, rows: Mapping[str, Rows]) -> FixedLayer:
    changes: dict[str, Any] = {part or "rows": own for part, own in rows.items()}
    return replace(operation, **changes)
