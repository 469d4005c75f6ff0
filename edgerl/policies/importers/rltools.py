"""RLtools: checkpoints in HDF5 as its persist functions write them (github.com/rl-tools/rl-tools).

A layer is a group with a `type`; its tensors are datasets called `parameters` in groups of their
own. A `sequential` numbers its layers, an `mlp` names them `input_layer`, `hidden_layer_0` and
on, and `output_layer`; either may stand inside the other.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from edgerl.documents import read_bytes
from edgerl.errors import UserError
from edgerl.policies.assembly import Found, plain_text
from edgerl.policies.graph import Array, GraphBuilder
from edgerl.policies.importers.containers.hdf5 import Hdf5, open_hdf5
from edgerl.policies.importers.source import Source
from edgerl.policies.limits import MOST_BYTES, TOO_LARGE
from edgerl.policies.names import shown
from edgerl.policies.spec import Signal
from edgerl.policies.vocabulary import meaning

INSTALL = "pip install 'edgerl[import]'"

_MOST_LAYERS = 1000
_MOST_NESTED = 8
_ACTIVATIONS = {"IDENTITY": "linear", "RELU": "relu", "TANH": "tanh", "SIGMOID": "sigmoid"}
FAST_TANH = "FAST_TANH"
# What a group without a type (older versions) is by what it holds.
_SIGNS = {
    "layers": "sequential",
    "input_layer": "mlp",
    "weights_input": "gru",
    "precision": "standardize",
    "weights": "dense",
}
# Components of the observation that the quadrotor environment (l2f) writes down: the signal of
# the vocabulary each is, and its size.
_OBSERVATIONS = {
    "Position": ("position_error", 3),
    "OrientationRotationMatrix": ("rotation_matrix", 9),
    "LinearVelocity": ("linear_velocity", 3),
    "AngularVelocity": ("angular_velocity", 3),
    "AngularVelocityDelayed(0)": ("angular_velocity", 3),
    "ActionHistory(1)": ("previous_action", 4),
}


@dataclass(frozen=True)
class Dense:
    """y = activation(weight x + bias): weight [out, in], bias [out], activation as RLtools names
    it."""

    weight: Array
    bias: Array
    activation: str


@dataclass(frozen=True)
class Gru:
    """A GRU with gate rows r, z, n, reset gate after the hidden product: w_input [3H, X],
    w_hidden [3H, H], biases [3H], and the state after a reset [H]."""

    w_input: Array
    w_hidden: Array
    b_input: Array
    b_hidden: Array
    initial: Array


@dataclass(frozen=True)
class Standardize:
    """y = (x - mean) * precision, both [n]."""

    mean: Array
    precision: Array


@dataclass(frozen=True)
class Squash:
    """y = tanh of the first half of x: the deterministic action of a squashed Gaussian, whose
    second half are the logarithms of deviations."""


@dataclass(frozen=True)
class Limit:
    """y = min(max(x, -1), 1): the deterministic action of TD3's sampling layer."""


Layer = Dense | Gru | Standardize | Squash | Limit


def read(source: Source) -> Found:
    """The policy in an RLtools checkpoint, its deterministic action.

    Raises UserError, in one line that names the group or dataset, for a file that is damaged,
    too large or holds a layer that is not supported; ToolError when h5py is missing.
    """
    content = read_bytes(source.path, MOST_BYTES, source.where, TOO_LARGE)
    file = open_hdf5(content, source.where, INSTALL)
    root = _actor(file)
    layers = read_layers(file, root)
    meta, run = file.text(root, "meta"), file.text(root, "checkpoint_name")
    graph, taken, given = _graph(layers)
    observation = _observation(meta, taken)
    provenance = {"source": "rltools", "sha256": hashlib.sha256(content).hexdigest()}
    if run:
        provenance["checkpoint"] = plain_text(run)
    assumed = [f"network: {len(layers)} layers of group {root}"]
    if observation:
        assumed.append("observation: signals as the checkpoint's own description names them")
    return Found(
        graph,
        provenance,
        observation=observation,
        action=(Signal(name="action", size=given, range=(-1.0, 1.0)),)
        if _bounded(layers)
        else None,
        assumed=tuple(assumed),
    )


def _actor(file: Hdf5) -> str:
    """The path of the group that holds the policy: `actor`, else the only one that is a network."""
    names = file.names()
    if "actor" in names:
        return "actor"
    networks = [n for n in names if f"{n}/layers" in file or f"{n}/input_layer" in file]
    if len(networks) != 1:
        found = ", ".join(shown(name) for name in (networks or names)[:8]) or "nothing"
        raise UserError(
            f"{file.where}: no group 'actor' and not one network alone (it holds {found}); is it "
            "an RLtools checkpoint?"
        )
    return networks[0]


def read_layers(file: Hdf5, root: str) -> tuple[Layer, ...]:
    """The layers of the network in the group `root`, in order, containers taken apart.

    Raises UserError naming the group whose type or activation is not supported, or the dataset
    that does not fit the layer before it.
    """
    layers: list[Layer] = []
    size: int | None = None
    for path, kind in _modules(file, root, 0):
        if len(layers) == _MOST_LAYERS:
            raise UserError(f"{file.where}: more than {_MOST_LAYERS} layers")
        layer, size = _layer(file, path, kind, size)
        layers.append(layer)
    if size is None:
        raise UserError(f"{file.where}: {shown(root)} holds no layer with weights")
    return tuple(layers)


def _modules(file: Hdf5, path: str, depth: int) -> Iterator[tuple[str, str]]:
    """Path and type of every layer below `path`, in order."""
    if depth > _MOST_NESTED:
        raise UserError(f"{file.where}: {shown(path)}: nested too deeply")
    kind = _kind(file, path)
    if kind == "sequential":
        inside = [f"{path}/layers/{k}" for k in range(len(file.names(f"{path}/layers")))]
    elif kind == "mlp":
        hidden = [name for name in file.names(path) if name.startswith("hidden_layer_")]
        names = ["input_layer", *(f"hidden_layer_{k}" for k in range(len(hidden))), "output_layer"]
        inside = [f"{path}/{name}" for name in names]
        declared = file.text(path, "num_layers")
        if declared is not None and declared != str(len(inside)):
            raise UserError(
                f"{file.where}: {shown(path)} declares {declared[:20]} layers and has {len(inside)}"
            )
    else:
        yield path, kind
        return
    for each in inside:
        yield from _modules(file, each, depth + 1)


def _kind(file: Hdf5, path: str) -> str:
    """A group's type as the file says it, or what it must be; empty when that is not known."""
    said = file.text(path, "type")
    if said is not None:
        return said
    return next((kind for sign, kind in _SIGNS.items() if f"{path}/{sign}" in file), "")


def _layer(file: Hdf5, path: str, kind: str, size: int | None) -> tuple[Layer, int]:
    """A layer that `size` values reach (None: as many as it takes), and how many leave it."""

    def parameters(name: str, *sizes: int | None) -> Array:
        return _parameters(file, f"{path}/{name}/parameters", sizes)

    match kind:
        case "dense":
            activation = file.text(path, "activation_function")
            if activation not in (*_ACTIVATIONS, FAST_TANH):
                raise UserError(
                    f"{file.where}: {shown(path)} has activation_function "
                    f"{shown(str(activation))}; supported: {', '.join(_ACTIVATIONS)}, {FAST_TANH}"
                )
            weight = parameters("weights", None, size)
            return Dense(weight, parameters("biases", len(weight)), activation), len(weight)
        case "gru":
            w_input = parameters("weights_input", None, size)
            rows, hidden = len(w_input), len(w_input) // 3
            return Gru(
                w_input,
                parameters("weights_hidden", rows, hidden),
                parameters("biases_input", rows),
                parameters("biases_hidden", rows),
                parameters("initial_hidden_state", hidden),
            ), hidden
        case "standardize":
            mean = parameters("mean", size)
            return Standardize(mean, parameters("precision", len(mean))), len(mean)
        case "sample_and_squash" if size is not None and size % 2 == 0:
            return Squash(), size // 2
        case "td3_sampling" if size is not None:
            return Limit(), size
        case "sample_and_squash" | "td3_sampling":
            raise UserError(
                f"{file.where}: {shown(path)}, of type {kind}, does not fit what leads to it"
            )
    said = f"type {shown(kind)}" if kind else "no type"
    raise UserError(
        f"{file.where}: {shown(path)} has {said}; supported: sequential, mlp, dense, gru, "
        "standardize, sample_and_squash, td3_sampling"
    )


def _parameters(file: Hdf5, path: str, sizes: Sequence[int | None]) -> Array:
    """A tensor of the given sizes (None: any) in float32; vectors may be matrices of one row."""
    values = file.tensor(path)
    whole = values.shape
    if len(whole) == len(sizes) + 1 and whole[0] == 1:
        values = values[0]
    wanted = tuple(n if s is None else s for n, s in zip(values.shape, sizes, strict=False))
    if values.ndim != len(sizes) or values.shape != wanted:
        text = ", ".join("any" if s is None else str(s) for s in sizes)
        raise UserError(f"{file.where}: {shown(path)} has sizes {list(whole)}, [{text}] are needed")
    return np.ascontiguousarray(values, dtype=np.float32)


def _graph(layers: Sequence[Layer]) -> tuple[onnx.ModelProto, int, int]:
    """The step graph, how many values it takes and how many it gives."""
    graph = GraphBuilder()
    taken = size = _takes(layers)
    x = graph.input("observation", size)
    states: list[tuple[str, str, int]] = []
    for layer in layers:
        match layer:
            case Dense():
                y = graph.dense(x, layer.weight, layer.bias)
                fast = layer.activation == FAST_TANH
                x = (
                    _fast_tanh(graph, y)
                    if fast
                    else graph.activation(y, _ACTIVATIONS[layer.activation])
                )
                size = len(layer.weight)
            case Gru():
                size = len(layer.initial)
                name = "hidden" if not states else f"hidden_{len(states) + 1}"
                x, after = _gru(graph, x, graph.input(name, size), layer)
                states.append((name, after, size))
            case Standardize():
                shifted = graph.add("Sub", [x, graph.constant(layer.mean)])
                x = graph.add("Mul", [shifted, graph.constant(layer.precision)])
            case Squash():
                size //= 2
                x = graph.activation(graph.cut(x, 0, size), "tanh")
            case Limit():
                x = graph.clip(x, -1.0, 1.0)
    graph.output(x, "action", size)
    for name, after, width in states:
        graph.output(after, f"{name}_next", width)
    return graph.finished(), taken, size


def _takes(layers: Sequence[Layer]) -> int:
    match layers[0]:
        case Dense(weight=weight) | Gru(w_input=weight):
            return int(weight.shape[1])
        case Standardize(mean=mean):
            return len(mean)
    raise AssertionError("a network starts with a layer that has weights")


def _gru(graph: GraphBuilder, x: str, state: str, layer: Gru) -> tuple[str, str]:
    """Output and next state.

    The state that travels is the deviation from the initial one, so that zeros are a fresh start
    whatever the checkpoint's initial state is.
    """
    operands = (layer.w_input, layer.w_hidden, layer.b_input, layer.b_hidden)
    if not layer.initial.any():
        y = graph.gru(x, state, *operands)
        return y, y
    initial = graph.constant(layer.initial)
    y = graph.gru(x, graph.add("Add", [state, initial]), *operands)
    return y, graph.add("Sub", [y, initial])


def _fast_tanh(graph: GraphBuilder, x: str) -> str:
    """RLtools' rational tanh: x (27 + x^2) / (27 + 9 x^2) for x clipped to [-3, 3]."""
    x = graph.clip(x, -3.0, 3.0)
    square = graph.add("Mul", [x, x])
    above = graph.add("Mul", [x, graph.add("Add", [square, graph.constant(27.0)])])
    return graph.add("Div", [above, graph.affine(square, 9.0, 27.0)])


def _bounded(layers: Sequence[Layer]) -> bool:
    """True when the last layer keeps every action in [-1, 1]."""
    match layers[-1]:
        case Squash() | Limit() | Dense(activation="TANH" | "FAST_TANH"):
            return True
    return False


def _observation(meta: str | None, size: int) -> tuple[Signal, ...] | None:
    """The signals that a checkpoint's `meta` describes; None unless all of them are known and
    their sizes add up to `size`."""
    try:
        described = json.loads(meta or "")["environment"]["observation"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    known = [_OBSERVATIONS.get(part) for part in str(described).split(".")]
    signals = [
        Signal(name=name, size=n, range=meaning(name).range) for name, n in filter(None, known)
    ]
    fits = len(signals) == len(known) and sum(signal.size for signal in signals) == size
    distinct = len({signal.name for signal in signals}) == len(signals)
    return tuple(signals) if fits and distinct else None
