"""The networks of the table, and the inputs they are run on."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgerl.policies import Policy, PolicySpec, load
from edgerl.policies.policy import Floats
from edgerl.policies.raptor import spec as raptor_spec

MLP_SEED = 7
MLP_SIZES = (22, 64, 64, 4)
OPSET = 20
IR_VERSION = 9


@dataclass(frozen=True)
class Network:
    """One network of the table: `observations` [T, n] are fed to every tool, in this order and
    from a reset. `about` and `inputs` say in words what it is and where they come from."""

    policy: Policy
    about: str
    observations: Floats
    inputs: str

    @property
    def name(self) -> str:
        return self.policy.name

    @property
    def state_size(self) -> int:
        return self.policy.spec.state_size

    def plain_graph(self) -> onnx.ModelProto:
        """The graph for other tools: what adds or subtracts zeros is left out.

        A policy of edgerl carries its state as the deviation from the initial one. Where that
        is zero, a user of another tool would not export the two operations, and none of the
        tools removes them.
        """
        return _without_zero_offsets(self.policy.graph)


def networks(inputs: int) -> tuple[Network, ...]:
    """Every network, each with `inputs` observations."""
    return raptor(inputs), mlp(inputs)


def raptor(inputs: int) -> Network:
    """The published quadrotor policy on the first steps of its own first example."""
    policy = load("raptor")
    assert policy.examples is not None
    return Network(
        policy,
        "RAPTOR, published weights: 22 → 16 relu → GRU 16 → 4",
        np.ascontiguousarray(policy.examples.observations[:inputs, 0]),
        f"one sequence from reset: the first {inputs} steps of the first sequence that "
        f"{policy.examples.source} ships",
    )


def mlp(inputs: int) -> Network:
    """A multilayer perceptron with random weights, on normally distributed observations."""
    rng = np.random.default_rng(MLP_SEED)
    model = perceptron(MLP_SIZES, rng)
    observations = rng.standard_normal((inputs, MLP_SIZES[0])).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mlp.onnx"
        onnx.save(model, path)
        policy = load(path, _mlp_spec())
    return Network(
        policy,
        "MLP 22 → 64 → 64 → 4, tanh after every layer, random weights",
        observations,
        f"{inputs} observations of N(0, 1), drawn after the weights "
        f"(numpy default_rng({MLP_SEED}))",
    )


def _mlp_spec() -> PolicySpec:
    """RAPTOR's signals; a bad observation yields the fallback action, so there is no state."""
    signals = raptor_spec()
    return PolicySpec(
        name="mlp",
        observation=signals.observation,
        action=signals.action,
        non_finite="fallback",
        fallback=signals.fallback,
    )


def perceptron(sizes: Sequence[int], rng: np.random.Generator) -> onnx.ModelProto:
    """Layers of these sizes, the observation's first, each with tanh. Weights N(0, 1) /
    sqrt(fan-in), biases 0.1 N(0, 1), drawn layer by layer, weights first."""
    nodes, initializers, tensor = [], [], "observation"
    for k, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        weights = rng.standard_normal((fan_out, fan_in)) / np.sqrt(fan_in)
        biases = 0.1 * rng.standard_normal(fan_out)
        initializers += [_constant(f"weights{k}", weights), _constant(f"biases{k}", biases)]
        after = "action" if k == len(sizes) - 2 else f"layer{k}"
        gemm = [tensor, f"weights{k}", f"biases{k}"]
        nodes.append(helper.make_node("Gemm", gemm, [f"sum{k}"], f"dense{k}", transB=1))
        nodes.append(helper.make_node("Tanh", [f"sum{k}"], [after], f"tanh{k}"))
        tensor = after
    ports = _port("observation", sizes[0]), _port("action", sizes[-1])
    return _model("mlp", nodes, [ports[0]], [ports[1]], initializers)


def recurrent(
    cell: Literal["GRU", "LSTM"], inputs: int, units: int, actions: int, rng: np.random.Generator
) -> onnx.ModelProto:
    """One recurrent layer, then a dense one with tanh; weights and biases as in `perceptron`."""
    gates, kept = {"GRU": (3, ["h"]), "LSTM": (4, ["h", "c"])}[cell]
    shapes = {
        "input": (1, gates * units, inputs),
        "hidden": (1, gates * units, units),
        "biases": (1, 2 * gates * units),
        "weights_out": (actions, units),
        "biases_out": (actions,),
    }
    initializers = []
    for name, shape in shapes.items():
        scale = 0.1 if name.startswith("biases") else 1.0 / np.sqrt(shape[-1])
        initializers.append(_constant(name, scale * rng.standard_normal(shape)))
    initializers.append(numpy_helper.from_array(np.array([0], np.int64), "axis"))
    nodes = [
        helper.make_node("Unsqueeze", [name, "axis"], [f"{name}_sequence"], f"unsqueeze_{name}")
        for name in ("observation", *kept)
    ]
    read = ["observation_sequence", "input", "hidden", "biases", ""]
    read += [f"{name}_sequence" for name in kept]
    reset: dict[str, Any] = {"linear_before_reset": 1} if cell == "GRU" else {}
    written = ["", *(f"{name}_last" for name in kept)]
    nodes.append(helper.make_node(cell, read, written, "cell", hidden_size=units, **reset))
    nodes += [
        helper.make_node("Squeeze", [f"{name}_last", "axis"], [f"{name}_next"], f"squeeze_{name}")
        for name in kept
    ]
    gemm = ["h_next", "weights_out", "biases_out"]
    nodes.append(helper.make_node("Gemm", gemm, ["sum"], "dense", transB=1))
    nodes.append(helper.make_node("Tanh", ["sum"], ["action"], "tanh"))
    states = [_port(name, units) for name in kept]
    after = [_port(f"{name}_next", units) for name in kept]
    return _model(
        cell.lower(),
        nodes,
        [_port("observation", inputs), *states],
        [_port("action", actions), *after],
        initializers,
    )


def _port(name: str, size: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])


def _model(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Sequence[onnx.TensorProto],
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, name, inputs, outputs, initializers)
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model


def _constant(name: str, values: npt.NDArray[np.float64]) -> onnx.TensorProto:
    return numpy_helper.from_array(values.astype(np.float32), name)


def _without_zero_offsets(model: onnx.ModelProto) -> onnx.ModelProto:
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    graph = plain.graph
    zeros = {t.name for t in graph.initializer if not numpy_helper.to_array(t).any()}
    same: dict[str, str] = {}
    kept = []
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
        if node.op_type in ("Add", "Sub") and node.input[1] in zeros:
            same[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    # An output that lost its node gives its name to the tensor it was equal to.
    outputs = {same[o.name]: o.name for o in graph.output if o.name in same}
    for node in kept:
        node.input[:] = [outputs.get(name, name) for name in node.input]
        node.output[:] = [outputs.get(name, name) for name in node.output]
    read = {name for node in kept for name in node.input}
    constants = [t for t in graph.initializer if t.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(constants)
    onnx.checker.check_model(plain, full_check=True)
    return plain
