"""RLtools checkpoints: the one that foundation-policy brings, and files of the other forms that its
persist functions write, laid out here by hand."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from checkpoints_weights import replayed, rltools, rltools_file
from parity import session

from edgerl.errors import ToolError, UserError
from edgerl.policies import load
from edgerl.policies.importers.containers import hdf5, hdf5_scan
from edgerl.policies.importers.containers.hdf5 import open_hdf5
from edgerl.policies.importers.rltools import Dense, Gru, read_layers

RNG = np.random.default_rng(11)


def tensor(group: h5py.Group, name: str, values: np.ndarray) -> None:
    """A parameter as RLtools writes it, matrices for vectors."""
    group.create_group(name).create_dataset("parameters", data=np.atleast_2d(values))


def dense(group: h5py.Group, takes: int, gives: int, activation: str, kind: bool = True) -> None:
    tensor(group, "weights", RNG.normal(size=(gives, takes)).astype(np.float32))
    tensor(group, "biases", RNG.normal(size=gives).astype(np.float32))
    group.attrs["activation_function"] = activation
    if kind:
        group.attrs["type"] = "dense"


def gru(group: h5py.Group, takes: int, size: int, initial: np.ndarray) -> None:
    for name, columns in (("input", takes), ("hidden", size)):
        rows = RNG.normal(size=(3 * size, columns)).astype(np.float32)
        group.create_group(f"weights_{name}").create_dataset("parameters", data=rows)
        bias = RNG.normal(size=3 * size).astype(np.float32)
        group.create_group(f"biases_{name}").create_dataset("parameters", data=bias)
    state = group.create_group("initial_hidden_state")
    state.create_dataset("parameters", data=initial.astype(np.float32))
    group.attrs["type"] = "gru"


def mlp(group: h5py.Group, takes: int, gives: int, last: str, kind: bool = True) -> None:
    dense(group.create_group("input_layer"), takes, 8, "RELU", kind)
    dense(group.create_group("hidden_layer_0"), 8, 8, "FAST_TANH", kind)
    dense(group.create_group("hidden_layer_1"), 8, 8, "SIGMOID", kind)
    dense(group.create_group("output_layer"), 8, gives, last, kind)
    if kind:
        group.attrs["type"] = "mlp"
        group.attrs["num_layers"] = "4"


def array(file: h5py.File, path: str) -> np.ndarray:
    return np.squeeze(file[f"{path}/parameters"][()]).astype(np.float64)


FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "IDENTITY": lambda x: x,
    "RELU": lambda x: np.maximum(x, 0),
    "TANH": np.tanh,
    "SIGMOID": lambda x: 1 / (1 + np.exp(-x)),
    "FAST_TANH": lambda x: (lambda c: c * (27 + c * c) / (27 + 9 * c * c))(np.clip(x, -3, 3)),
}


def dense_of(file: h5py.File, path: str, x: np.ndarray) -> np.ndarray:
    weights = file[f"{path}/weights/parameters"][()].astype(np.float64)
    activation = FUNCTIONS[file[path].attrs["activation_function"]]
    return activation(weights @ x + np.ravel(file[f"{path}/biases/parameters"][()]))


def mlp_of(file: h5py.File, path: str, x: np.ndarray) -> np.ndarray:
    for name in ("input_layer", "hidden_layer_0", "hidden_layer_1", "output_layer"):
        x = dense_of(file, f"{path}/{name}", x)
    return x


def actions(path: Path, observations: np.ndarray) -> np.ndarray:
    """What the imported policy does, state carried from row to row."""
    policy = load(path)
    runtime = session(policy)
    names = [port.name for port in policy.graph.graph.input]
    states = [np.zeros((1, state.size), np.float32) for state in policy.spec.state]
    rows = []
    for observation in observations.astype(np.float32):
        feeds = dict(zip(names, [observation[np.newaxis], *states], strict=True))
        action, *states = runtime.run(None, feeds)
        rows.append(action[0])
    return np.stack(rows)


def test_published_checkpoint(tmp_path: Path) -> None:
    """1000 steps within 2e-6 of the actions that RLtools computed."""
    checkpoint = rltools(tmp_path)
    policy = load(checkpoint.path)
    assert len(checkpoint.observations) == 1000
    assert np.max(np.abs(replayed(policy, checkpoint) - checkpoint.actions)) < 2e-6
    assert [(s.name, s.size) for s in policy.spec.observation] == [
        ("position_error", 3), ("rotation_matrix", 9), ("linear_velocity", 3),
        ("angular_velocity", 3), ("previous_action", 4),
    ]  # fmt: skip
    assert policy.provenance["checkpoint"] == "logs/2025-04-19_16-16-17"
    assert policy.provenance["source"] == "rltools"


@pytest.mark.parametrize("kind", [True, False])
@pytest.mark.parametrize("last", ["IDENTITY", "TANH"])
def test_mlp(kind: bool, last: str, tmp_path: Path) -> None:
    """The form of older checkpoints, whose groups tell no type, is the same."""
    path = tmp_path / "mlp.h5"
    observations = RNG.normal(size=(50, 5))
    with h5py.File(path, "w") as file:
        mlp(file.create_group("actor"), 5, 2, last, kind)
        expected = np.stack([mlp_of(file, "actor", x) for x in observations])
    np.testing.assert_allclose(actions(path, observations), expected, atol=1e-5, rtol=1e-5)
    bounded = load(path).assumed
    assert any("saturated to [-1, 1]" in line for line in bounded) == (last == "IDENTITY")


def test_standardized_and_squashed(tmp_path: Path) -> None:
    """sequential [standardize, mlp, sample_and_squash]: the mean alone, through tanh."""
    path = tmp_path / "sac.h5"
    observations = RNG.normal(size=(50, 5))
    with h5py.File(path, "w") as file:
        layers = file.create_group("policy/layers")
        file["policy"].attrs["type"] = "sequential"
        first = layers.create_group("0")
        tensor(first, "mean", np.linspace(-1, 1, 5).astype(np.float32))
        tensor(first, "precision", np.linspace(0.5, 3, 5).astype(np.float32))
        first.attrs["type"] = "standardize"
        mlp(layers.create_group("1"), 5, 4, "IDENTITY")
        layers.create_group("2").attrs["type"] = "sample_and_squash"
        mean, precision = (
            array(file, "policy/layers/0/mean"),
            array(file, "policy/layers/0/precision"),
        )
        rows = [mlp_of(file, "policy/layers/1", (x - mean) * precision) for x in observations]
    expected = np.tanh(np.stack(rows)[:, :2])
    np.testing.assert_allclose(actions(path, observations), expected, atol=1e-5)
    assert load(path).spec.action_size == 2


def gru_of(file: h5py.File, path: str, x: np.ndarray, h: np.ndarray) -> np.ndarray:
    def products(name: str, values: np.ndarray) -> list[np.ndarray]:
        rows = array(file, f"{path}/weights_{name}") @ values + array(file, f"{path}/biases_{name}")
        return np.split(rows, 3)

    r_x, z_x, n_x = products("input", x)
    r_h, z_h, n_h = products("hidden", h)
    r, z = FUNCTIONS["SIGMOID"](r_x + r_h), FUNCTIONS["SIGMOID"](z_x + z_h)
    return (1 - z) * np.tanh(n_x + r * n_h) + z * h


def test_two_memories_that_start_elsewhere(tmp_path: Path) -> None:
    """GRUs with a learned initial state: zeros in edgerl still mean a fresh start."""
    path = tmp_path / "gru.h5"
    observations = RNG.normal(size=(40, 3))
    with h5py.File(path, "w") as file:
        layers = file.create_group("actor/layers")
        file["actor"].attrs["type"] = "sequential"
        gru(layers.create_group("0"), 3, 4, np.linspace(-0.5, 0.5, 4))
        gru(layers.create_group("1"), 4, 6, np.zeros(6))
        dense(layers.create_group("2"), 6, 2, "IDENTITY")
        layers.create_group("3").attrs["type"] = "td3_sampling"
        h, g, expected = np.linspace(-0.5, 0.5, 4), np.zeros(6), []
        for x in observations:
            h = gru_of(file, "actor/layers/0", x, h)
            g = gru_of(file, "actor/layers/1", h, g)
            expected.append(np.clip(dense_of(file, "actor/layers/2", g), -1, 1))
    np.testing.assert_allclose(actions(path, observations), np.stack(expected), atol=2e-5)
    assert [state.name for state in load(path).spec.state] == ["hidden", "hidden_2"]


def with_chunks(file: h5py.File) -> None:
    group = file["actor/layers/0/weights"]
    values = group["parameters"][()]
    del group["parameters"]
    group.create_dataset("parameters", data=values, chunks=(4, 4), compression="gzip")


def bomb(file: h5py.File) -> None:
    group = file["actor/layers/0/weights"]
    del group["parameters"]
    group.create_dataset(
        "parameters", shape=(1 << 15, 1 << 15), dtype="f4", chunks=(64, 64), compression="gzip"
    )


def huge(file: h5py.File) -> None:
    group = file["actor/layers/0/weights"]
    del group["parameters"]
    group.create_dataset("parameters", shape=(1 << 40, 1 << 20), dtype="f4")


def never_written(file: h5py.File) -> None:
    group = file["actor/layers/0/weights"]
    del group["parameters"]
    group.create_dataset("parameters", shape=(16, 22), dtype="f4")


def external_data(file: h5py.File) -> None:
    group = file["actor/layers/0/weights"]
    del group["parameters"]
    group.create_dataset(
        "parameters", shape=(16, 22), dtype="f4", external=[("other.bin", 0, 16 * 22 * 4)]
    )


def virtual_data(file: h5py.File) -> None:
    group = file["actor/layers/0/weights"]
    del group["parameters"]
    layout = h5py.VirtualLayout(shape=(16, 22), dtype="f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", shape=(16, 22))
    group.create_virtual_dataset("parameters", layout)


def linked(link: Any) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        del file["actor/layers/0"]
        file["actor/layers/0"] = link

    return edit


def references(file: h5py.File) -> None:
    group = file["actor/layers/0/weights"]
    del group["parameters"]
    group.create_dataset("parameters", data=np.full((16, 22), file.ref), dtype=h5py.ref_dtype)


def replaced(path: str, values: np.ndarray) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        del file[path]
        file[path] = values

    return edit


def with_attribute(path: str, key: str, value: Any) -> Callable[[h5py.File], None]:
    return lambda file: file[path].attrs.__setitem__(key, value)


def within_itself(file: h5py.File) -> None:
    """A sequence that is its own first layer, by a hard link."""
    del file["actor/layers/0"]
    file["actor/layers/0"] = file["actor"]


WEIGHTS = "actor/layers/0/weights/parameters"
HOSTILE: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "chunks": (with_chunks, "h5repack -l CONTI -f NONE"),
    "bomb": (bomb, "is stored in chunks or packed"),
    "huge": (huge, "[1099511627776, 1048576] and is not stored in full"),
    "never written": (never_written, "not stored in full"),
    "external data": (external_data, "lies in another file"),
    "virtual data": (virtual_data, "lies in another file"),
    "external link": (linked(h5py.ExternalLink("other.h5", "/x")), "a link to another place"),
    "soft link": (linked(h5py.SoftLink("/actor/layers/2")), "a link to another place"),
    "references": (references, "is of type object; save"),
    "within itself": (within_itself, "nested too deeply"),
    "half": (replaced(WEIGHTS, np.zeros((16, 22), np.float16)), "float16; save the weights in"),
    "integers": (replaced(WEIGHTS, np.zeros((16, 22), np.int32)), "is of type int32; save"),
    "nan": (replaced(WEIGHTS, np.full((16, 22), np.nan, np.float32)), "not finite"),
    "empty": (replaced(WEIGHTS, np.zeros((16, 0), np.float32)), "sizes [16, 0]"),
    "group for a tensor": (
        lambda file: (file.__delitem__(WEIGHTS), file.create_group(WEIGHTS)),
        "is no tensor",
    ),
    "tensor for a group": (
        replaced("actor/layers", np.zeros(3, np.float32)), "'actor/layers' is no group",
    ),
    "sizes": (
        replaced("actor/layers/2/weights/parameters", np.zeros((4, 17), np.float32)),
        "'actor/layers/2/weights/parameters' has sizes [4, 17], [any, 16] are needed",
    ),
    "bias": (
        replaced("actor/layers/2/biases/parameters", np.zeros((1, 5), np.float32)),
        "has sizes [1, 5], [4] are needed",
    ),
    "gate rows": (
        replaced("actor/layers/1/weights_input/parameters", np.zeros((47, 16), np.float32)),
        "[47, 15] are needed",
    ),
    "type": (with_attribute("actor/layers/1", "type", "conv2d"), "type 'conv2d'; supported: "),
    "type a number": (with_attribute("actor/layers/1", "type", 3), "is no text"),
    "type a list": (with_attribute("actor/layers/1", "type", ["gru"]), "is no text"),
    "activation": (
        with_attribute("actor/layers/0", "activation_function", "GELU"),
        "activation_function 'GELU'; supported: ",
    ),
    "missing layer": (lambda file: file.move("actor/layers/1", "actor/layers/7"), "layers/1'"),
    "no type": (
        lambda file: (file.__delitem__("actor/layers/1"), file.create_group("actor/layers/1")),
        "'actor/layers/1' has no type; supported: ",
    ),
    "no layers": (lambda file: file.move("actor/layers", "other"), "has no 'actor/layers'"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(name: str, tmp_path: Path) -> None:
    edit, words = HOSTILE[name]
    path = rltools(tmp_path).path
    with h5py.File(path, "r+") as file:
        edit(file)
    with pytest.raises(UserError) as caught:
        load(path)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith("raptor.h5: ")


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "net.h5"
    for content in (b"", b"PK\3\4", b"\x89HDF\r\n\x1a\n" + bytes(500)):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"net\.h5: no HDF5 file"):
            load(path)
    with h5py.File(path, "w") as file:
        file["model_weights"] = np.zeros(3)
    with pytest.raises(UserError, match=r"no group 'actor'.*'model_weights'.*RLtools"):
        load(path)
    with path.open("wb") as file:
        file.truncate((256 << 20) + 1)
    with pytest.raises(UserError, match="larger than 256 MiB"):
        load(path)
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "none.h5")


def test_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = rltools(tmp_path).path
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ToolError, match=r"h5py: pip install 'edgerl\[import\]'"):
        load(path)


def test_layers_as_they_stand_in_the_file() -> None:
    file = open_hdf5(rltools_file().read_bytes(), "x", "pip")
    first, memory, last = read_layers(file, "actor")
    assert isinstance(first, Dense) and first.activation == "RELU" and first.bias.shape == (16,)
    assert isinstance(memory, Gru) and memory.w_hidden.shape == (48, 16)
    assert isinstance(last, Dense) and last.weight.shape == (4, 16)


DAMAGED = """
import sys
from pathlib import Path

import numpy as np

from edgerl.errors import UserError
from edgerl.policies import load
from edgerl.policies.importers.containers import hdf5, hdf5_scan

# This process is the one apart.
hdf5._scanned_apart = hdf5_scan.scan
path, seed, cases = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
whole, rng, refused = path.read_bytes(), np.random.default_rng(seed), 0
for case in range(cases):
    content = bytearray(whole)
    if case % 4 == 0:
        del content[int(rng.integers(len(content))) :]
    else:
        # Structure lies all over the file, weights and examples between it.
        places = np.flatnonzero(np.frombuffer(whole, np.uint8)[:30_000]) if case % 4 < 3 else None
        for _ in range(int(rng.integers(1, 8))):
            at = int(rng.choice(places)) if places is not None else int(rng.integers(len(content)))
            content[at] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)
    try:
        assert load(path).spec.action_size >= 1
    except UserError as error:
        refused += 1
        assert "\\n" not in str(error)
print(refused)
"""


def test_damaged_files_are_policies_or_refused(tmp_path: Path) -> None:
    """In a process of its own: a library in C reads the file."""
    path = rltools(tmp_path).path
    done = subprocess.run(
        [sys.executable, "-c", DAMAGED, str(path), "3", "240"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert 60 < int(done.stdout) < 240


def test_file_on_which_the_library_runs_forever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text whose length, rounded up, is 0 modulo 2^64: HDF5 2.0 walks its heap without end."""
    path = rltools(tmp_path).path
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    content[heap + 24 : heap + 32] = (2**64 - 16).to_bytes(8, "little")
    path.write_bytes(content)
    monkeypatch.setattr(hdf5, "_MOST_SECONDS", 3)
    with pytest.raises(UserError, match=r"raptor\.h5: .*(did not finish within 3 s|damaged)"):
        load(path)


def test_file_on_which_the_library_crashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "crash.py"
    script.write_text("import os\nos.abort()\n", encoding="utf-8")
    monkeypatch.setattr(hdf5_scan, "__file__", str(script))
    with pytest.raises(UserError, match=r"raptor\.h5: .*the HDF5 library failed on it, exit code"):
        load(rltools(tmp_path).path)
