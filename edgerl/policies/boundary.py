"""The boundary of a policy's graph, brought into the one form every policy has.

Inputs `observation [1, n]` and one `[1, k]` per state, outputs `action [1, m]` and as many
next states, in the order of the spec (DESIGN §1).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from edgerl.errors import UserError
from edgerl.policies.limits import MOST_AXES
from edgerl.policies.names import shown
from edgerl.policies.spec import PolicySpec

MOST_ELEMENTS = 65536
MOST_STATES = 256
_SHOWN = 20  # signals in a message


@dataclass(frozen=True)
class Port:
    """One input or output of a graph: its name there and its static shape (batch 1)."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Boundary:
    """What goes into a step and what comes out; `states` pairs each input and output."""

    observation: Port
    action: Port
    states: tuple[tuple[Port, Port], ...]


def find(model: onnx.ModelProto, state_names: tuple[str, ...], where: str) -> Boundary:
    """The first input and output, and the states: the rest in pairs.

    States are paired in order; where `state_names` are just the names of the state inputs,
    they stand in the order of `state_names`. Raises UserError naming the input or output
    that is dynamic, empty, of another type, or without a partner of its size.
    """
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [_port(v, "input", where) for v in graph.input if v.name not in weights]
    if not inputs:
        raise UserError(f"{where}: the graph has no input")
    if len(inputs) - 1 > MOST_STATES:
        raise UserError(f"{where}: {len(inputs) - 1} states; {MOST_STATES} are possible")
    # Sizes are taken as declared: ONNX's shape inference allocates what a hostile file asks for.
    # Lowering computes them itself and compares.
    outputs = [_port(v, "output", where) for v in graph.output]
    if not outputs:
        raise UserError(f"{where}: the graph has no output")
    there = weights.union((v.name for v in graph.input), *(node.output for node in graph.node))
    for port in outputs:
        if port.name not in there:
            raise UserError(f"{where}: output {shown(port.name)} is never computed")
    if len(inputs) != len(outputs):
        raise UserError(
            f"{where}: {len(inputs)} inputs and {len(outputs)} outputs; after the observation "
            "and the action, each state needs one of both"
        )
    for kind, port in (("input", inputs[0]), ("output", outputs[0])):
        if len(port.shape) > 1 and port.shape[0] != 1:
            raise UserError(
                f"{where}: {kind} {shown(port.name)} has {port.shape[0]} rows; export the "
                "model for a batch of 1"
            )
    states = list(zip(inputs[1:], outputs[1:], strict=True))
    for before, after in states:
        if before.size != after.size:
            raise UserError(
                f"{where}: state input {shown(before.name)} has {before.size} elements, its "
                f"output {shown(after.name)} has {after.size}"
            )
    by_name = {before.name: (before, after) for before, after in states}
    if set(by_name) == set(state_names):
        states = [by_name[name] for name in state_names]
    return Boundary(inputs[0], outputs[0], tuple(states))


def _port(info: onnx.ValueInfoProto, kind: str, where: str) -> Port:
    """An input or output with a dynamic batch axis set to 1.

    An input may have one dynamic axis; an output has what came of it, in any axis but the last.
    """
    title = f"{where}: {kind} {shown(info.name)}"
    if info.type.WhichOneof("value") != "tensor_type":
        raise UserError(f"{title} is no tensor")
    tensor = info.type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT:
        known = tensor.elem_type in TensorProto.DataType.values()
        name = TensorProto.DataType.Name(tensor.elem_type).lower() if known else "unknown"
        raise UserError(f"{title} is of type {name}; export the model in float32")
    if not tensor.HasField("shape") or not tensor.shape.dim:
        raise UserError(f"{title} has no shape; export the model with static sizes")
    if len(tensor.shape.dim) > MOST_AXES:
        raise UserError(f"{title} has {len(tensor.shape.dim)} axes; {MOST_AXES} are possible")
    shape: list[int] = []
    last = len(tensor.shape.dim) - 1
    free = 1 if kind == "input" else last
    for axis, dim in enumerate(tensor.shape.dim):
        if dim.WhichOneof("value") == "dim_value":
            shape.append(int(dim.dim_value))
        elif free and axis < last:
            shape.append(1)
            free -= 1
        else:
            raise UserError(
                f"{title}, axis {axis}: dynamic size {shown(dim.dim_param)}; only the batch may "
                "be dynamic, export the others with static sizes"
            )
    if min(shape) < 1 or math.prod(shape) > MOST_ELEMENTS:
        raise UserError(f"{title} has sizes {shape}; 1 to {MOST_ELEMENTS} elements are possible")
    return Port(info.name, tuple(shape))


def _info(name: str, shape: Iterable[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def agree(spec: PolicySpec, boundary: Boundary, where: str) -> None:
    """UserError naming signals and both numbers where spec and graph have different sizes."""
    for kind, signals, size in (
        ("observation", spec.observation, boundary.observation.size),
        ("action", spec.action, boundary.action.size),
    ):
        total = sum(signal.size for signal in signals)
        if total != size:
            parts = ", ".join(f"{signal.name} {signal.size}" for signal in signals[:_SHOWN])
            parts += ", …" if len(signals) > _SHOWN else ""
            raise UserError(
                f"{where}: the spec's {kind} has {total} values ({parts}), the graph's {size}"
            )
    if len(spec.state) != len(boundary.states):
        raise UserError(
            f"{where}: the spec has {len(spec.state)} states, the graph {len(boundary.states)}"
        )
    for state, (before, _) in zip(spec.state, boundary.states, strict=True):
        if state.size != before.size:
            raise UserError(
                f"{where}: state {state.name} has {state.size} values in the spec, "
                f"{before.size} in the graph (input {shown(before.name)})"
            )


def state_tensors(state_names: Sequence[str]) -> list[str]:
    """What each state's tensor is called in graph and program; with `_next` added, what
    follows it. Just the state's name unless that would name two tensors alike."""
    used, tensors = {"observation", "action"}, []
    for name in state_names:
        while {name, f"{name}_next"} & used or f"{name}_next" in state_names:
            name += "_state"
        used |= {name, f"{name}_next"}
        tensors.append(name)
    return tensors


def canonical(
    model: onnx.ModelProto, boundary: Boundary, state_names: tuple[str, ...]
) -> onnx.ModelProto:
    """The same computation with the boundary every policy has, and nothing in the file but
    that: no documentation, metadata, or shapes of inner tensors."""
    weights = {tensor.name for tensor in model.graph.initializer}
    names = state_tensors(state_names)
    inputs = {"observation": boundary.observation}
    outputs = {"action": boundary.action}
    for name, (before, after) in zip(names, boundary.states, strict=True):
        inputs[name] = before
        outputs[f"{name}_next"] = after

    # Tensors that can just take their new name; all others get a Reshape.
    taken = {port.name: name for name, port in inputs.items() if port.shape == (1, port.size)}
    leaving = [port.name for port in outputs.values()]
    computed = {name for node in model.graph.node for name in node.output}
    for name, port in outputs.items():
        plain = port.shape == (1, port.size) and leaving.count(port.name) == 1
        if plain and port.name in computed:
            taken[port.name] = name
    reshaped = [n for n, port in (*inputs.items(), *outputs.items()) if taken.get(port.name) != n]
    reserved = {*inputs, *outputs, *map(_sizes, reshaped)}
    inner = _without_clash(
        weights | computed | {port.name for port in inputs.values()}, taken, reserved
    )

    result = onnx.ModelProto(ir_version=model.ir_version, producer_name="edgerl")
    version = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    result.opset_import.add(domain="", version=version)
    graph = result.graph
    graph.name = "step"
    graph.input.extend(_info(name, (1, port.size)) for name, port in inputs.items())
    graph.output.extend(_info(name, (1, port.size)) for name, port in outputs.items())
    for name, port in inputs.items():
        if name in reshaped:
            _reshape(graph, name, inner[port.name], port.shape)
    for node in model.graph.node:
        graph.node.append(_bare_node(node, inner))
    for tensor in model.graph.initializer:
        kept = graph.initializer.add()
        kept.CopyFrom(tensor)
        kept.ClearField("doc_string")
        kept.ClearField("metadata_props")
        kept.name = inner[tensor.name]
    for name, port in outputs.items():
        if name in reshaped:
            _reshape(graph, inner[port.name], name, (1, port.size))
    return result


def _without_clash(names: set[str], taken: dict[str, str], reserved: set[str]) -> dict[str, str]:
    """A new name for every tensor: its place in the boundary, or its own made unlike those."""
    chosen = dict(taken)
    used = set(taken.values()) | reserved
    for name in sorted(names - taken.keys()):
        new = name
        while new in used:
            new += "_inner"
        chosen[name] = new
        used.add(new)
    return {**chosen, "": ""}


def _bare_node(node: onnx.NodeProto, names: dict[str, str]) -> onnx.NodeProto:
    bare = onnx.NodeProto()
    bare.CopyFrom(node)
    for field in ("doc_string", "metadata_props", "domain"):
        bare.ClearField(field)
    for attribute in bare.attribute:
        attribute.ClearField("doc_string")
    del bare.input[:], bare.output[:]
    bare.input.extend(names.get(name, name) for name in node.input)
    bare.output.extend(names[name] for name in node.output)
    return bare


def _sizes(name: str) -> str:
    """The name of the constant that a Reshape to `name` reads."""
    return f"{name}_shape"


def _reshape(graph: onnx.GraphProto, x: str, y: str, shape: tuple[int, ...]) -> None:
    """Append y = x in another shape."""
    sizes = _sizes(y)
    graph.initializer.append(helper.make_tensor(sizes, TensorProto.INT64, [len(shape)], shape))
    graph.node.append(helper.make_node("Reshape", [x, sizes], [y], name=f"{y}_reshape"))
