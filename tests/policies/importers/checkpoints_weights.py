"""Bare weights that torch, Flax and RLtools write, with the frameworks' own actions for them."""

from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.nnx as nnx
import gymnasium
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import torch
from checkpoint import Checkpoint, Loop, Maker
from flax.traverse_util import flatten_dict
from parity import session
from safetensors.flax import save_file as save_jax
from safetensors.torch import save_file as save_torch

from edgerl.policies import Policy

STEPS = 1000
Step = Callable[[Any, Any], tuple[Any, Any]]

TORCH_MLP = """
[[layer]]
kind = "normalize"
mean = "statistics.mean"
var = "statistics.var"
epsilon = 1e-8

[[layer]]
kind = "clip"
low = -10
high = 10

[[layer]]
kind = "dense"
weight = "actor.0.weight"
bias = "actor.0.bias"

[[layer]]
kind = "layer_norm"
weight = "actor.1.weight"
bias = "actor.1.bias"
epsilon = 1e-5
activation = "elu"

[[layer]]
kind = "dense"
weight = "actor.3.weight"
activation = "tanh"

[[layer]]
kind = "scale"
scale = 2
"""

TORCH_GRU = """
[[layer]]
kind = "gru"
prefix = "memory."

[[layer]]
kind = "dense"
weight = "head.weight"
bias = "head.bias"

[[layer]]
kind = "clip"
low = -2
high = 2
"""

FLAX_MLP = """
[[layer]]
kind = "dense"
weight = "params/Dense_0/kernel"
bias = "params/Dense_0/bias"
transposed = true
activation = "silu"

[[layer]]
kind = "dense"
weight = "params/Dense_1/kernel"
bias = "params/Dense_1/bias"
transposed = true

[[layer]]
kind = "argmax"
"""

FLAX_GRU = """
[[layer]]
kind = "dense"
weight = "params.Dense_0.kernel"
bias = "params.Dense_0.bias"
transposed = true
activation = "relu"

[[layer]]
kind = "gru"
prefix = "params.GRUCell_0."
framework = "flax"

[[layer]]
kind = "dense"
weight = "params.Dense_1.kernel"
bias = "params.Dense_1.bias"
transposed = true
activation = "tanh"
"""

FLAX_LSTM = """
[[layer]]
kind = "lstm"
prefix = "params/OptimizedLSTMCell_0/"
framework = "flax"

[[layer]]
kind = "layer_norm"
weight = "params/LayerNorm_0/scale"
bias = "params/LayerNorm_0/bias"
epsilon = 1e-6

[[layer]]
kind = "dense"
weight = "params/Dense_0/kernel"
bias = "params/Dense_0/bias"
transposed = true
activation = "tanh"
"""

NNX = """
[[layer]]
kind = "{kind}"
prefix = "cell/"
framework = "flax"

[[layer]]
kind = "dense"
weight = "head/kernel"
bias = "head/bias"
transposed = true
activation = "tanh"
"""


class TorchMlp(torch.nn.Module):
    """Statistics, two layers and a norm; a critic that no layer list names."""

    def __init__(self) -> None:
        super().__init__()
        self.statistics = torch.nn.Module()
        self.statistics.register_buffer("mean", torch.tensor([0.1, -0.2, 0.5]))
        self.statistics.register_buffer("var", torch.tensor([0.5, 0.6, 9.0]))
        self.actor = torch.nn.Sequential(
            torch.nn.Linear(3, 24),
            torch.nn.LayerNorm(24),
            torch.nn.ELU(),
            torch.nn.Linear(24, 1, bias=False),
        )
        self.critic = torch.nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        deviation = torch.sqrt(self.statistics.var + 1e-8)
        x = torch.clamp((x - self.statistics.mean) / deviation, -10, 10)
        return 2 * torch.tanh(self.actor(x))


class TorchGru(torch.nn.Module):
    """Two stacked GRUs and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = torch.nn.GRU(3, 12, num_layers=2)
        self.head = torch.nn.Linear(12, 1)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, h = self.memory(x[None], h)
        return torch.clamp(self.head(y[0]), -2, 2), h


class FlaxMlp(nn.Module):
    """A discrete choice."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.silu(nn.Dense(16)(x))
        return jnp.argmax(nn.Dense(2)(x), axis=-1, keepdims=True)


class FlaxGru(nn.Module):
    """A layer before the memory and one after it."""

    @nn.compact
    def __call__(self, x: Any, h: Any) -> tuple[Any, Any]:
        h, y = nn.GRUCell(features=10)(h, nn.relu(nn.Dense(8)(x)))
        return jnp.tanh(nn.Dense(1)(y)), h


class FlaxLstm(nn.Module):
    """A memory whose output is normalised."""

    cell: Any = nn.OptimizedLSTMCell

    @nn.compact
    def __call__(self, x: Any, carry: Any) -> tuple[Any, Any]:
        carry, y = self.cell(features=10, name="OptimizedLSTMCell_0")(carry, x)
        return jnp.tanh(nn.Dense(1)(nn.LayerNorm()(y))), carry


class NnxRecurrent(nnx.Module):
    """A fused cell and a layer."""

    def __init__(self, cell: Any, rngs: nnx.Rngs) -> None:
        self.cell = cell(3, 10, rngs=rngs)
        self.head = nnx.Linear(10, 1, rngs=rngs)

    def __call__(self, x: Any, carry: Any) -> tuple[Any, Any]:
        carry, y = self.cell(carry, x)
        return jnp.tanh(self.head(y)), carry


def played(step: Step, start: Any, environment: str) -> dict[str, Any]:
    """Observations, resets and actions of STEPS steps in an environment of gymnasium, and the
    loop that made them."""
    state = start

    def act(observation: np.ndarray) -> np.ndarray:
        nonlocal state
        action, state = step(np.asarray(observation, np.float32)[np.newaxis], state)
        return np.asarray(action, np.float32).reshape(-1)

    def reset() -> None:
        nonlocal state
        state = start

    env = gymnasium.make(environment, max_episode_steps=150)
    discrete = isinstance(env.action_space, gymnasium.spaces.Discrete)
    loop = Loop(
        lambda: gymnasium.make(environment, max_episode_steps=150),
        act,
        reset,
        lambda action: int(action[0]) if discrete else action,
    )
    observation, first = env.reset(seed=3)[0], True
    rows = []
    for _ in range(STEPS):
        action = act(observation)
        rows.append((np.asarray(observation, np.float32), first, action))
        observation, _, ended, cut, _ = env.step(loop.applied(action))
        first = ended or cut
        if first:
            observation = env.reset()[0]
            reset()
    seen, firsts, actions = zip(*rows, strict=True)
    return {
        "observations": np.stack(seen),
        "resets": np.array(firsts),
        "actions": np.stack(actions),
        "loop": loop,
    }


def replayed(policy: Policy, checkpoint: Checkpoint) -> np.ndarray:
    """The policy's actions in onnxruntime, its states reset where an episode starts."""
    runtime = session(policy)
    names = [port.name for port in policy.graph.graph.input]
    zeros = [np.zeros((1, state.size), np.float32) for state in policy.spec.state]
    states, actions = zeros, []
    for observation, first in zip(checkpoint.observations, checkpoint.resets, strict=True):
        states = zeros if first else states
        feeds = dict(zip(names, [observation[np.newaxis], *states], strict=True))
        action, *states = runtime.run(None, feeds)
        actions.append(action[0])
    return np.stack(actions)


def _listed(folder: Path, text: str) -> Path:
    path = folder / "layers.toml"
    path.write_text(text, encoding="utf-8")
    return path


def torch_mlp(folder: Path) -> Checkpoint:
    torch.manual_seed(0)
    net = TorchMlp()
    save_torch(net.state_dict(), folder / "net.safetensors")

    @torch.no_grad()
    def step(x: Any, state: Any) -> tuple[Any, Any]:
        return net(torch.from_numpy(x)).numpy(), state

    rows = played(step, None, "Pendulum-v1")
    return Checkpoint(folder / "net.safetensors", layers=_listed(folder, TORCH_MLP), **rows)


def torch_gru(folder: Path) -> Checkpoint:
    torch.manual_seed(1)
    net = TorchGru()
    with torch.no_grad():
        # Wide enough for the limits to matter.
        net.head.weight *= 20
    save_torch(net.state_dict(), folder / "net.safetensors")

    @torch.no_grad()
    def step(x: Any, h: Any) -> tuple[Any, Any]:
        y, h = net(torch.from_numpy(x), h)
        return y.numpy(), h

    rows = played(step, torch.zeros(2, 1, 12), "Pendulum-v1")
    return Checkpoint(folder / "net.safetensors", layers=_listed(folder, TORCH_GRU), **rows)


def flax_mlp(folder: Path) -> Checkpoint:
    net = FlaxMlp()
    variables = net.init(jax.random.key(0), jnp.zeros((1, 4)))
    apply = jax.jit(lambda x: net.apply(variables, x))
    return _linen(folder, variables, "/", FLAX_MLP, lambda x, s: (apply(x), s), None, "CartPole-v1")


def flax_gru(folder: Path) -> Checkpoint:
    net, start = FlaxGru(), jnp.zeros((1, 10))
    variables = net.init(jax.random.key(1), jnp.zeros((1, 3)), start)
    step = jax.jit(lambda x, h: net.apply(variables, x, h))
    return _linen(folder, variables, ".", FLAX_GRU, step, start, "Pendulum-v1")


def flax_lstm(folder: Path, cell: Any = nn.OptimizedLSTMCell) -> Checkpoint:
    net, start = FlaxLstm(cell=cell), (jnp.zeros((1, 10)), jnp.zeros((1, 10)))
    variables = net.init(jax.random.key(2), jnp.zeros((1, 3)), start)
    step = jax.jit(lambda x, carry: net.apply(variables, x, carry))
    return _linen(folder, variables, "/", FLAX_LSTM, step, start, "Pendulum-v1")


def _linen(
    folder: Path, variables: Any, dot: str, text: str, step: Step, start: Any, environment: str
) -> Checkpoint:
    path = folder / "params.safetensors"
    save_jax(flatten_dict(variables, sep=dot), path)
    return Checkpoint(path, layers=_listed(folder, text), **played(step, start, environment))


def nnx_recurrent(folder: Path, kind: str) -> Checkpoint:
    cells = {"gru": nnx.GRUCell, "lstm": nnx.OptimizedLSTMCell}
    net = NnxRecurrent(cells[kind], nnx.Rngs(4))
    save_jax(
        flatten_dict(nnx.to_pure_dict(nnx.state(net, nnx.Param)), sep="/"),
        folder / "nnx.safetensors",
    )
    zeros = jnp.zeros((1, 10))
    start = zeros if kind == "gru" else (zeros, zeros)
    step = nnx.jit(lambda x, carry: net(x, carry))
    rows = played(step, start, "Pendulum-v1")
    layers = _listed(folder, NNX.format(kind=kind))
    return Checkpoint(folder / "nnx.safetensors", layers=layers, **rows)


def rltools_file() -> Path:
    """The checkpoint that the package foundation-policy brings, RLtools' own."""
    package = distribution("foundation-policy")
    return Path(str(package.locate_file("foundation_policy/blob/checkpoint.h5")))


def rltools(folder: Path) -> Checkpoint:
    """Two flights of 500 steps, with the actions that RLtools itself computed."""
    path = folder / "raptor.h5"
    path.write_bytes(rltools_file().read_bytes())
    with h5py.File(path, "r") as file:
        observations, actions = file["example/input"][()], file["example/output"][()]
    flights = observations.shape[1]
    return Checkpoint(
        path,
        observations=np.concatenate([observations[:, k] for k in range(flights)]),
        resets=np.tile(np.arange(len(observations)) == 0, flights),
        actions=np.concatenate([actions[:, k] for k in range(flights)]),
    )


MAKERS: dict[str, Maker] = {
    "torch-mlp-safetensors": torch_mlp,
    "torch-gru-safetensors": torch_gru,
    "flax-mlp-safetensors": flax_mlp,
    "flax-gru-safetensors": flax_gru,
    "flax-lstm-safetensors": flax_lstm,
    "rltools": rltools,
}
