"""Checkpoints that Stable-Baselines3 and sb3-contrib write, with their deterministic actions."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import sb3_contrib
import stable_baselines3
import torch
from checkpoint import Checkpoint, Maker
from point_mass import PointMass
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

STEPS = 1000
Environment = Callable[[], gymnasium.Env[Any, Any]]
ON_POLICY = {"n_steps": 128, "batch_size": 64, "n_epochs": 2}
OFF_POLICY = {"learning_starts": 64, "batch_size": 32, "buffer_size": 1000}


def pendulum() -> gymnasium.Env[Any, Any]:
    """Two actions' worth of swinging up: torque in [-2, 2]."""
    return gymnasium.make("Pendulum-v1")


def cart_pole() -> gymnasium.Env[Any, Any]:
    """Left or right."""
    return gymnasium.make("CartPole-v1")


def trained(
    algorithm: Any,
    environment: Environment,
    learn: int,
    *,
    policy: str = "MlpPolicy",
    normalise: dict[str, Any] | None = None,
    seed: int = 7,
    **options: Any,
) -> tuple[Any, VecNormalize | None]:
    """A model after `learn` steps, its weights then moved so that every action occurs, and the
    VecNormalize it was trained in."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    venv: Any = DummyVecEnv([environment])
    if normalise is not None:
        venv = VecNormalize(venv, **normalise)
    # The library writes into the dictionaries that it is given.
    model = algorithm(policy, venv, seed=seed, device="cpu", **deepcopy(options))
    if learn:
        model.learn(learn)
    with torch.no_grad():
        for weight in model.policy.parameters():
            weight.add_(0.3 * torch.randn(weight.shape))
    return model, venv if normalise is not None else None


def flat(observation: Any) -> npt.NDArray[np.float32]:
    """An observation as the policy gets it: keys one after another."""
    if isinstance(observation, dict):
        return np.concatenate([flat(part) for part in observation.values()])
    return np.asarray(observation, np.float32).reshape(-1)


def actions(
    model: Any, vecnormalize: VecNormalize | None, environment: Environment, steps: int = STEPS
) -> Iterator[tuple[Any, bool, Any]]:
    """Observation, whether an episode starts there, and the model's own action, step by step."""
    played = environment()
    observation, state, start = played.reset(seed=1)[0], None, True
    for _ in range(steps):
        seen = vecnormalize.normalize_obs(observation) if vecnormalize else observation
        action, state = model.predict(
            seen, state=state, episode_start=np.array([start]), deterministic=True
        )
        yield observation, start, action
        # The environment gets what it would get from the policy, in its own type.
        observation, _, ended, cut, _ = played.step(action)
        start = ended or cut
        if start:
            observation = played.reset()[0]


def saved(
    folder: Path,
    model: Any,
    vecnormalize: VecNormalize | None,
    environment: Environment,
    steps: int = STEPS,
) -> Checkpoint:
    """The model in a file, with its answers along a rollout."""
    path = folder / "model.zip"
    model.save(path)
    statistics = None
    if vecnormalize is not None:
        statistics = folder / "vecnormalize.pkl"
        vecnormalize.save(str(statistics))
    rows = list(actions(model, vecnormalize, environment, steps))
    return Checkpoint(
        path=path,
        observations=np.stack([flat(observation) for observation, _, _ in rows]),
        resets=np.array([start for _, start, _ in rows]),
        actions=np.stack([flat(action) for _, _, action in rows]),
        vecnormalize=statistics,
    )


def _maker(algorithm: Any, environment: Environment, learn: int = 256, **options: Any) -> Maker:
    def make(folder: Path) -> Checkpoint:
        return saved(folder, *trained(algorithm, environment, learn, **options), environment)

    return make


def by_key() -> gymnasium.Env[Any, Any]:
    """The point mass observed by key."""
    return PointMass("push", by_key=True)


def directions() -> gymnasium.Env[Any, Any]:
    """The point mass pushed in steps along each axis."""
    return PointMass("directions")


NET = {"net_arch": [16, 16]}
MAKERS: dict[str, Maker] = {
    "sb3-ppo": _maker(
        stable_baselines3.PPO,
        pendulum,
        policy_kwargs={"net_arch": {"pi": [16, 16], "vf": [8]}},
        normalise={"clip_obs": 2.0},
        **ON_POLICY,
    ),
    "sb3-ppo-discrete": _maker(stable_baselines3.PPO, cart_pole, policy_kwargs=NET, **ON_POLICY),
    "sb3-a2c-multidiscrete": _maker(stable_baselines3.A2C, directions, 64, policy_kwargs=NET),
    "sb3-sac": _maker(stable_baselines3.SAC, pendulum, 96, policy_kwargs=NET, **OFF_POLICY),
    "sb3-td3": _maker(stable_baselines3.TD3, pendulum, 96, policy_kwargs=NET, **OFF_POLICY),
    "sb3-ddpg": _maker(stable_baselines3.DDPG, pendulum, 96, policy_kwargs=NET, **OFF_POLICY),
    "sb3-dqn": _maker(
        stable_baselines3.DQN, cart_pole, 96, policy_kwargs=NET, seed=0, **OFF_POLICY
    ),
    "sb3-recurrent-ppo": _maker(
        sb3_contrib.RecurrentPPO,
        pendulum,
        policy="MlpLstmPolicy",
        policy_kwargs={"net_arch": [16], "lstm_hidden_size": 16},
        **ON_POLICY,
    ),
    "sb3-ppo-dict": _maker(
        stable_baselines3.PPO,
        by_key,
        policy="MultiInputPolicy",
        policy_kwargs=NET,
        normalise={"norm_obs_keys": ["velocity", "position"]},
        **ON_POLICY,
    ),
}
