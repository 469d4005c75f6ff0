"""The guarded step against an independent model of its contract, on host and emulated cores."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from one_build import on_core, on_host, package, policy_of
from random_programs import Builder

from edgerl.policies import PolicySpec
from edgerl.targets import target
from edgerl.toolchain import ir
from edgerl.toolchain.build import HostTwin, build_host
from edgerl.toolchain.emit import Package
from edgerl.toolchain.emulators import count

NAN, INF = np.float32(np.nan), np.float32(np.inf)
STRANGE = np.array([NAN, -NAN, INF, -INF, 1e30, -1e30, 3e38, 1e-42, -1e-42, 0.0, -0.0], np.float32)
RANGES = {
    "symmetric": [(-0.5, 0.5), (-2.0, 2.0), (-35.0, 35.0)],
    "asymmetric": [(-0.5, 1.5), (0.0, 4.0), (-3.0, 0.0)],
    "denormal": [(-1e-40, 1e-40), (-1e30, 1e30), (-1e-42, 2.0)],
}
SEQUENCES, STEPS = 10_000, 12

Answer = Literal["saturate", "hold", "fallback"]
Case = tuple[str, Answer, Answer]
CASES: list[Case] = [
    ("symmetric", "saturate", "hold"),
    ("symmetric", "saturate", "fallback"),
    ("asymmetric", "saturate", "hold"),
    ("asymmetric", "hold", "hold"),
    ("symmetric", "fallback", "fallback"),
    ("symmetric", "fallback", "hold"),
    ("asymmetric", "hold", "fallback"),
    ("denormal", "saturate", "fallback"),
]


def rows(case: Case) -> dict[str, object]:
    """What the spec of a case says."""
    ranges, out_of_range, non_finite = case
    return {
        "observation": [
            {"name": f"signal{k}", "size": 2, "range": limits}
            for k, limits in enumerate(RANGES[ranges])
        ],
        "action": [
            {"name": "even", "size": 2, "range": (-1.0, 1.0)},
            {"name": "odd", "size": 1, "range": (0.0, 0.25)},
        ],
        "state": [{"name": "h", "size": 3}],
        "out_of_range": out_of_range,
        "non_finite": non_finite,
        "fallback": (-0.5, 0.5, 0.125),
    }


def program() -> ir.Program:
    rng = np.random.default_rng(5)

    def matrix(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    tensors = {name: ir.Tensor(3) for name in ("h", "h_next", "act")}
    return ir.Program(
        "guarded",
        "obs",
        "act",
        (("h", "h_next"),),
        (
            ir.Gru("obs", "h", "h_next", matrix(9, 6), matrix(9, 3), matrix(9), matrix(9)),
            ir.Dense((("h_next", 3.0 * matrix(3, 3)),), matrix(3), "act"),
        ),
        {"obs": ir.Tensor(6), **tensors},
    )


def spec(case: Case) -> PolicySpec:
    return policy_of(program(), **rows(case)).spec


def emitted(case: Case, name: str) -> Package:
    return package(program(), name, fused=False, **rows(case))


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, HostTwin]:
    found = {}
    for k, case in enumerate(CASES):
        folder = tmp_path_factory.mktemp("host")
        for name, text in emitted(case, f"case{k}").files.items():
            (folder / name).write_text(text)
        found[case] = build_host(folder, f"case{k}", folder / "out")
    return found


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


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_every_step_does_what_the_contract_says(case: Case, twins: dict[Case, HostTwin]) -> None:
    twin, policy_spec = twins[case], spec(case)
    observations = sequences(case[0], np.random.default_rng(11), SEQUENCES)
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


def test_the_model_meets_every_kind_of_fault(twins: dict[Case, HostTwin]) -> None:
    for case in CASES:
        observations = sequences(case[0], np.random.default_rng(11), 500)
        _, statuses, _ = expected(twins[case], spec(case), observations)
        assert set(np.unique(statuses)) == {0, 1, 3}
        assert {1, 3} <= set(np.unique(statuses[0])), "the first observation is never a fault"


@pytest.mark.parametrize("board", ["cortex-m4f", "cortex-m7", "cortex-m33"])
def test_every_core_does_the_same(board: str, twins: dict[Case, HostTwin], tmp_path: Path) -> None:
    names = {f"{kind}{k}": case for kind in "ap" for k, case in enumerate(CASES)}
    made = [emitted(case, name) for name, case in names.items()]
    portable = [name for name in names if name.startswith("p")]
    image = on_core(made, tmp_path, portable=portable, board=target(board))
    for name, case in names.items():
        observations = sequences(case[0], np.random.default_rng(12), 40)
        flat = np.swapaxes(observations, 0, 1).reshape(-1, 6)
        resets = np.arange(len(flat)) % STEPS == 0
        ours, theirs = image.core(name).trace(flat, resets), twins[case].trace(flat, resets)
        assert ours.actions.tobytes() == theirs.actions.tobytes(), name
        assert ours.status.tolist() == theirs.status.tolist(), name
        assert ours.states is not None
        assert theirs.states is not None
        assert ours.states.tobytes() == theirs.states.tobytes(), name
        if board == "cortex-m4f":
            counted = count(image.core(name), flat[:48], "step").spread
            assert counted.min == counted.max, name


def test_a_network_that_overflows_stays_inside_its_range(tmp_path: Path) -> None:
    # 1/0, and infinity minus infinity: what the guard cannot know beforehand.
    b = Builder(1)
    observation, inverse, difference, action = (b.tensor(2) for _ in range(4))
    ones = np.ones(2, np.float32)
    b.operations += [
        ir.Activate("reciprocal", observation, inverse),
        ir.Linear(((inverse, ones), (inverse, -ones)), 0 * ones, difference),
        ir.Linear(((inverse, ones), (difference, ones)), 0 * ones, action),
    ]
    made = package(b.program(observation, action), "overflowing", fused=True)
    runners = [
        on_host([made], tmp_path / "host")["overflowing"],
        on_core([made], tmp_path / "core").core("overflowing"),
    ]
    seen = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, -0.0]], np.float32)
    for runner in runners:
        run = runner.trace(seen, np.array([True] + [False] * 3), "step")
        assert np.isfinite(run.actions).all()
        assert (np.abs(run.actions) <= 8.0).all()
        assert run.status.tolist() == [0] * 4
