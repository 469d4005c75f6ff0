"""Stable-Baselines3 in closed loop: the emitted C earns the return that the library's model earns.

100 episodes each, of the same seeds, so that the differences are paired.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
import sb3_contrib
import stable_baselines3
from checkpoints_sb3 import OFF_POLICY, ON_POLICY, Environment, flat, saved, trained
from paired import assert_equal_returns
from point_mass import PointMass

import edgerl
from edgerl import policies
from edgerl.toolchain.build import HostTwin, build_host

EPISODES, STEPS = 100, 50
Act = Callable[[list[Any], bool], npt.NDArray[Any]]


def short(name: str) -> Environment:
    """One of gymnasium's own environments, cut after `STEPS`."""
    return lambda: gymnasium.make(name, max_episode_steps=STEPS)


NET = {"net_arch": [16]}
CASES: dict[str, tuple[Any, Environment, dict[str, Any]]] = {
    "ppo, normalised": (
        stable_baselines3.PPO,
        short("Pendulum-v1"),
        {"normalise": {}, "policy_kwargs": NET, **ON_POLICY},
    ),
    "recurrent ppo": (
        sb3_contrib.RecurrentPPO,
        short("Pendulum-v1"),
        {
            "policy": "MlpLstmPolicy",
            "policy_kwargs": {"lstm_hidden_size": 16, **NET},
            **ON_POLICY,
        },
    ),
    "sac": (stable_baselines3.SAC, short("Pendulum-v1"), {"policy_kwargs": NET, **OFF_POLICY}),
    "dqn": (
        stable_baselines3.DQN, short("CartPole-v1"), {"policy_kwargs": NET, "seed": 0, **OFF_POLICY}
    ),
    "a2c, several choices": (
        stable_baselines3.A2C, lambda: PointMass("directions"), {"policy_kwargs": NET},
    ),
    "ppo, keys": (
        stable_baselines3.PPO,
        lambda: PointMass("push", by_key=True),
        {
            "policy": "MultiInputPolicy",
            "normalise": {"norm_obs_keys": ["velocity", "position"]},
            "policy_kwargs": NET,
            **ON_POLICY,
        },
    ),
}  # fmt: skip


def returns(environment: Environment, act: Act) -> npt.NDArray[np.float64]:
    """The return of each episode, all played at once; a finished one earns nothing more."""
    played = [environment() for _ in range(EPISODES)]
    observed = [each.reset(seed=seed)[0] for seed, each in enumerate(played)]
    earned, running = np.zeros(EPISODES), np.ones(EPISODES, bool)
    first = True
    while running.any():
        actions, first = act(observed, first), False
        for k in np.flatnonzero(running):
            observed[k], reward, ended, cut, _ = played[k].step(actions[k])
            earned[k] += float(reward)
            running[k] = not (ended or cut)
    return earned


def library(model: Any, vecnormalize: Any) -> Act:
    """The model's own deterministic actions."""
    state: Any = None

    def act(observed: list[Any], first: bool) -> npt.NDArray[Any]:
        nonlocal state
        batch: Any = np.stack(observed) if not isinstance(observed[0], dict) else {
            key: np.stack([each[key] for each in observed]) for key in observed[0]
        }  # fmt: skip
        batch = vecnormalize.normalize_obs(batch) if vecnormalize else batch
        starts = np.full(EPISODES, first)
        actions, state = model.predict(batch, state, starts, deterministic=True)
        return np.asarray(actions)

    return act


def emitted(twin: HostTwin, space: gymnasium.Space[Any]) -> Act:
    """The actions of the emitted C, with its guard and saturation."""
    states = twin.reset_states(EPISODES)

    def act(observed: list[Any], _first: bool) -> npt.NDArray[Any]:
        nonlocal states
        run = twin.many(states, np.stack([flat(each) for each in observed]))
        assert not run.status.any() and run.states is not None
        states = run.states
        shape = space.shape or ()
        return run.actions.reshape(EPISODES, *shape).astype(space.dtype)

    return act


@pytest.mark.parametrize("name", CASES)
def test_earns_the_library_s_return(name: str, tmp_path: Path) -> None:
    algorithm, environment, options = CASES[name]
    model, vecnormalize = trained(algorithm, environment, 128, **options)
    checkpoint = saved(tmp_path, model, vecnormalize, environment, 20)
    policy = policies.load(checkpoint.path, vecnormalize=checkpoint.vecnormalize)
    policy.save(tmp_path / "policy.onnx")
    outcome = edgerl.compile(tmp_path / "policy.onnx", target="host", output=tmp_path / "built")
    twin = build_host(outcome.artifact.source, outcome.artifact.name, tmp_path / "twin")
    theirs = returns(environment, library(model, vecnormalize))
    ours = returns(environment, emitted(twin, environment().action_space))
    assert_equal_returns(ours, theirs)
