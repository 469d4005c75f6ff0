"""Lowering: from a policy's ONNX graph to a Program.

`interpretation` runs the graph on symbols and leaves a flow of matrix products and
non-linear operations joined by affine forms; `schedule` places what the action and the
states need; `recurrent` recognises GRU and LSTM cells that were written out.
"""

from edgerl.errors import UserError
from edgerl.policies.names import shown
from edgerl.policies.policy import Policy
from edgerl.toolchain.ir import Program
from edgerl.toolchain.lowering.flow import Flow
from edgerl.toolchain.lowering.forms import Form, constant
from edgerl.toolchain.lowering.interpretation import interpret
from edgerl.toolchain.lowering.node import Operand, Value
from edgerl.toolchain.lowering.recurrent import fuse_recurrent
from edgerl.toolchain.lowering.schedule import schedule
from edgerl.toolchain.passes import dead_code, named

__all__ = ["lower"]

OBSERVATION = "observation"


def lower(policy: Policy) -> Program:
    """The Program of one step of `policy`.

    Weights become float32 (after folding in double precision); every matrix product of the
    graph is computed once at most. Raises UserError naming operator, node and tensor when
    the graph needs something that is not supported, and the signal when it does not have
    the sizes that the spec says.
    """
    graph, spec = policy.graph.graph, policy.spec
    sizes = [spec.observation_size, *(state.size for state in spec.state)]
    names = [OBSERVATION, *_state_names([state.name for state in spec.state])]
    flow = Flow()
    inputs: dict[str, Value] = {}
    for info, name, size in zip(graph.input, names, sizes, strict=True):
        shape = tuple(int(d.dim_value) for d in info.type.tensor_type.shape.dim)
        inputs[info.name] = Value(flow.input(name, size), shape)
    tensors = interpret(policy.graph, flow, inputs)
    after = [policy.spec.action_size, *sizes[1:]]
    forms = [
        _output(output.name, tensors.get(output.name), size)
        for output, size in zip(graph.output, after, strict=True)
    ]
    program = schedule(
        flow, policy.name, OBSERVATION, forms[0], zip(names[1:], forms[1:], strict=True)
    )
    return named(dead_code(fuse_recurrent(dead_code(program))))


def _state_names(names: list[str]) -> list[str]:
    """State names that differ from the names that every program has."""
    return [f"{name}_state" if name in (OBSERVATION, "action") else name for name in names]


def _output(name: str, tensor: Operand | None, size: int) -> Form:
    if tensor is None:
        raise UserError(f"output {shown(name)} is never written")
    elements = tensor.size
    if elements != size:
        raise UserError(f"output {shown(name)} has {elements} elements, the spec says {size}")
    if isinstance(tensor, Value):
        return tensor.form
    return constant(tensor.reshape(-1).astype(float))
