"""What an ONNX file may hold: every size bounded before anything is done with it."""

import math

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from edgerl.errors import UserError
from edgerl.policies.names import shown

MOST_BYTES = 256 << 20
TOO_LARGE = "a controller is smaller; save the actor alone"
MOST_PARAMETERS = 20_000_000
MOST_NODES = 100_000
MOST_AXES = 8
OLDEST_OPSET = 11

# Element types with the bytes of one element in raw_data and the field used otherwise.
_TYPES: dict[int, tuple[int, str]] = {
    TensorProto.FLOAT: (4, "float_data"),
    TensorProto.DOUBLE: (8, "double_data"),
    TensorProto.FLOAT16: (2, "int32_data"),
    TensorProto.INT8: (1, "int32_data"),
    TensorProto.UINT8: (1, "int32_data"),
    TensorProto.INT16: (2, "int32_data"),
    TensorProto.UINT16: (2, "int32_data"),
    TensorProto.INT32: (4, "int32_data"),
    TensorProto.UINT32: (4, "uint64_data"),
    TensorProto.INT64: (8, "int64_data"),
    TensorProto.UINT64: (8, "uint64_data"),
    TensorProto.BOOL: (1, "int32_data"),
    TensorProto.INT4: (1, "int32_data"),
    TensorProto.UINT4: (1, "int32_data"),
}
# Two of their numbers share a byte.
_PAIRED = (TensorProto.INT4, TensorProto.UINT4)
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
_SEQUENCES = ("Sequence", "SplitToSequence", "ConcatFromSequence", "Optional")


def examine(model: onnx.ModelProto, where: str) -> None:
    """UserError, in one line that names `where` and the culprit, if a model holds what no
    policy can: subgraphs, foreign operators, external data, tensors that are too large,
    empty, cut short or not finite."""
    graph = model.graph
    if not graph.node:
        raise UserError(f"{where}: holds no graph; is it an ONNX model?")
    if len(graph.node) > MOST_NODES:
        raise UserError(f"{where}: {len(graph.node)} nodes; {MOST_NODES} are possible")
    if model.functions:
        name = shown(model.functions[0].name)
        raise UserError(f"{where}: function {name} is model-local; inline it before exporting")
    if graph.sparse_initializer:
        raise UserError(f"{where}: sparse initializers are not supported; store them dense")
    _opset(model, where)
    tensors = list(graph.initializer)
    for node in graph.node:
        tensors += _node_tensors(node, where)
    parameters = 0
    for tensor in tensors:
        parameters += _declared(tensor, where)
        if parameters > MOST_PARAMETERS:
            raise UserError(
                f"{where}: tensor {shown(tensor.name)} brings the model to {parameters} "
                f"numbers; {MOST_PARAMETERS} are possible"
            )
    for tensor in tensors:
        _stored(tensor, where)


def _opset(model: onnx.ModelProto, where: str) -> None:
    newest = onnx.defs.onnx_opset_version()
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    if len(versions) != 1 or not OLDEST_OPSET <= versions[0] <= newest:
        found = ", ".join(str(v) for v in versions[:4]) or "none"
        raise UserError(f"{where}: opset {found}; export with opset {OLDEST_OPSET} to {newest}")


def _node_tensors(node: onnx.NodeProto, where: str) -> list[TensorProto]:
    """The tensors among a node's attributes; UserError where the node itself is no good."""
    title = f"{where}: operator {shown(node.op_type)} (node {shown(node.name)})"
    if node.domain not in ("", "ai.onnx"):
        raise UserError(f"{title}: domain {shown(node.domain)} is not ONNX's own")
    if node.op_type.startswith(_SEQUENCES):
        raise UserError(f"{title}: sequences and optional values are not supported")
    tensors = []
    for attribute in node.attribute:
        match attribute.type:
            case onnx.AttributeProto.GRAPH | onnx.AttributeProto.GRAPHS:
                raise UserError(f"{title}: holds a subgraph; a step must not branch or loop")
            case onnx.AttributeProto.TENSOR:
                tensors.append(attribute.t)
            case onnx.AttributeProto.TENSORS:
                tensors += attribute.tensors
            case (
                onnx.AttributeProto.FLOAT
                | onnx.AttributeProto.FLOATS
                | onnx.AttributeProto.INT
                | onnx.AttributeProto.INTS
                | onnx.AttributeProto.STRING
                | onnx.AttributeProto.STRINGS
            ):
                pass
            case _:
                raise UserError(
                    f"{title}: attribute {shown(attribute.name)} has an unsupported type"
                )
        if attribute.ref_attr_name:
            raise UserError(f"{title}: attribute {shown(attribute.name)} refers to a function")
    return tensors


def _declared(tensor: TensorProto, where: str) -> int:
    """How many numbers a tensor says it has; UserError if it cannot be."""
    title = f"{where}: tensor {shown(tensor.name)}"
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise UserError(
            f"{title} lies in another file; "
            "save the model as one file (torch.onnx.export(..., external_data=False))"
        )
    if tensor.data_type not in _TYPES:
        raise UserError(f"{title} has element type {tensor.data_type}, which is not supported")
    if len(tensor.dims) > MOST_AXES:
        raise UserError(f"{title} has {len(tensor.dims)} axes; {MOST_AXES} are possible")
    if any(n < 0 for n in tensor.dims):
        raise UserError(f"{title} has a negative size")
    count: int = math.prod(tensor.dims)
    # An empty list of integers is how an empty shape or list of axes is written.
    if count == 0 and (tensor.data_type != TensorProto.INT64 or len(tensor.dims) != 1):
        raise UserError(f"{title} is empty: its sizes are {list(tensor.dims)}")
    return count


def _stored(tensor: TensorProto, where: str) -> None:
    """UserError if a tensor holds other than the numbers it declares, or numbers not finite
    (a single infinite one is allowed: a limit that does not limit)."""
    title = f"{where}: tensor {shown(tensor.name)}"
    bytes_each, field = _TYPES[tensor.data_type]
    count = math.prod(tensor.dims)
    if tensor.HasField("raw_data"):
        stored = len(tensor.raw_data) / bytes_each
    else:
        stored = len(getattr(tensor, field))
    if tensor.data_type in _PAIRED:
        # What is stored are pairs; a last number may be alone in its byte.
        stored = count if stored == -(-count // 2) else 2 * stored
    if stored != count:
        raise UserError(f"{title} declares {count} numbers and holds {stored:g}")
    if tensor.data_type in _FLOATS:
        values = numpy_helper.to_array(tensor)
        if np.isnan(values).any() or (count != 1 and not np.isfinite(values).all()):
            raise UserError(f"{title} holds values that are not finite (NaN or Inf)")
