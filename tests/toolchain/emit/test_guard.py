"""The guarded step against an independent model of its contract, on host and emulated core."""

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest

from edgerl.policies import Policy, PolicySpec
from edgerl.targets import target
from edgerl.toolchain import ir
from edgerl.toolchain.build import HostTwin, build_firmware, build_host, find
from edgerl.toolchain.emit import emit
from edgerl.toolchain.emulators import UnicornCore

TARGET = target("cortex-m4f")
NAN, INF = np.float32(np.nan), np.float32(np.inf)
STRANGE = np.array([NAN, -NAN, INF, -INF, 1e30, -1e30, 3e38, 1e-42, -1e-42, 0.0, -0.0], np.float32)
RANGES = {
    "symmetric": [(-0.5, 0.5), (-2.0, 2.0), (-35.0, 35.0)],
    "asymmetric": [(-0.5, 1.5), (0.0, 4.0), (-3.0, -1.0)],
}
SEQUENCES, STEPS = 10_000, 12

Answer = Literal["saturate", "hold", "fallback"]


def spec(ranges: str, out_of_range: Answer, non_finite: Answer) -> PolicySpec:
    signals = [
        {"name": f"signal{k}", "size": 2, "range": limits}
        for k, limits in enumerate(RANGES[ranges])
    ]
    return PolicySpec.model_validate(
        {
            "name": "guarded",
            "observation": signals,
            "action": [
                {"name": "even", "size": 2, "range": (-1.0, 1.0)},
                {"name": "odd", "size": 1, "range": (0.0, 0.25)},
            ],
            "state": [{"name": "h", "size": 3}],
            "out_of_range": out_of_range,
            "non_finite": non_finite,
            "fallback": (-0.5, 0.5, 0.125),
        }
    )


def program() -> ir.Program:
    rng = np.random.default_rng(5)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return rng.normal(size=(rows, columns)).astype(np.float32)

    tensor = ir.Tensor
    return ir.Program(
        "guarded",
        "obs",
        "act",
        (("h", "h_next"),),
        (
            ir.Gru(
                "obs", "h", "h_next", matrix(9, 6), matrix(9, 3), matrix(1, 9)[0], matrix(1, 9)[0]
            ),
            ir.Dense((("h_next", 3.0 * matrix(3, 3)),), matrix(1, 3)[0], "act"),
        ),
        {"obs": tensor(6), "h": tensor(3), "h_next": tensor(3), "act": tensor(3)},
    )


def built(policy_spec: PolicySpec, folder: Path) -> Path:
    policy = Policy(onnx.ModelProto(), policy_spec)
    made = emit(policy, program(), fused=False, assembly="cortex_m_fpu")
    for name, text in made.files.items():
        (folder / name).write_text(text)
    return folder


def sequences(ranges: str, rng: np.random.Generator, count: int) -> np.ndarray:
    """[STEPS, count, 6]: mostly inside the ranges, some outside, some at their very ends."""
    limits = np.repeat(np.array(RANGES[ranges], np.float32), 2, axis=0)
    low, high = limits[:, 0], limits[:, 1]
    shape = (STEPS, count, 6)
    values = (low + (high - low) * rng.random(shape)).astype(np.float32)
    edges = np.stack([low, high, np.nextafter(low, -INF), np.nextafter(high, INF)])
    pick = rng.random(shape)
    column = np.arange(6)
    values = np.where(pick < 0.05, edges[rng.integers(0, 4, shape), column], values)
    return np.where(pick > 0.95, STRANGE[rng.integers(0, len(STRANGE), shape)], values)


def expected(
    twin: HostTwin, policy_spec: PolicySpec, observations: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Actions, statuses and recurrent states by the contract, with the bare network alone."""
    steps, count, _ = observations.shape
    low, high = np.array(policy_spec.observation_ranges(), np.float32).T
    least, most = np.array(policy_spec.action_ranges(), np.float32).T
    fallback = np.array(policy_spec.fallback, np.float32)
    states = twin.reset_states(count)
    last_good = np.tile(fallback, (count, 1))
    actions, statuses, memories = [], [], []
    for t in range(steps):
        seen = observations[t]
        broken = ~np.isfinite(seen).all(axis=1)
        outside = ~((seen >= low) & (seen <= high)).all(axis=1)
        rejected = broken | (outside & (policy_spec.out_of_range != "saturate"))
        clean = np.clip(np.nan_to_num(seen, nan=0.0), low, high).astype(np.float32)
        run = twin.many(states, clean, "evaluate")
        assert run.states is not None
        states = np.where(rejected[:, None], states, run.states)
        answers = np.where(broken, policy_spec.non_finite, policy_spec.out_of_range)
        replaced = np.where((answers == "hold")[:, None], last_good, fallback)
        good = np.clip(run.actions, least, most)
        actions.append(np.where(rejected[:, None], replaced, good))
        last_good = np.where(rejected[:, None], last_good, good)
        statuses.append(outside | (broken.astype(np.uint32) << 1))
        memories.append(states[:, :12])
    return np.stack(actions), np.stack(statuses), np.stack(memories)


CASES = [
    ("symmetric", "saturate", "hold"),
    ("symmetric", "saturate", "fallback"),
    ("asymmetric", "saturate", "hold"),
    ("asymmetric", "hold", "hold"),
    ("symmetric", "fallback", "fallback"),
    ("symmetric", "fallback", "hold"),
    ("asymmetric", "hold", "fallback"),
]


@pytest.mark.parametrize(("ranges", "out_of_range", "non_finite"), CASES)
def test_every_step_does_what_the_contract_says(
    ranges: str, out_of_range: Answer, non_finite: Answer, tmp_path: Path
) -> None:
    policy_spec = spec(ranges, out_of_range, non_finite)
    source = built(policy_spec, tmp_path)
    twin = build_host(source, "guarded", tmp_path / "host")
    observations = sequences(ranges, np.random.default_rng(11), SEQUENCES)
    actions, statuses, memories = expected(twin, policy_spec, observations)
    states = twin.reset_states(SEQUENCES)
    for t in range(STEPS):
        run = twin.many(states, observations[t], "step")
        assert run.states is not None
        states = run.states
        assert run.status.tolist() == statuses[t].tolist()
        np.testing.assert_array_equal(run.actions, actions[t])
        np.testing.assert_array_equal(states[:, :12], memories[t])
    low, high = np.array(policy_spec.action_ranges(), np.float32).T
    assert ((actions >= low) & (actions <= high)).all()


@pytest.mark.parametrize(("ranges", "out_of_range", "non_finite"), CASES)
def test_the_core_does_the_same(
    ranges: str, out_of_range: Answer, non_finite: Answer, tmp_path: Path
) -> None:
    source = built(spec(ranges, out_of_range, non_finite), tmp_path)
    twin = build_host(source, "guarded", tmp_path / "host")
    image = build_firmware(
        source, "guarded", TARGET, find("zig", TARGET.core), tmp_path / "out", build_id="0" * 64
    )
    core = UnicornCore(image, TARGET)
    observations = sequences(ranges, np.random.default_rng(12), 300)
    flat = np.swapaxes(observations, 0, 1).reshape(-1, 6)
    resets = np.arange(len(flat)) % STEPS == 0
    ours, theirs = core.trace(flat, resets), twin.trace(flat, resets)
    assert ours.actions.tobytes() == theirs.actions.tobytes()
    assert ours.status.tolist() == theirs.status.tolist()
    assert ours.states is not None and theirs.states is not None
    assert ours.states.tobytes() == theirs.states.tobytes()
