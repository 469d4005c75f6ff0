"""Operators that only move elements: slices, splits, concatenations, reshapes…

All are one rule. ONNX's reference implementation is run on the element *numbers* of the
operand, and what comes out says which element goes where.
"""

import numpy as np
import onnx

from edgerl.toolchain.lowering.flow import Flow
from edgerl.toolchain.lowering.folding import evaluate
from edgerl.toolchain.lowering.forms import Indices, joined
from edgerl.toolchain.lowering.node import Constant, Node, Operand, Value

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
_INTEGERS = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)


def moved(flow: Flow, node: Node) -> list[Operand]:
    """The results of a node that rearranges its first operand; the others are constants."""
    data = node.value(0)
    others = [node.constant(k) if node.has(k) else None for k in range(1, len(node.inputs))]
    numbers = np.arange(data.size).reshape(data.shape)
    return [_picked(node, data, chosen) for chosen in evaluate(node, [numbers, *others])]


def _picked(node: Node, data: Value, chosen: Constant) -> Value:
    node.check_size(chosen.size)
    indices: Indices = chosen.reshape(-1).astype(np.int64)
    return Value(data.form.take(indices), chosen.shape, data.integer, data.grid)


def concat(flow: Flow, node: Node) -> list[Operand]:
    """Concatenation of run-time tensors and constants along one axis."""
    parts = [node.value(k) for k in range(len(node.inputs))]
    node.check_size(sum(part.size for part in parts))
    grid = parts[0].grid if all(p.grid == parts[0].grid for p in parts) else None
    everything = Value(joined([p.form for p in parts]), (), any(p.integer for p in parts), grid)
    numbers: list[Constant | None] = []
    start = 0
    for part in parts:
        numbers.append(np.arange(start, start + part.size).reshape(part.shape))
        start += part.size
    return [_picked(node, everything, chosen) for chosen in evaluate(node, numbers)]


def passed(flow: Flow, node: Node) -> list[Operand]:
    """Identity, and Dropout outside training."""
    if node.has(2) and bool(node.constant(2).any()):
        raise node.fail("drops values out in training mode; export the model in eval mode")
    return [node.input(0)]


def cast(flow: Flow, node: Node) -> list[Operand]:
    """A conversion of a run-time tensor: only to a float type that keeps its values, and from
    one integer type to another."""
    x = node.value(0)
    if x.grid is not None:
        raise node.fail("converts quantised integers; only a DequantizeLinear may")
    kept = x.integer and node.attributes.get("to") in _INTEGERS
    if not kept and node.attributes.get("to") not in _FLOATS:
        raise node.fail("converts a run-time tensor to something other than float32 or float64")
    return [Value(x.form, x.shape, kept)]


def shape(flow: Flow, node: Node) -> list[Operand]:
    """The static shape of a run-time tensor, from `start` to `end`."""
    full = node.value(0).shape
    start, end = node.integer("start", 0), node.integer("end", len(full))
    return [np.array(full[start:end], dtype=np.int64)]


def size(flow: Flow, node: Node) -> list[Operand]:
    """The number of elements of a run-time tensor."""
    return [np.array(node.value(0).size, dtype=np.int64)]


STRUCTURAL = {
    **dict.fromkeys(
        [
            "Expand",
            "Flatten",
            "Gather",
            "GatherElements",
            "GatherND",
            "Reshape",
            "Slice",
            "Split",
            "Squeeze",
            "Tile",
            "Transpose",
            "Unsqueeze",
        ],
        moved,
    ),
    "Cast": cast,
    "Concat": concat,
    "Dropout": passed,
    "Identity": passed,
    "Shape": shape,
    "Size": size,
}
