"""The published RAPTOR policy, read from the installed package."""

import io
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError

import h5py
import numpy as np
import pytest
from parity import difference, session

from edgerl.errors import ToolError, UserError
from edgerl.policies import load, policies, raptor
from edgerl.policies.onnx_file import parse
from edgerl.policies.policy import Policy
from edgerl.policies.spec import PolicySpec, Signal
from edgerl.toolchain.interpreter import reset, run
from edgerl.toolchain.ir import Dense, Gru
from edgerl.toolchain.lowering import lower

LAYERS = "actor/layers"


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load("raptor")


def test_facts(policy: Policy) -> None:
    assert policy.parameters == 2084
    assert (policy.spec.observation_size, policy.spec.action_size) == (22, 4)
    assert [(s.name, s.size) for s in policy.spec.state] == [("hidden", 16)]
    assert policy.spec.action[0].spin == (-1, 1, -1, 1)
    assert (policy.spec.rate_hz, policy.spec.licence) == (100.0, "MIT")
    assert policy.provenance["sha256"].startswith("db11f14c")
    assert policy.provenance["checkpoint"] == "logs/2025-04-19_16-16-17"
    assert policy.assumed == ()
    assert [family.name for family in policies()] == ["raptor"]


def test_lowered_form(policy: Policy) -> None:
    program = lower(policy)
    first, cell, last = program.operations
    assert isinstance(first, Dense) and first.activation == "relu"
    assert isinstance(cell, Gru) and (cell.h, cell.h_next) == ("hidden", "hidden_next")
    assert isinstance(last, Dense) and last.activation is None
    assert program.macs == 1952


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shipped_example(policy: Policy, dtype: type) -> None:
    """500 steps of both sequences within 2e-6 of the authors' own outputs."""
    assert policy.examples is not None
    program = lower(policy)
    states = reset(program, (2,))
    observations, actions = policy.examples.observations, policy.examples.actions
    assert observations.shape == (500, 2, 22) and actions.shape == (500, 2, 4)
    for observation, expected in zip(observations, actions, strict=True):
        action, states = run(program, observation, states, dtype)
        np.testing.assert_allclose(action, expected, rtol=0.0, atol=2e-6)


def test_graph_in_onnxruntime(policy: Policy) -> None:
    assert policy.examples is not None
    runtime, state = session(policy), np.zeros((1, 16), np.float32)
    for t in range(100):
        feeds = {"observation": policy.examples.observations[t, :1], "hidden": state}
        action, state = runtime.run(["action", "hidden_next"], feeds)
        np.testing.assert_allclose(action[0], policy.examples.actions[t, 0], rtol=0, atol=2e-6)
    assert difference(policy, lower(policy)) < 2e-6


def test_saved_policy_loads_to_itself(policy: Policy, tmp_path) -> None:
    path = tmp_path / "other_name.onnx"
    policy.save(path)
    again = load(path)
    assert (again.spec, again.provenance) == (policy.spec, policy.provenance)
    again.save(tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


def test_another_spec(policy: Policy) -> None:
    raw = policy.spec.model_copy(update={"feedback": "raw"})
    assert load("raptor", raw).spec.feedback == "raw"
    short = PolicySpec(
        name="brief", observation=(Signal(name="position_error"),), action=policy.spec.action
    )
    with pytest.raises(UserError, match=r"3 values \(position_error 3\), the graph's 22"):
        load("raptor", short)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(raptor, "distribution", missing)
    with pytest.raises(ToolError, match=r"pip install 'edgerl\[raptor\]'"):
        load("raptor")


def changed(edit: Callable[[h5py.File], None]) -> bytes:
    """The checkpoint's bytes after an edit."""
    content, _ = raptor._checkpoint()
    file = io.BytesIO(content)
    with h5py.File(file, "r+") as checkpoint:
        edit(checkpoint)
    return file.getvalue()


def replaced(path: str, value: np.ndarray) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        del file[path]
        file[path] = value

    return edit


def with_attribute(group: str, key: str, value: str) -> Callable[[h5py.File], None]:
    return lambda file: file[group].attrs.__setitem__(key, value)


HOSTILE = {
    "shape": (replaced(f"{LAYERS}/2/weights/parameters", np.zeros((4, 17), np.float32)), "(4, 17)"),
    "precision": (replaced(f"{LAYERS}/2/biases/parameters", np.zeros((1, 4))), "float64"),
    "nan": (
        replaced(f"{LAYERS}/1/biases_input/parameters", np.full(48, np.nan, np.float32)),
        "not finite",
    ),
    "kind": (with_attribute(f"{LAYERS}/1", "type", "lstm"), "'lstm', expected 'gru'"),
    "activation": (
        with_attribute(f"{LAYERS}/0", "activation_function", "FAST_TANH"), "'FAST_TANH'",
    ),
    "observation": (
        with_attribute("actor", "meta", '{"environment": {"observation": "Position"}}'), "Position",
    ),
    "meta": (with_attribute("actor", "meta", "{"), "not a RAPTOR checkpoint"),
    "missing": (lambda file: file.__delitem__("example"), "not a RAPTOR checkpoint"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_other_checkpoints_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    edit, words = HOSTILE[name]
    content = changed(edit)
    monkeypatch.setattr(raptor, "_checkpoint", lambda: (content, "1.0"))
    with pytest.raises(UserError) as caught:
        load("raptor")
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [0, 100, 70_000])
def test_truncated_checkpoint(cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    content = raptor._checkpoint()[0][:cut]
    monkeypatch.setattr(raptor, "_checkpoint", lambda: (content, "1.0"))
    with pytest.raises(UserError, match=r"checkpoint.h5: not a RAPTOR checkpoint"):
        load("raptor")


def test_learned_initial_state(monkeypatch: pytest.MonkeyPatch, policy: Policy) -> None:
    """A checkpoint that starts from another state: zeros in edgerl still mean a fresh start."""
    start = np.linspace(-0.5, 0.5, 16, dtype=np.float32)
    content = changed(replaced(f"{LAYERS}/1/initial_hidden_state/parameters", start))
    monkeypatch.setattr(raptor, "_checkpoint", lambda: (content, "1.0"))
    learned = lower(load("raptor"))
    plain = lower(policy)
    theirs, ours = (start.astype(np.float64),), reset(learned)
    for observation in policy.examples.observations[:20, 0]:
        expected, theirs = run(plain, observation, theirs)
        action, ours = run(learned, observation, ours)
        np.testing.assert_allclose(action, expected, atol=1e-6)
    assert difference(load("raptor"), learned) < 2e-6


def test_parsing_a_saved_policy_keeps_the_order(policy: Policy) -> None:
    graph = parse(policy.serialized(), "x.onnx").graph.graph
    assert [port.name for port in graph.input] == ["observation", "hidden"]
    assert [port.name for port in graph.output] == ["action", "hidden_next"]
