"""Abstract interpretation of a graph: constants are folded, the rest becomes a flow."""

import numpy as np
import onnx
from onnx import numpy_helper

from edgerl.errors import UserError
from edgerl.policies.names import shown
from edgerl.toolchain.lowering.cells import CELLS
from edgerl.toolchain.lowering.elementwise import ELEMENTWISE, Handler
from edgerl.toolchain.lowering.flow import Flow
from edgerl.toolchain.lowering.folding import evaluate, foldable
from edgerl.toolchain.lowering.linear import LINEAR
from edgerl.toolchain.lowering.node import Node, Operand, Value, label, resolved
from edgerl.toolchain.lowering.quantised import Quantised
from edgerl.toolchain.lowering.structural import STRUCTURAL

OPERATORS: dict[str, Handler] = {**STRUCTURAL, **LINEAR, **ELEMENTWISE, **CELLS}


def interpret(
    model: onnx.ModelProto, flow: Flow, inputs: dict[str, Value], quantised: Quantised
) -> dict[str, Operand]:
    """Every tensor of the graph as a constant or a run-time value.

    `inputs` gives the graph's inputs by name, `quantised` reads what was quantised. Raises
    UserError naming operator, node and tensor where the graph holds something that a
    controller's step cannot.
    """
    handlers = {**OPERATORS, **quantised.handlers}
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    tensors: dict[str, Operand | None] = {"": None}
    tensors |= {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    tensors |= inputs
    for proto in model.graph.node:
        if proto.domain not in ("", "ai.onnx"):
            raise UserError(f"{label(proto)}: domain {shown(proto.domain)} is not supported")
        missing = [name for name in proto.input if name not in tensors]
        if missing:
            raise UserError(f"{label(proto)}: tensor {shown(missing[0])} is not there yet")
        operands = tuple(tensors[name] for name in proto.input)
        node = resolved(proto, operands, opset)
        results = _results(flow, node, handlers)
        flow.spend(sum(_numbers(result) for result in results))
        if len(results) < len(proto.output):
            names = [name for name in proto.output[len(results) :] if name]
            if names:
                raise node.fail(f"output {shown(names[0])} is not supported")
        for name, result in zip(proto.output, results, strict=False):
            if name:
                tensors[name] = result
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def _results(flow: Flow, node: Node, handlers: dict[str, Handler]) -> list[Operand]:
    known = all(x is None or isinstance(x, np.ndarray) for x in node.inputs)
    if known and foldable(node.operator):
        return list(evaluate(node, [x for x in node.inputs if not isinstance(x, Value)]))
    handler = handlers.get(node.operator)
    if handler is None:
        raise node.fail("is not supported; export the model without it")
    integers = [x for x in node.inputs if isinstance(x, Value) and x.integer]
    if integers and node.operator not in (*STRUCTURAL, "DequantizeLinear"):
        if any(x.grid for x in integers):
            raise node.fail("computes with quantised integers; only a DequantizeLinear may")
        raise node.fail("computes with the integer of an ArgMax; cast it to float first")
    return handler(flow, node)


def _numbers(operand: Operand) -> int:
    if isinstance(operand, Value):
        return operand.size * (1 + 2 * len(operand.form.terms))
    return operand.size
