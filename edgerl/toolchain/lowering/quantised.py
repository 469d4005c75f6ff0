"""QuantizeLinear and DequantizeLinear: graphs that were quantised elsewhere (QDQ format).

Constants become the numbers that they stand for, exactly, and how far apart those of a row lie
is remembered. A pair of both on a run-time tensor is its rounding to a grid and its saturation
at the ends of an integer type. It is kept as a FakeQuantise, which a Program's interpreter
computes as the graph does, or, for integer formats, which round in their own way, becomes the
range that the tensor was given. Tools let such a pair stand for the ReLU before it where its
grid begins at zero; that ReLU is put back.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgerl.policies.names import shown
from edgerl.toolchain.ir import (
    Activate,
    Dense,
    FakeQuantise,
    GivenRange,
    GivenRows,
    Gru,
    Lstm,
    Program,
)
from edgerl.toolchain.lowering.elementwise import Handler
from edgerl.toolchain.lowering.flow import Flow, Step
from edgerl.toolchain.lowering.forms import Form, Key
from edgerl.toolchain.lowering.node import Constant, Grid, Node, Operand, Shape, Value

Singles = npt.NDArray[np.float32]
Wholes = npt.NDArray[np.int64]

_ENDS: Mapping[str, tuple[int, int]] = {
    f"{sign}int{bits}": (0, (1 << bits) - 1) if sign else (-(1 << bits - 1), (1 << bits - 1) - 1)
    for bits in (4, 8, 16)
    for sign in ("", "u")
}
_NOT_NEGATIVE = ("relu", "sigmoid", "softplus", "square", "sqrt", "abs", "exp")
# Operators that keep quantised numbers to themselves.
_OTHER_FORMATS = (
    "ConvInteger",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
)


@dataclass(frozen=True)
class RangedForm:
    """A form, and the range that the graph gives it."""

    form: Form
    low: float
    high: float
    bits: int


@dataclass
class Quantised:
    """Reads the quantised part of one graph. With `rounding`, what it rounds at run time stays
    rounded; without, `ranges` collects what it tells of run-time tensors."""

    rounding: bool
    ranges: dict[Key, RangedForm] = field(default_factory=dict)
    _scales: dict[bytes, float] = field(default_factory=dict)

    @property
    def handlers(self) -> dict[str, Handler]:
        """By operator."""
        return {
            "DequantizeLinear": self._dequantize,
            "QuantizeLinear": self._quantize,
            **dict.fromkeys(_OTHER_FORMATS, _refuse),
        }

    def _quantize(self, flow: Flow, node: Node) -> list[Operand]:
        x = node.input(0)
        if not isinstance(x, Value):
            return [_whole(node, x)]
        grid = _grid(node)
        return [Value(self._on_grid(flow, x.form, grid), x.shape, integer=True, grid=grid)]

    def _on_grid(self, flow: Flow, x: Form, grid: Grid) -> Form:
        """x as DequantizeLinear will give it back."""
        if self.rounding:
            template = FakeQuantise("", grid.scale, grid.zero_point, grid.low, grid.high, "")
            return flow.step(template, {"x": x}, {"y": x.size})[0]
        low, high = ((end - grid.zero_point) * grid.scale for end in (grid.low, grid.high))
        bits = (grid.high - grid.low).bit_length()
        base = flow.base_of(x)
        kind = base.template if isinstance(base, Step) else None
        if low == 0.0 and not (isinstance(kind, Activate) and kind.activation in _NOT_NEGATIVE):
            x = flow.activate("relu", x)
        before = self.ranges.get(x.key)
        if before is not None:
            low, high, bits = min(low, before.low), max(high, before.high), max(bits, before.bits)
        self.ranges[x.key] = RangedForm(x, low, high, bits)
        return x

    def _dequantize(self, flow: Flow, node: Node) -> list[Operand]:
        x = node.input(0)
        if isinstance(x, Value):
            if x.grid is None or _grid(node) != x.grid:
                raise node.fail("does not undo the QuantizeLinear before it, scale by scale")
            return [Value(x.form, x.shape)]
        scale = _scales(node, x.shape)
        whole = x.astype(np.int64) - _offsets(node, x.shape)
        values: Singles = whole.astype(np.float32) * scale
        self._remember(values, scale)
        return [values]

    def _remember(self, values: Singles, scale: Singles) -> None:
        """How far apart the numbers of each row and each column of matrices lie."""
        if values.ndim < 2:
            return
        for turned, steps in (
            (values, scale),
            (np.swapaxes(values, -1, -2), np.swapaxes(scale, -1, -2)),
        ):
            rows = turned.reshape(-1, turned.shape[-1])
            each = steps.reshape(rows.shape)
            for row in np.flatnonzero((each == each[:, :1]).all(axis=1)):
                self._scales[_digest(rows[row])] = float(each[row, 0])

    def rows(self, program: Program) -> dict[tuple[str, str], GivenRows]:
        """The matrices of `program` that came quantised and were left as they were."""
        found = {}
        for key, matrix in _matrices(program):
            scale = np.array([self._scales.get(_digest(row), 0.0) for row in matrix])
            if scale.all():
                whole = np.rint(matrix / scale[:, np.newaxis])
                bits = int(np.abs(whole).max()).bit_length() + 1
                found[key] = GivenRows(scale.astype(np.float32), bits)
        return found


def _matrices(program: Program) -> Iterator[tuple[tuple[str, str], Singles]]:
    """Every matrix with what is written with it and what it multiplies."""
    for operation in program.operations:
        match operation:
            case Dense(sources, _, y):
                yield from (((y, x), matrix) for x, matrix in sources)
            case Gru() | Lstm():
                yield (operation.h_next, operation.x), operation.w_input
                yield (operation.h_next, operation.h), operation.w_hidden


def given_ranges(program: Program, named: dict[str, RangedForm]) -> dict[str, GivenRange]:
    """What a graph said of forms, of the tensors of `program` that hold them."""
    ranges = {}
    for name, given in named.items():
        low, high = (
            np.full(program.size(name), end, np.float32) for end in (given.low, given.high)
        )
        ranges[name] = GivenRange(low, high, given.bits)
    return ranges


def _refuse(flow: Flow, node: Node) -> list[Operand]:
    raise node.fail("is of another quantised format; quantise the model in QDQ format")


def _whole(node: Node, x: Constant) -> Constant:
    """A constant in integers."""
    low, high = _ends(node)
    values = node.exact(x, node.proto.input[0]).astype(np.float32)
    whole = np.rint(values / _scales(node, x.shape)).astype(np.float64) + _offsets(node, x.shape)
    limited: Wholes = np.clip(whole, low, high).astype(np.int64)
    return limited


def _grid(node: Node) -> Grid:
    """The grid of a run-time tensor."""
    scale, zero_point = node.constant(1), _zero_point(node)
    if scale.size != 1 or zero_point.size != 1:
        raise node.fail("has a scale for each channel of a run-time tensor; give it one for all")
    step = float(_scales(node, ())[()])
    return Grid(step, int(zero_point.astype(np.int64).reshape(())), *_ends(node))


def _zero_point(node: Node) -> Constant:
    """The zero point, whose type is that of the integers; 0 where there is none."""
    if node.has(2):
        return node.constant(2)
    x = node.inputs[0]
    whole = isinstance(x, np.ndarray) and x.dtype.name in _ENDS
    return np.zeros((), x.dtype if whole and isinstance(x, np.ndarray) else np.uint8)


def _ends(node: Node) -> tuple[int, int]:
    """The least and the largest of the integers."""
    kind = _zero_point(node).dtype.name
    if kind not in _ENDS:
        raise node.fail(f"quantises to {kind}; 4, 8 and 16 bits are supported")
    return _ENDS[kind]


def _scales(node: Node, shape: Shape) -> Singles:
    """The scale of every element of a constant."""
    scale: Singles = node.numbers(1).astype(np.float32)
    if not (scale > 0.0).all():
        raise node.fail(f"scale {shown(node.proto.input[1])} is not positive")
    spread: Singles = _spread(node, scale, shape)
    return spread


def _offsets(node: Node, shape: Shape) -> Wholes:
    """The zero point of every element of a constant."""
    offsets: Wholes = _spread(node, _zero_point(node).astype(np.int64), shape)
    return offsets


def _spread(node: Node, parameter: Constant, shape: Shape) -> Constant:
    """A scale or zero point for every element of a constant: one for all, one for each place
    along an axis, or one for each block of them."""
    if parameter.size == 1:
        return np.broadcast_to(parameter.reshape(()), shape)
    axis = node.integer("axis", 1)
    if not -len(shape) <= axis < len(shape):
        raise node.fail(f"axis {axis} does not fit {len(shape)} axes")
    block = node.integer("block_size", 0)
    if block > 0 and parameter.ndim == len(shape) and parameter.shape[axis] <= shape[axis]:
        parameter = np.repeat(parameter, min(block, shape[axis]), axis)
        parameter = np.take(parameter, range(min(shape[axis], parameter.shape[axis])), axis)
    elif parameter.ndim == 1:
        parameter = np.moveaxis(parameter.reshape(-1, *[1] * (len(shape) - 1)), 0, axis)
    try:
        return np.broadcast_to(parameter, shape)
    except ValueError as error:
        raise node.fail(f"its parameters do not fit a tensor of shape {list(shape)}") from error


def _digest(row: Singles) -> bytes:
    return hashlib.blake2b(row.astype(np.float32).tobytes(), digest_size=16).digest()
