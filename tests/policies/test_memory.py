"""Memory that a spec asks for, built into the graph and kept through lowering and emission."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerl.errors import UserError
from edgerl.policies import Policy, load
from edgerl.policies.graph import GraphBuilder
from edgerl.policies.memory import NetworkSpec, load_spec

RNG = np.random.default_rng(5)


def network(path: Path, n: int, m: int, recurrent: bool = False) -> tuple[np.ndarray, ...]:
    """An .onnx file of action = tanh(W x) (plus a leaky state), and its weights."""
    weight = RNG.normal(0.0, 0.5, (m, n)).astype(np.float32)
    build = GraphBuilder()
    x = build.input("obs", n)
    y = build.activation(build.dense(x, weight), "tanh")
    if recurrent:
        h = build.input("leak", m)
        y = build.add("Add", [y, build.affine(h, [0.5], [0.0])])
    build.output(y, "act", m)
    if recurrent:
        build.output(y, "leak_out", m)
    path.write_bytes(build.finished().SerializeToString())
    return (weight,)


def rollout(policy: Policy, observations: np.ndarray, resets: set[int]) -> np.ndarray:
    """Actions of the policy's graph in onnxruntime, step by step."""
    session = onnxruntime.InferenceSession(policy.serialized())
    names = [port.name for port in session.get_inputs()]
    actions: list[np.ndarray] = []
    state: list[np.ndarray] = []
    for t, row in enumerate(observations):
        if t in resets or t == 0:
            state = [np.zeros(port.shape, np.float32) for port in session.get_inputs()[1:]]
        action, *state = session.run(
            None, dict(zip(names, [row[None].astype(np.float32), *state], strict=True))
        )
        actions.append(action[0])
    return np.array(actions)


def stacked(rows: list[np.ndarray], steps: int, order: str, fill: str) -> np.ndarray:
    """The last `steps` of rows, as a buffer would hold them."""
    first = rows[0] if fill == "first" else np.zeros_like(rows[0])
    held = ([first] * steps + rows)[-steps:]
    return np.concatenate(held if order == "oldest_first" else held[::-1])


def expected(
    spec: NetworkSpec, weight: np.ndarray, observations: np.ndarray, resets: set[int]
) -> np.ndarray:
    """What the network does when somebody else keeps its memory, in plain NumPy."""
    low, high = (np.array(side) for side in zip(*spec.action_ranges(), strict=True))
    actions: list[np.ndarray] = []
    past: dict[str, list[np.ndarray]] = {}
    frames: list[np.ndarray] = []
    for t, row in enumerate(observations):
        if t in resets or t == 0:
            past = {s.name: [] for s in spec.observation}
            fed_back = [np.zeros(spec.action_size)]
            frames = []
        parts, start = [], 0
        for s in spec.observation:
            if s.kept:
                parts.append(stacked(fed_back, s.history, s.order, "zero"))
                continue
            past[s.name].append(row[start : start + s.size])
            parts.append(stacked(past[s.name], s.history, s.order, s.fill))
            start += s.size
        frames.append(np.concatenate(parts))
        taken = stacked(frames, spec.observation_history, "oldest_first", spec.observation_fill)
        action = np.tanh(weight.astype(np.float64) @ taken)
        fed_back.append(np.clip(action, low, high) if spec.feedback == "clamped" else action)
        actions.append(action)
    return np.array(actions)


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    m = draw(st.integers(1, 3))
    signals: list[dict[str, Any]] = [
        {
            "name": f"signal_{k}",
            "size": draw(st.integers(1, 3)),
            "history": draw(st.integers(1, 4)),
            "order": draw(st.sampled_from(["oldest_first", "newest_first"])),
            "fill": draw(st.sampled_from(["zero", "first"])),
        }
        for k in range(draw(st.integers(1, 3)))
    ]
    if draw(st.booleans()):
        kept = {
            "name": "previous_action",
            "size": m,
            "kept": True,
            "history": draw(st.integers(1, 3)),
            "order": draw(st.sampled_from(["oldest_first", "newest_first"])),
        }
        signals.insert(draw(st.integers(0, len(signals))), kept)
    return {
        "name": "net",
        "observation": signals,
        "action": [{"name": "act", "size": m, "range": [-0.4, 0.6]}],
        "feedback": draw(st.sampled_from(["raw", "clamped"])),
    }


@settings(max_examples=60, deadline=None)
@given(rows=specs(), seed=st.integers(0, 1000))
def test_equals_a_buffer_outside(
    rows: dict[str, Any], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    spec = NetworkSpec.model_validate(rows)
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    (weight,) = network(path, spec.network_size, spec.action_size)
    policy = load(path, spec)
    n = policy.spec.observation_size
    assert n == sum(s.size for s in spec.observation if not s.kept)
    observations = np.random.default_rng(seed).normal(0.0, 1.0, (12, n))
    found = rollout(policy, observations, {7})
    wanted = expected(spec, weight, observations, {7})
    np.testing.assert_allclose(found, wanted, atol=2e-6)


@pytest.mark.parametrize("fill", ["zero", "first"])
def test_whole_observations_are_stacked(fill: str, tmp_path: Path) -> None:
    spec = NetworkSpec.model_validate(
        {
            "name": "net",
            "observation": [{"name": "one", "size": 2}, {"name": "two", "size": 1}],
            "action": [{"name": "act", "size": 2}],
            "observation_history": 4,
            "observation_fill": fill,
        }
    )
    (weight,) = network(tmp_path / "net.onnx", 12, 2)
    policy = load(tmp_path / "net.onnx", spec)
    observations = np.random.default_rng(0).normal(0.0, 1.0, (10, 3))
    wanted = expected(spec, weight, observations, {6})
    np.testing.assert_allclose(rollout(policy, observations, {6}), wanted, atol=2e-6)


def test_memory_stands_before_the_network_s_own_state(tmp_path: Path) -> None:
    network(tmp_path / "net.onnx", 6, 2, recurrent=True)
    rows = {
        "name": "net",
        "observation": [
            {"name": "seen", "size": 2, "history": 2},
            {"name": "previous_action", "size": 2, "kept": True},
        ],
        "action": [{"name": "act", "size": 2}],
    }
    policy = load(tmp_path / "net.onnx", NetworkSpec.model_validate(rows))
    names = [state.name for state in policy.spec.state]
    assert names == ["seen_history", "previous_action", "leak"]
    assert policy.spec.observation_size == 2


def test_the_emitted_code_keeps_it(tmp_path: Path) -> None:
    import edgerl
    from edgerl.toolchain.build import build_host

    network(tmp_path / "net.onnx", 11, 2)
    (tmp_path / "spec.toml").write_text(
        """
        name = "net"
        feedback = "clamped"
        [[observation]]
        name = "joint_position"
        size = 3
        history = 3
        fill = "first"
        [[observation]]
        name = "previous_action"
        size = 2
        kept = true
        [[action]]
        name = "torque"
        size = 2
        range = [-0.3, 0.3]
        """
    )
    made = edgerl.compile(
        tmp_path / "net.onnx", target="host", spec=tmp_path / "spec.toml", output=tmp_path / "out"
    )
    policy = load(tmp_path / "net.onnx", tmp_path / "spec.toml")
    twin = build_host(made.artifact.source, "net", tmp_path / "twin")
    assert twin.observation_size == 3
    observations = np.random.default_rng(1).normal(0.0, 1.0, (40, 3)).astype(np.float32)
    resets = np.zeros(40, bool)
    resets[[0, 17]] = True
    wanted = rollout(policy, observations, {17})
    run = twin.trace(observations, resets, "evaluate")
    np.testing.assert_allclose(run.actions, wanted, atol=2e-6)


BASE = {
    "name": "net",
    "observation": [{"name": "seen", "size": 2}],
    "action": [{"name": "act", "size": 2}],
}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"observation": [{"name": "seen", "size": 2, "history": 0}]}, "observation.0.history"),
        ({"observation": [{"name": "seen", "size": 2, "kept": True}]}, "nothing would be observed"),
        (
            {
                "observation": [
                    {"name": "seen", "size": 2},
                    {"name": "previous_action", "size": 3, "kept": True},
                ]
            },
            "the action's 2 values, not 3",
        ),
        (
            {
                "observation": [{"name": "seen", "size": 2, "history": 2}],
                "observation_history": 2,
            },
            "'seen' asks for memory of its own",
        ),
        (
            {
                "observation": [
                    {"name": "seen", "size": 2},
                    {"name": "previous_action", "size": 2, "kept": True},
                ],
                "feedback": "applied",
            },
            "only the actuators know",
        ),
    ],
)
def test_what_cannot_be_remembered(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    from edgerl.documents import validated

    with pytest.raises(UserError, match=says):
        validated(NetworkSpec, {**BASE, **change}, "spec.toml")


def test_sizes_that_disagree(tmp_path: Path) -> None:
    network(tmp_path / "net.onnx", 5, 2)
    rows = {**BASE, "observation_history": 3}
    with pytest.raises(UserError, match="has 6 values, the network takes 5"):
        load(tmp_path / "net.onnx", NetworkSpec.model_validate(rows))


def test_a_spec_without_memory_is_a_plain_one(tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(
        'name = "net"\n[[observation]]\nname = "seen"\nsize = 2\n[[action]]\nname="a"\nsize=1\n'
    )
    assert type(load_spec(path)).__name__ == "PolicySpec"


@pytest.mark.parametrize("fill", ["zero", "first"])
def test_a_check_holds_what_it_remembers(fill: str, tmp_path: Path) -> None:
    import edgerl

    network(tmp_path / "net.onnx", 8, 2)
    rows = {
        "name": "net",
        "observation": [
            {"name": "seen", "size": 3, "history": 2, "fill": fill},
            {"name": "previous_action", "size": 2, "kept": True},
        ],
        "action": [{"name": "act", "size": 2}],
    }
    policy = load(tmp_path / "net.onnx", NetworkSpec.model_validate(rows))
    outcome = edgerl.compile(policy, target="cortex-m4f", output=tmp_path / "out", check=True)
    assert outcome.report.ok
    header = (outcome.artifact.source / "net.h").read_text()
    assert "the value of seen before this one" in header
    assert "the action before, clamped; fed back here" in header
    assert "feed back what" not in header, "nobody outside has anything to feed back"
