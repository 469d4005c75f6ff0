"""The tools beside which edgerl is measured. A new peer is a new row of `PEERS`."""

import contextlib
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.networks import Network
from edgerl.toolchain.build.process import run

_GENERATOR_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Generated:
    """C source that a tool generated, and how it is called for one evaluation.

    `arguments` are the words passed to the function `symbol`, in order: the address of
    `observation`, `action`, `state` (before) or `next` (the state after), or a number.
    `include` holds headers that the source needs.
    """

    source: str
    symbol: str
    arguments: tuple[str | int, ...]
    include: Path | None = None


@dataclass(frozen=True)
class Peer:
    """A tool: its distribution, what it is given, and the function that has it generate C in a
    folder of its own. Whatever that function raises is the tool's failure, and is reported."""

    distribution: str
    about: str
    generate: Callable[[Network, Path], Generated]


def _emx_onnx_cgen(network: Network, folder: Path) -> Generated:
    onnx.save(network.plain_graph(), folder / "net.onnx")
    command = [sys.executable, "-m", "emx_onnx_cgen", "compile", "--model-name", "net"]
    run([*command, "net.onnx", "net.c"], cwd=folder, timeout_s=_GENERATOR_TIMEOUT_S)
    states = len(network.policy.spec.state)
    arguments = ("observation", *["state"] * states, "action", *["next"] * states)
    return Generated((folder / "net.c").read_text(), "net", arguments)


def _emlearn(network: Network, folder: Path) -> Generated:
    model = SimpleNamespace(layers=_keras_layers(network.plain_graph()))
    # Importing emlearn has numpy raise on underflow from then on; its converter also builds the
    # network for this machine, in the folder it is called in.
    with np.errstate(), contextlib.chdir(folder), contextlib.redirect_stdout(sys.stderr):
        emlearn = importlib.import_module("emlearn")
        converted = emlearn.convert(
            model, kind="Sequential", method="loadable", return_type="regressor"
        )
        source = str(converted.save(name="net"))
    spec = network.policy.spec
    arguments = ("observation", spec.observation_size, "action", spec.action_size)
    return Generated(source, "net_regress", arguments, Path(str(emlearn.includedir)))


_KERAS_LAYERS = {"Gemm": "Dense", "LSTM": "LSTM", "GRU": "GRU", "RNN": "SimpleRNN"}
_KERAS_ACTIVATIONS = {"Tanh": "tanh", "Relu": "relu", "Sigmoid": "sigmoid"}
_SHAPES_ONLY = frozenset({"Squeeze", "Unsqueeze"})


def _keras_layers(model: onnx.ModelProto) -> list[object]:
    """The graph as layers of a Keras model, which is what emlearn reads; an operator that Keras
    has no layer for keeps its own name."""
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    layers = []
    for node in model.graph.node:
        if node.op_type in _KERAS_ACTIVATIONS:
            layers.append(_keras_layer("Activation", _KERAS_ACTIVATIONS[node.op_type], []))
        elif node.op_type not in _SHAPES_ONLY:
            weights, *others = (constants[name] for name in node.input if name in constants)
            kind = _KERAS_LAYERS.get(node.op_type, node.op_type)
            layers.append(_keras_layer(kind, "linear", [weights.T, *others]))
    return layers


def _keras_layer(kind: str, activation: str, arrays: list[object]) -> object:
    """An object that answers as the Keras layer of that class does."""
    answers = {
        "activation": SimpleNamespace(__name__=activation),
        "use_bias": True,
        "get_weights": lambda self: arrays,
    }
    return type(kind, (), answers)()


PEERS = (
    Peer("emx-onnx-cgen", "the ONNX graph, GRU as one operator", _emx_onnx_cgen),
    Peer("emlearn", "the layers of a Keras model, method `loadable`", _emlearn),
)
