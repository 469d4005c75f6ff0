"""export_sb3: a live model is written as a policy, whatever code its network runs."""

import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch
from checkpoints_sb3 import OFF_POLICY, ON_POLICY, by_key, cart_pole, pendulum, saved, trained
from picture import Image
from point_mass import PointMass
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

import edgerl
from edgerl import policies
from edgerl.errors import UserError
from edgerl.toolchain.checks.reference import run_onnx

STEPS = 100
SMALL = {"net_arch": [8]}


class Own(BaseFeaturesExtractor):
    """A features extractor of the user's own, for vectors and for keys."""

    def __init__(self, space: gymnasium.Space[Any], features_dim: int = 6) -> None:
        super().__init__(space, features_dim)
        parts = space.spaces.values() if isinstance(space, gymnasium.spaces.Dict) else [space]
        taken = sum(gymnasium.spaces.flatdim(part) for part in parts)
        self.first = nn.Linear(int(taken), features_dim)

    def forward(self, observations: Any) -> Any:
        """The features."""
        if isinstance(observations, dict):
            parts = [torch.flatten(part, 1) for part in reversed(observations.values())]
            observations = torch.cat(parts, dim=1)
        return nn.functional.silu(self.first(observations))


class OwnPolicy(ActorCriticPolicy):
    """A policy class of the user's own."""


class Stubborn(ActorCriticPolicy):
    """A policy that acts otherwise than its network says."""

    def _predict(self, observation: Any, deterministic: bool = False) -> Any:
        return super()._predict(observation, deterministic) + 0.5


OWN = {"features_extractor_class": Own, **SMALL}
CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "as the library builds it": (
        stable_baselines3.PPO, pendulum, {"normalise": {}, "policy_kwargs": SMALL, **ON_POLICY},
    ),
    "own extractor": (
        stable_baselines3.PPO, pendulum, {"normalise": {}, "policy_kwargs": OWN, **ON_POLICY},
    ),
    "own extractor, keys": (
        stable_baselines3.PPO,
        by_key,
        {
            "policy": "MultiInputPolicy",
            "normalise": {"norm_obs_keys": ["velocity", "position"]},
            "policy_kwargs": OWN,
            **ON_POLICY,
        },
    ),
    "own extractor, sac": (stable_baselines3.SAC, pendulum, {"policy_kwargs": OWN, **OFF_POLICY}),
    "own extractor, td3": (stable_baselines3.TD3, pendulum, {"policy_kwargs": OWN, **OFF_POLICY}),
    "own extractor, dqn": (
        stable_baselines3.DQN,
        lambda: PointMass("choice"),
        {"policy_kwargs": OWN, "seed": 0, **OFF_POLICY},
    ),
    "own extractor, lstm": (
        sb3_contrib.RecurrentPPO,
        pendulum,
        {
            "policy": "MlpLstmPolicy",
            "policy_kwargs": {"lstm_hidden_size": 8, "n_lstm_layers": 2, **OWN},
            **ON_POLICY,
        },
    ),
    "own policy": (
        stable_baselines3.PPO,
        lambda: PointMass("directions"),
        {"policy": OwnPolicy, "policy_kwargs": SMALL, "seed": 1, **ON_POLICY},
    ),
    "own activation": (
        stable_baselines3.A2C,
        pendulum,
        {"policy_kwargs": {"activation_fn": lambda: nn.LeakyReLU(0.3), **SMALL}},
    ),
    "quantiles": (
        sb3_contrib.QRDQN,
        lambda: PointMass("choice"),
        {"policy_kwargs": {"n_quantiles": 7, **SMALL}, "seed": 5, **OFF_POLICY},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_policy_acts_as_the_model_does(name: str, tmp_path: Path) -> None:
    algorithm, environment, options = CASES[name]
    model, vecnormalize = trained(algorithm, environment, 0, **options)
    checkpoint = saved(tmp_path, model, vecnormalize, environment, STEPS)
    path = tmp_path / "mine.onnx"
    written = edgerl.export_sb3(model, vecnormalize, path)
    policy = policies.load(path)
    assert policy.sha256() == written.sha256()
    assert policy.name == "mine"
    assert policy.provenance["source"] == "stable-baselines3"
    assert ("network" in policy.provenance) == (name != "as the library builds it")
    ours = run_onnx(policy, checkpoint.observations, checkpoint.resets)
    scale = np.maximum(1.0, np.abs(checkpoint.actions))
    assert (np.abs(ours - checkpoint.actions) / scale).max() <= 1e-5
    assert np.ptp(checkpoint.actions, axis=0).min() > 0.0


def test_what_no_policy_can_be_made_of(tmp_path: Path) -> None:
    path = tmp_path / "mine.onnx"
    model, _ = trained(stable_baselines3.A2C, pendulum, 0, policy=Stubborn)
    with pytest.raises(UserError, match=r"Stubborn acts otherwise than model\.predict"):
        edgerl.export_sb3(model, None, path)
    ars = sb3_contrib.ARS("MlpPolicy", cart_pole())
    with pytest.raises(UserError, match="ARSPolicy is of no known make"):
        edgerl.export_sb3(ars, None, path)
    picture, _ = trained(
        stable_baselines3.A2C, lambda: Image(36), 0, policy="CnnPolicy",
        policy_kwargs={"features_extractor_kwargs": {"features_dim": 4}},
    )  # fmt: skip
    with pytest.raises(UserError, match="convolutions are not supported"):
        edgerl.export_sb3(picture, None, path)
    with pytest.raises(UserError, match="list is no model of Stable-Baselines3"):
        edgerl.export_sb3([], None, path)
    plain, _ = trained(stable_baselines3.A2C, pendulum, 0)
    with pytest.raises(UserError, match="dict is no VecNormalize"):
        edgerl.export_sb3(plain, {}, path)
    with pytest.raises(UserError, match=r"written to an \.onnx file"):
        edgerl.export_sb3(plain, None, tmp_path / "mine.zip")
    assert not path.exists()


def test_forgotten_statistics_are_a_warning(tmp_path: Path) -> None:
    model, venv = trained(stable_baselines3.A2C, pendulum, 8, normalise={})
    with pytest.warns(UserWarning, match="trained inside VecNormalize"):
        edgerl.export_sb3(model, None, tmp_path / "mine.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        edgerl.export_sb3(model, venv, tmp_path / "mine.onnx")
