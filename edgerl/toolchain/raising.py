"""Raising: from a Program back to a policy's ONNX graph, the way back of lowering.

What changes a program's weights works on the Program, which has them where they multiply; this
writes them where a policy keeps them.
"""

from dataclasses import replace

import numpy as np

from edgerl.errors import UserError
from edgerl.policies.graph import GraphBuilder
from edgerl.policies.policy import Policy
from edgerl.toolchain.ir import (
    Activate,
    Activation,
    ArgMax,
    Binary,
    Clip,
    Dense,
    Gather,
    Gru,
    Linear,
    Lstm,
    Operation,
    Program,
    writes,
)

_OPERATORS: dict[Activation, str] = {
    "abs": "Abs",
    "cos": "Cos",
    "exp": "Exp",
    "reciprocal": "Reciprocal",
    "sin": "Sin",
    "sqrt": "Sqrt",
}
_BINARY = {"mul": "Mul", "div": "Div", "min": "Min", "max": "Max"}


def raised(program: Program, policy: Policy) -> Policy:
    """`policy` with the graph that `program` is, which must have its signals and states.

    Raises UserError, naming the operation, for one that this writes no operator for.
    """
    build = GraphBuilder("edgerl_")
    tensors = {program.observation: program.observation}
    for name in (program.observation, *(before for before, _ in program.states)):
        tensors[name] = build.input(name, program.size(name))
    for operation in program.operations:
        _write(build, program, tensors, operation)
    for name in (program.action, *(after for _, after in program.states)):
        build.output(tensors[name], name, program.size(name))
    return replace(policy, graph=build.finished())


def _write(
    build: GraphBuilder, program: Program, tensors: dict[str, str], operation: Operation
) -> None:
    """One operation's nodes, and where its results are."""
    match operation:
        case Dense(sources, bias, y, activation, alpha):
            (first, matrix), *others = sources
            total = build.dense(tensors[first], matrix, bias)
            for x, weights in others:
                total = build.add("Add", [total, build.dense(tensors[x], weights)])
            tensors[y] = _activated(build, activation, total, alpha)
        case Gru(x, h, h_next, w_input, w_hidden, b_input, b_hidden):
            weights_and_biases = (w_input, w_hidden, b_input, b_hidden)
            tensors[h_next] = build.gru(tensors[x], tensors[h], *weights_and_biases)
        case Lstm(x, h, c, h_next, c_next, w_input, w_hidden, bias):
            states = (tensors[x], tensors[h], tensors[c])
            results = build.lstm(*states, w_input, w_hidden, bias, np.zeros_like(bias))
            tensors[h_next], tensors[c_next] = results
        case Linear(terms, bias, y):
            total = build.constant(bias.reshape(1, -1))
            for x, scale in terms:
                total = build.add("Add", [total, build.affine(tensors[x], scale, 0.0 * scale)])
            tensors[y] = total
        case Activate(activation, x, y, alpha):
            tensors[y] = _activated(build, activation, tensors[x], alpha)
        case Binary(operation=way, a=a, b=b, y=y):
            tensors[y] = build.add(_BINARY[way], [tensors[a], tensors[b]])
        case Clip(x, low, high, y):
            tensors[y] = build.clip(tensors[x], low, high)
        case Gather(sources, picks, y):
            starts = np.cumsum([0, *(program.size(x) for x in sources)])
            places = build.integers([int(starts[k]) + j for k, j in picks])
            together = build.concat([tensors[x] for x in sources])
            tensors[y] = build.add("Gather", [together, places], axis=1)
        case ArgMax(x, y):
            tensors[y] = build.argmax(tensors[x])
        case _:
            kind = type(operation).__name__
            name = writes(operation)[0]
            raise UserError(f"{name}: a {kind} cannot be written back into a policy yet")


def _activated(build: GraphBuilder, activation: Activation | None, x: str, alpha: float) -> str:
    match activation:
        case None:
            return x
        case "elu":
            return build.add("Elu", [x], alpha=alpha)
        case "leaky_relu":
            return build.add("LeakyRelu", [x], alpha=alpha)
        case "square":
            return build.add("Mul", [x, x])
        case _ if activation in _OPERATORS:
            return build.add(_OPERATORS[activation], [x])
        case _:
            return build.activation(x, activation)
