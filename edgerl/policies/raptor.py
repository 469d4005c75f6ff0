"""RAPTOR: the published foundation policy for quadrotor control (arXiv:2509.11481).

The weights are read from the checkpoint inside the user's installed `foundation-policy`
package; the package itself is never imported or run. The network is
`22 -> Dense 16, ReLU -> GRU 16 -> Dense 4`, one step every 10 ms; it has no output
non-linearity, so its action is clamped to [-1, 1] outside the graph. The checkpoint is RLtools'
(see `importers.rltools`), held here to being the published one.
"""

import hashlib
import json
from importlib.metadata import PackageNotFoundError, distribution

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgerl.errors import ToolError, UserError
from edgerl.policies.boundary import agree, find
from edgerl.policies.importers.containers.hdf5 import Hdf5, open_hdf5
from edgerl.policies.importers.rltools import Dense, Gru, read_layers
from edgerl.policies.policy import Floats, Policy, Trace
from edgerl.policies.spec import PolicySpec, Signal, StateSignal

OPSET = 20
IR_VERSION = 9
INSTALL = "pip install 'edgerl[raptor]'"

_CHECKPOINT = "foundation_policy/blob/checkpoint.h5"
_MAX_BYTES = 16 << 20
_OBSERVATION = (
    "Position.OrientationRotationMatrix.LinearVelocity.AngularVelocityDelayed(0).ActionHistory(1)"
)
_SHAPES: dict[str, tuple[int, ...]] = {
    "actor/layers/0/weights/parameters": (16, 22),
    "actor/layers/0/biases/parameters": (1, 16),
    "actor/layers/1/weights_input/parameters": (48, 16),
    "actor/layers/1/biases_input/parameters": (48,),
    "actor/layers/1/weights_hidden/parameters": (48, 16),
    "actor/layers/1/biases_hidden/parameters": (48,),
    "actor/layers/1/initial_hidden_state/parameters": (16,),
    "actor/layers/2/weights/parameters": (4, 16),
    "actor/layers/2/biases/parameters": (1, 4),
}
_ATTRIBUTES = (
    ("actor", "type", "sequential"),
    ("actor/layers/0", "type", "dense"),
    ("actor/layers/0", "activation_function", "RELU"),
    ("actor/layers/1", "type", "gru"),
    ("actor/layers/2", "type", "dense"),
    ("actor/layers/2", "activation_function", "IDENTITY"),
)


def spec() -> PolicySpec:
    """What RAPTOR's 22 observations and 4 actions mean.

    Position error and velocity carry the limits that flight stacks clip them to before this
    policy (Crazyflie: 0.5 m and 2 m/s; PX4: 0.5 m and 1 m/s): beyond them a vehicle is to fly
    back at a bounded rate, which saturation gives. 35 rad/s is where training ended an
    episode. Until the first good observation the motors get -1, which is idle.
    """
    return PolicySpec(
        name="raptor",
        rate_hz=100.0,
        licence="MIT",
        observation=(
            Signal(name="position_error", size=3, range=(-0.5, 0.5)),
            Signal(name="rotation_matrix", size=9, range=(-1.001, 1.001)),
            Signal(name="linear_velocity", size=3, range=(-2.0, 2.0)),
            Signal(name="angular_velocity", size=3, range=(-35.0, 35.0)),
            Signal(name="previous_action", size=4, range=(-1.0, 1.0)),
        ),
        action=(
            Signal(
                name="motor",
                size=4,
                range=(-1.0, 1.0),
                labels=("fr", "br", "bl", "fl"),
                spin=(-1, 1, -1, 1),
            ),
        ),
        state=(StateSignal(name="hidden", size=16),),
        feedback="clamped",
        out_of_range="saturate",
        non_finite="hold",
        fallback=(-1.0, -1.0, -1.0, -1.0),
    )


def load(given: PolicySpec | None = None) -> Policy:
    """The published policy with its shipped example as vectors; `given` replaces its spec.

    Raises ToolError when `foundation-policy` or h5py is not installed, UserError when the
    checkpoint is not the network described above or `given` does not fit it.
    """
    content, version = _checkpoint()
    # Whatever is wrong with the file is said after these words.
    where = f"{_CHECKPOINT}: not a RAPTOR checkpoint"
    file = open_hdf5(content, where, INSTALL, trusted=True)
    _require(file)
    encoder, memory, head = read_layers(file, "actor")
    observations = _tensor(file, "example/input", (500, 2, 22))
    actions = _tensor(file, "example/output", (500, 2, 4))
    name = str(file.text("actor", "checkpoint_name"))
    assert isinstance(encoder, Dense) and isinstance(memory, Gru) and isinstance(head, Dense)
    graph, meant = _graph(encoder, memory, head), given or spec()
    agree(meant, find(graph, (), "raptor"), "raptor")
    return Policy(
        graph=graph,
        spec=meant,
        provenance={
            "family": "raptor",
            "notice": "weights copyright (c) 2025 Jonas Eschmann, MIT licence",
            "checkpoint": name,
            "package": f"foundation-policy {version}",
            "sha256": hashlib.sha256(content).hexdigest(),
        },
        examples=Trace(observations, actions, source=f"foundation-policy {version}"),
    )


def _checkpoint() -> tuple[bytes, str]:
    """The checkpoint's bytes and the version of the package that brought it."""
    try:
        package = distribution("foundation-policy")
    except PackageNotFoundError as error:
        raise ToolError(
            f"the RAPTOR policy needs the package foundation-policy: {INSTALL}"
        ) from error
    path = package.locate_file(_CHECKPOINT)
    try:
        with open(str(path), "rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ToolError(
            f"foundation-policy {package.version} has no readable {_CHECKPOINT}; reinstall it: "
            f"pip install --force-reinstall foundation-policy"
        ) from error
    if len(content) > _MAX_BYTES:
        raise UserError(f"{_CHECKPOINT}: larger than {_MAX_BYTES >> 20} MiB; not RAPTOR's file")
    return content, package.version


def _require(file: Hdf5) -> None:
    """UserError unless a checkpoint has the layers, sizes and observation of the published one."""
    for group, key, expected in _ATTRIBUTES:
        found = file.text(group, key)
        if found != expected:
            raise UserError(
                f"{file.where}: {group} has {key} {str(found)[:40]!r}, expected {expected!r}"
            )
    layers = file.names("actor/layers")
    if len(layers) != 3:
        raise UserError(f"{file.where}: actor/layers has {len(layers)} layers, not 3")
    for path, shape in _SHAPES.items():
        _tensor(file, path, shape)
    try:
        meta = json.loads(file.text("actor", "meta") or "")
        observation = meta["environment"]["observation"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file.where}: its meta describes no observation") from error
    if observation != _OBSERVATION:
        raise UserError(
            f"{file.where}: the observation is {str(observation)[:80]!r}, "
            "not the one RAPTOR was published with"
        )


def _tensor(file: Hdf5, path: str, shape: tuple[int, ...]) -> Floats:
    values: Floats = file.tensor(path)
    if values.shape != shape or values.dtype != np.float32:
        raise UserError(
            f"{file.where}: {path} is {values.dtype} {values.shape}, expected float32 {shape}"
        )
    return values


def _update_first(rows: Floats) -> Floats:
    """Gate rows from the checkpoint's order r, z, n to ONNX's z, r, h."""
    reset, update, new = np.split(rows, 3)
    return np.concatenate([update, reset, new])


def _graph(encoder: Dense, memory: Gru, head: Dense) -> onnx.ModelProto:
    """The single-step graph: observation [1, 22], hidden [1, 16] to action, hidden_next.

    The state that travels is the deviation from the checkpoint's initial hidden state, so
    that a state of zeros is a fresh start whatever the checkpoint's initial state is. The names
    and the order of everything are part of what was released: the file's hash depends on them.
    """
    gru_bias = np.concatenate([_update_first(memory.b_input), _update_first(memory.b_hidden)])
    initializers = {
        "input_weights": encoder.weight,
        "input_bias": encoder.bias,
        "gru_weights_input": _update_first(memory.w_input)[np.newaxis],
        "gru_weights_hidden": _update_first(memory.w_hidden)[np.newaxis],
        "gru_biases": gru_bias[np.newaxis],
        "initial_hidden": memory.initial,
        "output_weights": head.weight,
        "output_bias": head.bias,
        "sequence_axis": np.array([0], dtype=np.int64),
    }
    gru_inputs = ["sequence", "gru_weights_input", "gru_weights_hidden", "gru_biases", "", "past"]
    node = helper.make_node
    nodes = [
        node("Gemm", ["observation", "input_weights", "input_bias"], ["encoded"], transB=1),
        node("Relu", ["encoded"], ["features"]),
        node("Unsqueeze", ["features", "sequence_axis"], ["sequence"]),
        node("Add", ["hidden", "initial_hidden"], ["previous"]),
        node("Unsqueeze", ["previous", "sequence_axis"], ["past"]),
        node("GRU", gru_inputs, ["", "present"], hidden_size=16, linear_before_reset=1),
        node("Squeeze", ["present", "sequence_axis"], ["memory"]),
        node("Gemm", ["memory", "output_weights", "output_bias"], ["action"], transB=1),
        node("Sub", ["memory", "initial_hidden"], ["hidden_next"]),
    ]
    for one in nodes:
        one.name = one.output[-1]

    def boundary(name: str, size: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])

    graph = helper.make_graph(
        nodes,
        "step",
        [boundary("observation", 22), boundary("hidden", 16)],
        [boundary("action", 4), boundary("hidden_next", 16)],
        [numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="edgerl",
    )
    onnx.checker.check_model(model, full_check=True)
    return model
