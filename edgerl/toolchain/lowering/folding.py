"""What is known before run time: constants folded node by node with ONNX's own reference.

The size of every result is bounded from the operands before anything is evaluated, so that a
file of a few bytes cannot ask for gigabytes.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from edgerl.toolchain.lowering.node import Constant, Node, Shape

LARGEST_CONSTANT = 1 << 25
MOST_PRODUCTS = 1 << 28

_NUMBERS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.INT32,
    onnx.TensorProto.INT64,
    onnx.TensorProto.BOOL,
)


def foldable(operator: str) -> bool:
    """Whether nodes of this operator can be evaluated before run time."""
    return operator in _BOUNDS


def evaluate(node: Node, inputs: list[Constant | None]) -> list[Constant]:
    """The node's results for constant inputs (None where an optional one is absent).

    Raises UserError when the operator is not in the table below, a result would be too
    large, or the operands do not fit the operator.
    """
    bound = _BOUNDS.get(node.operator)
    if bound is None:
        raise node.fail("is not supported on constants")
    arrays = [np.zeros(0) if array is None else array for array in inputs]
    try:
        size = bound(node, arrays)
    except (ValueError, IndexError, TypeError, ZeroDivisionError, OverflowError) as error:
        raise node.fail(f"its operands do not fit ({_line(error)})") from error
    if not 0 <= size <= LARGEST_CONSTANT:
        raise node.fail(f"makes a constant of {size} elements; {LARGEST_CONSTANT} are possible")
    names = [f"i{k}" if array is not None else "" for k, array in enumerate(inputs)]
    feeds = {f"i{k}": array for k, array in enumerate(inputs) if array is not None}
    proto = onnx.NodeProto(
        op_type=node.operator,
        input=names,
        output=[f"o{k}" for k in range(len(node.proto.output))],
        attribute=[a for a in node.proto.attribute if a.name in node.attributes],
    )
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(proto, opsets={"": node.opset}).run(None, feeds)
    # The reference raises whatever NumPy does with operands that do not fit.
    except Exception as error:
        raise node.fail(f"cannot be evaluated ({_line(error)})") from error
    return [_array(node, result) for result in results]


def _array(node: Node, result: Any) -> Constant:
    if not isinstance(result, np.ndarray | np.generic) or result.dtype.kind not in "fiub":
        raise node.fail("makes something other than a tensor of numbers")
    return np.asarray(result)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__


Bound = Callable[[Node, list[Constant]], int]


def _elements(shape: Shape) -> int:
    return math.prod(int(n) for n in shape)


def _broadcast(node: Node, arrays: list[Constant]) -> int:
    return _elements(np.broadcast_shapes(*(a.shape for a in arrays)))


def _split(node: Node, arrays: list[Constant]) -> int:
    if node.integer("num_outputs", len(node.proto.output)) != len(node.proto.output):
        raise ValueError("num_outputs is not the number of its outputs")
    return arrays[0].size


def _cast(node: Node, arrays: list[Constant]) -> int:
    if node.attributes.get("to") not in _NUMBERS:
        raise ValueError("the result is not numbers")
    return arrays[0].size


def _same(node: Node, arrays: list[Constant]) -> int:
    return arrays[0].size


def _total(node: Node, arrays: list[Constant]) -> int:
    return sum(a.size for a in arrays)


def _expand(node: Node, arrays: list[Constant]) -> int:
    target = tuple(int(n) for n in arrays[1])
    return _elements(np.broadcast_shapes(arrays[0].shape, target))


def _tile(node: Node, arrays: list[Constant]) -> int:
    return arrays[0].size * _elements(tuple(arrays[1]))


def _filled(node: Node, arrays: list[Constant]) -> int:
    return _elements(tuple(arrays[0]))


def _range(node: Node, arrays: list[Constant]) -> int:
    start, limit, delta = (float(a.reshape(())) for a in arrays)
    return max(0, math.ceil((limit - start) / delta))


def _gather(node: Node, arrays: list[Constant]) -> int:
    data, indices = arrays[0], arrays[1]
    along = data.shape[node.integer("axis", 0)]
    return int(data.size // max(along, 1) * indices.size)


def _gather_nd(node: Node, arrays: list[Constant]) -> int:
    return arrays[0].size * max(arrays[1].size, 1)


def _picked(node: Node, arrays: list[Constant]) -> int:
    return arrays[1].size


def _matmul(node: Node, arrays: list[Constant]) -> int:
    a, b = arrays[0], arrays[1]
    rows = a.size // max(a.shape[-1], 1)
    work = rows * b.size
    if work > MOST_PRODUCTS:
        raise ValueError("the product is too large")
    return int(rows * (b.size // max(b.shape[-2] if b.ndim > 1 else b.shape[0], 1)))


def _gemm(node: Node, arrays: list[Constant]) -> int:
    a, b = arrays[0], arrays[1]
    (m, k) = a.shape[::-1] if node.integer("transA", 0) else a.shape
    n = b.shape[0] if node.integer("transB", 0) else b.shape[1]
    if m * k * n > MOST_PRODUCTS:
        raise ValueError("the product is too large")
    return int(m * n)


def _rank(node: Node, arrays: list[Constant]) -> int:
    return arrays[0].ndim


def _attribute(node: Node, arrays: list[Constant]) -> int:
    tensor = node.attributes.get("value")
    if isinstance(tensor, onnx.TensorProto):
        return _elements(tuple(tensor.dims))
    values = next(iter(node.attributes.values()), None)
    return len(values) if isinstance(values, list) else 1


_BOUNDS: dict[str, Bound] = {
    **dict.fromkeys(
        [
            "Add",
            "And",
            "Div",
            "Equal",
            "Greater",
            "GreaterOrEqual",
            "Less",
            "LessOrEqual",
            "Max",
            "Min",
            "Mod",
            "Mul",
            "Or",
            "Pow",
            "Sub",
            "Sum",
            "Where",
            "Xor",
        ],
        _broadcast,
    ),
    **dict.fromkeys(
        [
            "Abs",
            "Ceil",
            "Clip",
            "Cos",
            "Exp",
            "Flatten",
            "Floor",
            "Identity",
            "Log",
            "Neg",
            "Not",
            "Reciprocal",
            "ReduceL2",
            "ReduceMax",
            "ReduceMean",
            "ReduceMin",
            "ReduceProd",
            "ReduceSum",
            "Relu",
            "Reshape",
            "Round",
            "Sigmoid",
            "Sign",
            "Sin",
            "Slice",
            "Softplus",
            "Sqrt",
            "Squeeze",
            "Tanh",
            "Transpose",
            "Unsqueeze",
        ],
        _same,
    ),
    "Cast": _cast,
    "Concat": _total,
    "Constant": _attribute,
    "ConstantOfShape": _filled,
    "Expand": _expand,
    "Gather": _gather,
    "GatherElements": _picked,
    "GatherND": _gather_nd,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Range": _range,
    "Shape": _rank,
    "Size": _rank,
    "Split": _split,
    "Tile": _tile,
}
