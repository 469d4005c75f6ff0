"""Policies that rsl_rl, Isaac Lab's exporter and torch itself save, with torch's own actions."""

from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
import torch
from checkpoint import Checkpoint, Loop, Maker
from rsl_rl.models.mlp_model import MLPModel
from rsl_rl.models.rnn_model import RNNModel
from tensordict import TensorDict
from torch import Tensor, nn

STEPS = 1000
N, M, H = 3, 1, 8

Step = Callable[[Tensor], Tensor]


def flown(path: Path, step: Step, reset: Callable[[], None]) -> Checkpoint:
    """A checkpoint with a thousand steps of the pendulum, driven by the policy itself."""

    def act(observation: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return step(torch.as_tensor(observation[np.newaxis])).numpy().reshape(-1)

    loop = Loop(
        lambda: gymnasium.make("Pendulum-v1", max_episode_steps=100),
        act,
        reset,
        lambda action: 2.0 * np.clip(action, -1.0, 1.0),
    )
    environment = loop.environment()
    observations, resets, actions = [], [], []
    observation, _ = environment.reset(seed=0)
    reset()
    # Threads wait for each other longer than they compute.
    torch.set_num_threads(1)
    first = True
    while len(observations) < STEPS:
        action = act(observation)
        observations.append(observation)
        resets.append(first)
        actions.append(action)
        observation, *_, first, _ = environment.step(loop.applied(action))
        if first:
            observation, _ = environment.reset()
            reset()
    return Checkpoint(path, np.stack(observations), np.array(resets), np.stack(actions), loop=loop)


def rsl_rl(folder: Path, kind: str, distribution: str = "GaussianDistribution") -> Checkpoint:
    """An rsl_rl actor with observation normalisation, as OnPolicyRunner.export_policy_to_jit
    writes it; `kind` is mlp, lstm or gru."""
    torch.manual_seed(1)
    observation = TensorDict({"policy": torch.zeros(1, N)}, batch_size=[1])
    groups = {"actor": ["policy"]}
    options = {
        "hidden_dims": [16, 16],
        "activation": "elu",
        "obs_normalization": True,
        "distribution_cfg": {"class_name": distribution},
    }
    if kind == "mlp":
        model = MLPModel(observation, groups, "actor", M, **options)
    else:
        options |= {"rnn_type": kind, "rnn_hidden_dim": H}
        model = RNNModel(observation, groups, "actor", M, **options)
    seen = torch.randn(500, N) * torch.tensor([0.5, 0.7, 3.0]) + 0.1
    model.update_normalization(TensorDict({"policy": seen}, batch_size=[500]))
    model.eval()
    path = folder / f"{kind}.pt"
    torch.jit.script(model.as_jit()).save(path)
    loaded = torch.jit.load(path)
    return flown(path, loaded, loaded.reset)


class IsaacExport(nn.Module):
    """The shape of Isaac Lab's exporter: a normaliser, an actor, and with an LSTM its states as
    buffers that forward() writes to."""

    def __init__(self, recurrent: bool) -> None:
        super().__init__()
        self.normalizer = nn.Identity()
        self.actor = nn.Sequential(nn.Linear(H if recurrent else N, 16), nn.ELU(), nn.Linear(16, M))
        if recurrent:
            self.rnn = nn.LSTM(N, H, 2)
            self.register_buffer("hidden_state", torch.zeros(2, 1, H))
            self.register_buffer("cell_state", torch.zeros(2, 1, H))
            self.forward = self.forward_lstm
            self.reset = self.reset_memory

    def forward_lstm(self, x: Tensor) -> Tensor:
        x, (h, c) = self.rnn(self.normalizer(x).unsqueeze(0), (self.hidden_state, self.cell_state))
        self.hidden_state[:] = h
        self.cell_state[:] = c
        return self.actor(x.squeeze(0))

    def forward(self, x: Tensor) -> Tensor:
        return self.actor(self.normalizer(x))

    @torch.jit.export
    def reset(self) -> None:
        pass

    def reset_memory(self) -> None:
        self.hidden_state[:] = 0.0
        self.cell_state[:] = 0.0


def isaac(folder: Path, recurrent: bool) -> Checkpoint:
    torch.manual_seed(2)
    path = folder / "policy.pt"
    torch.jit.script(IsaacExport(recurrent)).save(path)
    loaded = torch.jit.load(path)

    def reset() -> None:
        for state in loaded.buffers():
            state.zero_()

    return flown(path, loaded, reset)


def mlp() -> nn.Module:
    torch.manual_seed(3)
    layers = [nn.Linear(N, 16), nn.SiLU(), nn.LayerNorm(16), nn.Linear(16, 16), nn.GELU()]
    return nn.Sequential(*layers, nn.Dropout(0.1), nn.Linear(16, M), nn.Tanh()).eval()


def scripted(folder: Path) -> Checkpoint:
    path = folder / "scripted.pt"
    torch.jit.script(mlp()).save(path)
    return flown(path, torch.jit.load(path), lambda: None)


def traced(folder: Path) -> Checkpoint:
    path = folder / "traced.pt"
    torch.jit.trace(mlp(), torch.zeros(1, N)).save(path)
    return flown(path, torch.jit.load(path), lambda: None)


def exported(folder: Path) -> Checkpoint:
    path = folder / "mlp.pt2"
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(mlp(), (torch.zeros(2, N),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    return flown(path, torch.export.load(path).module(), lambda: None)


class Remembering(nn.Module):
    """nn.GRUCell whose state is a buffer that forward() replaces."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.cell, self.last = nn.Linear(N, 9), nn.GRUCell(9, H), nn.Linear(H, M)
        self.register_buffer("memory", torch.zeros(1, H))

    def forward(self, x: Tensor) -> Tensor:
        self.memory = self.cell(torch.relu(self.first(x)), self.memory)
        return self.last(self.memory)


def remembering() -> nn.Module:
    torch.manual_seed(4)
    return Remembering().eval()


def exported_gru(folder: Path) -> Checkpoint:
    path = folder / "gru.pt2"
    torch.export.save(torch.export.export(remembering(), (torch.zeros(1, N),)), path)
    loaded = torch.export.load(path).module()
    return flown(path, loaded, lambda: loaded.memory.zero_())


MAKERS: dict[str, Maker] = {
    "rsl-rl": lambda folder: rsl_rl(folder, "mlp"),
    "rsl-rl-lstm": lambda folder: rsl_rl(folder, "lstm"),
    "rsl-rl-gru": lambda folder: rsl_rl(folder, "gru"),
    "isaac-lab": lambda folder: isaac(folder, recurrent=False),
    "isaac-lab-lstm": lambda folder: isaac(folder, recurrent=True),
    "torchscript-scripted": scripted,
    "torchscript-traced": traced,
    "torch-export": exported,
    "torch-export-gru": exported_gru,
}
