"""Lowering: from a policy's ONNX graph to a Program.

`interpretation` runs the graph on symbols and leaves a flow of matrix products and
non-linear operations joined by affine forms; `schedule` places what the action and the
states need; `recurrent` recognises GRU and LSTM cells that were written out.
"""

from dataclasses import replace

import numpy as np
import onnx

from edgerl.errors import UserError
from edgerl.policies.boundary import state_tensors
from edgerl.policies.names import shown
from edgerl.policies.policy import Policy
from edgerl.toolchain.ir import Program
from edgerl.toolchain.lowering.flow import Flow
from edgerl.toolchain.lowering.forms import Form, constant
from edgerl.toolchain.lowering.interpretation import interpret
from edgerl.toolchain.lowering.node import Operand, Value
from edgerl.toolchain.lowering.quantised import Quantised
from edgerl.toolchain.lowering.recurrent import fuse_recurrent
from edgerl.toolchain.lowering.schedule import schedule
from edgerl.toolchain.passes import dead_code, named

__all__ = ["lower"]

OBSERVATION = "observation"


def lower(policy: Policy, *, integers: bool = False) -> Program:
    """The Program of one step of `policy`.

    Weights become float32 (after folding in double precision); every matrix product of the
    graph is computed once at most. Where a graph was quantised elsewhere (`quantised.py`),
    `Program.given` has the scales of its weights. What it rounds at run time stays rounded, or
    with `integers`, for a quantiser, becomes ranges in `Program.given`.

    Raises UserError naming operator, node and tensor when the graph needs something that is not
    supported, and the signal when it does not have the sizes that the spec says.
    """
    graph, spec = policy.graph.graph, policy.spec
    sizes = [spec.observation_size, *(state.size for state in spec.state)]
    names = [OBSERVATION, *state_tensors([state.name for state in spec.state])]
    flow, quantised = Flow(), Quantised(rounding=not integers)
    inputs: dict[str, Value] = {}
    for info, name, size in zip(graph.input, names, sizes, strict=True):
        shape = tuple(int(d.dim_value) for d in info.type.tensor_type.shape.dim)
        inputs[info.name] = Value(flow.input(name, size), shape)
    tensors = interpret(policy.graph, flow, inputs, quantised)
    forms = [
        _output(info, tensors.get(info.name), size)
        for info, size in zip(graph.output, [spec.action_size, *sizes[1:]], strict=True)
    ]
    states = zip(names[1:], forms[1:], strict=True)
    ranged = quantised.ranges.values()
    program = schedule(flow, policy.name, OBSERVATION, forms[0], states, ranged)
    program = named(fuse_recurrent(dead_code(program)))
    return replace(program, given=replace(program.given, rows=quantised.rows(program)))


def _output(info: onnx.ValueInfoProto, tensor: Operand | None, size: int) -> Form:
    """The form of one of the graph's outputs, which must be [1, size]."""
    if tensor is None:
        raise UserError(f"output {shown(info.name)} is never computed")
    if tensor.shape != (1, size):
        raise UserError(
            f"output {shown(info.name)} is computed as {list(tensor.shape)}, declared as "
            f"{[1, size]}"
        )
    if isinstance(tensor, Value):
        return tensor.form
    if not np.isfinite(tensor).all():
        raise UserError(f"output {shown(info.name)} is constant and not finite")
    return constant(tensor.reshape(-1).astype(np.float64))
