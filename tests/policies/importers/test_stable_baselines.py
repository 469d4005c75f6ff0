"""Stable-Baselines3 checkpoints: the policy acts as the library's own does."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch
from checkpoint import Checkpoint
from checkpoints_sb3 import (
    MAKERS,
    OFF_POLICY,
    ON_POLICY,
    Environment,
    by_key,
    cart_pole,
    pendulum,
    saved,
    trained,
)
from gymnasium import spaces
from gymnasium.wrappers import FilterObservation
from picture import Image
from point_mass import PointMass
from saved_models import SMALL, STEPS, altered, keyed, small
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor
from torch import nn

from edgerl import policies
from edgerl.errors import UserError
from edgerl.policies.importers.layers.network import NeedsLayers
from edgerl.policies.policy import Policy
from edgerl.toolchain.checks.reference import run_onnx

__all__ = ["keyed", "small"]


def agrees(checkpoint: Checkpoint, layers: Path | None = None) -> Policy:
    """The policy read from a checkpoint, which gives the framework's own actions."""
    policy = policies.load(checkpoint.path, vecnormalize=checkpoint.vecnormalize, layers=layers)
    ours = run_onnx(policy, checkpoint.observations, checkpoint.resets)
    scale = np.maximum(1.0, np.abs(checkpoint.actions))
    assert (np.abs(ours - checkpoint.actions) / scale).max() <= 1e-5
    assert np.ptp(checkpoint.actions, axis=0).min() > 0.0
    return policy


def pushed(action: str) -> Environment:
    """The point mass with a form of action."""
    return lambda: PointMass(action)


@pytest.mark.parametrize("name", MAKERS)
def test_acts_as_the_library_does(name: str, tmp_path: Path) -> None:
    checkpoint = MAKERS[name](tmp_path)
    assert len(checkpoint.observations) >= 1000
    agrees(checkpoint)


SQUASHED = {"use_sde": True, "policy_kwargs": {"squash_output": True, "net_arch": [8]}}
LSTM = {"policy": "MlpLstmPolicy", **ON_POLICY}
VARIANTS: dict[str, tuple[Any, Environment, dict[str, Any]]] = {
    "squashed": (stable_baselines3.PPO, pushed("push"), {**SQUASHED, **ON_POLICY}),
    "state-dependent noise": (
        stable_baselines3.A2C, pushed("push"), {"use_sde": True, "policy_kwargs": SMALL},
    ),
    "sac, state-dependent noise": (
        stable_baselines3.SAC, pushed("push"), {"use_sde": True, "policy_kwargs": SMALL},
    ),
    "sac, limited mean": (
        stable_baselines3.SAC,
        pendulum,
        {"use_sde": True, "policy_kwargs": {"clip_mean": 0.3, "net_arch": [8]}},
    ),
    "sac, free mean": (
        stable_baselines3.SAC,
        pendulum,
        {"use_sde": True, "policy_kwargs": {"clip_mean": 0.0, "net_arch": [8]}},
    ),
    "switches": (
        stable_baselines3.PPO, pushed("thrusters"), {"policy_kwargs": SMALL, "seed": 2},
    ),
    "choice": (stable_baselines3.A2C, pushed("choice"), {"policy_kwargs": SMALL}),
    "trpo": (sb3_contrib.TRPO, pushed("push"), {"policy_kwargs": SMALL}),
    "tqc": (sb3_contrib.TQC, pushed("push"), {"policy_kwargs": SMALL}),
    "default layers": (stable_baselines3.TD3, pendulum, {}),
    "no hidden layer": (stable_baselines3.PPO, pendulum, {"policy_kwargs": {"net_arch": []}}),
    "no hidden layer, td3": (stable_baselines3.TD3, pendulum, {"policy_kwargs": {"net_arch": []}}),
    "hidden layers of the critic alone": (
        stable_baselines3.PPO, pendulum, {"policy_kwargs": {"net_arch": {"vf": [8]}}},
    ),
    "layers by role": (
        stable_baselines3.SAC, pendulum, {"policy_kwargs": {"net_arch": {"pi": [8, 4], "qf": [6]}}},
    ),
    "one extractor each": (
        stable_baselines3.PPO,
        pendulum,
        {"policy_kwargs": {"share_features_extractor": False, **SMALL}},
    ),
    "shared extractor, dqn": (
        stable_baselines3.DQN, pushed("choice"), {"policy_kwargs": SMALL, "seed": 0},
    ),
    "two lstm layers": (
        sb3_contrib.RecurrentPPO,
        pendulum,
        {"policy_kwargs": {"lstm_hidden_size": 8, "n_lstm_layers": 2, **SMALL}, **LSTM},
    ),
    "shared lstm": (
        sb3_contrib.RecurrentPPO,
        pendulum,
        {
            "policy_kwargs": {
                "lstm_hidden_size": 8, "shared_lstm": True, "enable_critic_lstm": False, **SMALL,
            },
            **LSTM,
        },
    ),
    "no critic lstm": (
        sb3_contrib.RecurrentPPO,
        cart_pole,
        {"policy_kwargs": {"lstm_hidden_size": 8, "enable_critic_lstm": False, **SMALL}, **LSTM},
    ),
    "lstm without biases": (
        sb3_contrib.RecurrentPPO,
        pendulum,
        {"policy_kwargs": {"lstm_hidden_size": 8, "lstm_kwargs": {"bias": False}}, **LSTM},
    ),
    "lstm, keys": (
        sb3_contrib.RecurrentPPO,
        lambda: FilterObservation(by_key(), ["corner", "position"]),
        {
            **LSTM, "policy": "MultiInputLstmPolicy",
            "policy_kwargs": {"lstm_hidden_size": 8, **SMALL},
        },
    ),
    "keys, sac": (
        stable_baselines3.SAC, by_key, {"policy": "MultiInputPolicy", "policy_kwargs": SMALL},
    ),
    "keys, td3": (
        stable_baselines3.TD3, by_key, {"policy": "MultiInputPolicy", "policy_kwargs": SMALL},
    ),
    "keys, dqn": (
        stable_baselines3.DQN,
        lambda: PointMass("choice", by_key=True),
        {"policy": "MultiInputPolicy", "policy_kwargs": SMALL, "seed": 0},
    ),
    "extractor named": (
        stable_baselines3.PPO,
        by_key,
        {
            "policy": "MultiInputPolicy",
            "policy_kwargs": {"features_extractor_class": CombinedExtractor, **SMALL},
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_forms_of_policies(name: str, tmp_path: Path) -> None:
    algorithm, environment, options = VARIANTS[name]
    if algorithm in (stable_baselines3.SAC, stable_baselines3.TD3, stable_baselines3.DQN):
        options = {**OFF_POLICY, **options}
    model, _ = trained(algorithm, environment, 0, **options)
    agrees(saved(tmp_path, model, None, environment, STEPS))


ACTIVATIONS = [
    nn.ReLU, nn.Tanh, nn.Sigmoid, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus,
    nn.Softsign, nn.LeakyReLU, nn.Hardsigmoid, nn.Hardswish, nn.ReLU6, nn.Hardtanh,
]  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation: type[nn.Module], tmp_path: Path) -> None:
    options = {"net_arch": [8, 8], "activation_fn": activation}
    model, _ = trained(stable_baselines3.PPO, pendulum, 0, policy_kwargs=options)
    agrees(saved(tmp_path, model, None, pendulum, 100))


@pytest.mark.parametrize("normalised", [True, False])
def test_bytes_over_255(normalised: bool, tmp_path: Path) -> None:
    options = {"net_arch": [4], "normalize_images": normalised}
    model, _ = trained(
        stable_baselines3.PPO, lambda: Image(4), 0, policy_kwargs=options, **ON_POLICY
    )
    agrees(saved(tmp_path, model, None, lambda: Image(4), 50))


class Extractor(BaseFeaturesExtractor):
    """A features extractor whose activations nobody but its author knows."""

    def __init__(self, space: spaces.Space[Any], features_dim: int = 6) -> None:
        super().__init__(space, features_dim)
        self.first = nn.Linear(3, 5)
        self.second = nn.Linear(5, features_dim)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """The features."""
        return nn.functional.silu(self.second(torch.tanh(self.first(observations))))


LAYERS = """
[[layer]]
kind = "dense"
weight = "{prefix}.first.weight"
bias = "{prefix}.first.bias"
activation = "tanh"

[[layer]]
kind = "dense"
weight = "{prefix}.second.weight"
bias = "{prefix}.second.bias"
activation = "silu"
"""


@pytest.mark.parametrize(
    ("algorithm", "prefix"),
    [
        (stable_baselines3.PPO, "features_extractor"),
        (stable_baselines3.PPO, "pi_features_extractor"),
        (stable_baselines3.SAC, "actor.features_extractor"),
    ],
)
def test_extractor_of_the_user_s_own(algorithm: Any, prefix: str, tmp_path: Path) -> None:
    options = {"net_arch": [8], "features_extractor_class": Extractor}
    steps = ON_POLICY if algorithm is stable_baselines3.PPO else OFF_POLICY
    model, venv = trained(algorithm, pendulum, 64, normalise={}, policy_kwargs=options, **steps)
    checkpoint = saved(tmp_path, model, venv, pendulum, STEPS)
    with pytest.raises(NeedsLayers, match=r"Extractor.*--layers.*export_sb3") as refused:
        policies.load(checkpoint.path, vecnormalize=checkpoint.vecnormalize)
    assert "first.weight" in refused.value.template
    layers = tmp_path / "layers.toml"
    layers.write_text(LAYERS.format(prefix=prefix))
    agrees(checkpoint, layers)


def test_layers_for_an_extractor_that_has_none(small: Checkpoint, tmp_path: Path) -> None:
    layers = tmp_path / "layers.toml"
    layers.write_text(LAYERS.format(prefix="features_extractor"))
    with pytest.raises(UserError, match=r"no features extractor of its own.*layers\.toml"):
        policies.load(small.path, layers=layers)


def test_what_the_file_tells(small: Checkpoint, keyed: Checkpoint) -> None:
    policy = policies.load(small.path, vecnormalize=small.vecnormalize)
    (observation,), (action,) = policy.spec.observation, policy.spec.action
    assert (observation.name, observation.size, observation.range) == ("observation", 3, (-8, 8))
    assert (action.name, action.size, action.range) == ("action", 1, (-2, 2))
    assert policy.provenance["source"] == "stable-baselines3"
    assert policy.provenance["producer"] == f"stable-baselines3 {stable_baselines3.__version__}"
    assert policy.provenance["sha256"] == hashlib.sha256(small.path.read_bytes()).hexdigest()
    assert any("statistics of vecnormalize.pkl" in line for line in policy.assumed)
    assert not any("WARNING" in line for line in policy.assumed)
    named = policies.load(keyed.path, vecnormalize=keyed.vecnormalize).spec
    assert [(s.name, s.size, s.range) for s in named.observation] == [
        ("corner", 1, (0, 3)),
        ("position", 2, (-50, 50)),
        ("velocity", 2, (-10, 10)),
        ("walls", 2, (0, 1)),
        ("zone", 2, (0, 2)),
    ]
    assert named.action[0].range == (-2, 1)


def test_neither_torch_nor_the_library_is_needed(small: Checkpoint) -> None:
    code = (
        "import sys; from edgerl import policies; "
        f"policies.load({str(small.path)!r}, vecnormalize={str(small.vecnormalize)!r}); "
        "print(sorted({'torch', 'stable_baselines3', 'gymnasium', 'cloudpickle'} & {*sys.modules}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_trained_normalised_and_no_statistics(small: Checkpoint) -> None:
    policy = policies.load(small.path)
    assert [line for line in policy.assumed if line.startswith("WARNING: ")] == [
        "WARNING: the model was trained inside VecNormalize; without its statistics "
        "(--vecnormalize FILE) the policy takes observations that are normalised already"
    ]
    # Normalised values need not lie where the environment's own do.
    assert policy.spec.observation[0].range == (-1e6, 1e6)


@pytest.mark.parametrize("normalise", [None, {}])
def test_off_policy_models_do_not_tell(normalise: dict[str, Any] | None, tmp_path: Path) -> None:
    model, _ = trained(
        stable_baselines3.SAC, pendulum, 80, normalise=normalise, policy_kwargs=SMALL, **OFF_POLICY
    )
    model.save(tmp_path / "model.zip")
    policy = policies.load(tmp_path / "model.zip")
    assert any("the file does not tell whether training" in line for line in policy.assumed)
    assert not any(line.startswith("WARNING") for line in policy.assumed)
    assert policy.spec.observation[0].range == (-8.0, 8.0), "the environment's own"


def test_statistics_of_rewards_alone(tmp_path: Path) -> None:
    model, venv = trained(
        stable_baselines3.PPO, pendulum, 0, normalise={"norm_obs": False}, policy_kwargs=SMALL
    )
    policy = agrees(saved(tmp_path, model, venv, pendulum, STEPS))
    assert "observation: not normalised, says vecnormalize.pkl" in policy.assumed


def test_shifted_choices(tmp_path: Path) -> None:
    path = altered_model(tmp_path, "choice", {"action_space": spaces.Discrete(4, start=2)})
    assert any("WARNING: the action space does not" in t for t in policies.load(path).assumed)


def test_seeded_spaces(small: Checkpoint, tmp_path: Path) -> None:
    space = spaces.Box(-1.0, 1.0, (3,), seed=3)
    space.sample()
    path = altered(small.path, tmp_path, {"observation_space": space})
    assert policies.load(path).spec.observation_size == 3


def altered_model(folder: Path, action: str, fields: dict[str, Any]) -> Path:
    """A point mass's model, altered."""
    model, _ = trained(stable_baselines3.A2C, pushed(action), 0, policy_kwargs=SMALL)
    model.save(folder / "model.zip")
    return altered(folder / "model.zip", folder, fields)
