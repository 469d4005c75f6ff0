"""How a policy's answers are held against torch's."""

import numpy as np
import numpy.typing as npt
import torch
from parity import session
from torch import nn

from edgerl.policies import Policy

Floats = npt.NDArray[np.float32]


def run(policy: Policy, observations: Floats, resets: npt.NDArray[np.bool_]) -> Floats:
    """The policy's actions in onnxruntime, its states zeroed where an episode starts."""
    runtime = session(policy)
    names = [port.name for port in policy.graph.graph.input]
    zeros = [np.zeros((1, state.size), np.float32) for state in policy.spec.state]
    states, actions = zeros, []
    for observation, first in zip(observations, resets, strict=True):
        states = zeros if first else states
        feeds = dict(zip(names, [observation[np.newaxis], *states], strict=True))
        action, *states = runtime.run(None, feeds)
        actions.append(action[0])
    return np.stack(actions)


def same(ours: Floats, theirs: Floats) -> bool:
    """Whether actions agree within 1e-5 of their scale."""
    return bool(np.max(np.abs(ours - theirs) / (1.0 + np.abs(theirs))) < 1e-5)


def agrees(policy: Policy, model: nn.Module, steps: int = 1000, states: int = 0) -> bool:
    """Whether a policy and a module give the same actions on random observations. `model` starts
    from its buffers as they are and is never reset; with `states` it takes as many states after
    the observation, each of the policy's sizes as a row, and returns them."""
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(steps, policy.spec.observation_size)).astype(np.float32)
    resets = np.zeros(steps, bool)
    resets[0] = True
    memory = [torch.zeros(1, state.size) for state in policy.spec.state[:states]]
    actions = []
    torch.set_num_threads(1)
    with torch.no_grad():
        for row in observations:
            result = model(torch.as_tensor(row[np.newaxis]), *memory)
            action, *memory = result if states else (result,)
            actions.append(action.numpy().reshape(-1))
            memory = memory[:states]
    return same(run(policy, observations, resets), np.stack(actions))
