"""In closed loop: the emitted C earns the return that the framework's own controller earns.

100 episodes each, of the same seeds, so that the differences are paired. Stable-Baselines3 has a
test of its own, with its vectorised prediction.
"""

from collections.abc import Callable
from pathlib import Path

import checkpoints_torch
import checkpoints_weights
import numpy as np
import numpy.typing as npt
import pytest
from checkpoint import Loop
from paired import assert_equal_returns

import edgerl

MAKERS = {**checkpoints_torch.MAKERS, **checkpoints_weights.MAKERS}
EPISODES, STEPS = 100, 30


def returns(
    loop: Loop,
    act: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]],
    reset: Callable[[], None],
) -> npt.NDArray[np.float64]:
    """The return of each episode's first `STEPS` steps."""
    environment = loop.environment()
    earned = np.zeros(EPISODES)
    for seed in range(EPISODES):
        observation, _ = environment.reset(seed=seed)
        reset()
        for _ in range(STEPS):
            action = act(np.asarray(observation, np.float32))
            observation, reward, ended, cut, _ = environment.step(loop.applied(action))
            earned[seed] += float(reward)
            if ended or cut:
                break
    return earned


@pytest.mark.parametrize("name", MAKERS)
def test_earns_the_framework_s_return(name: str, tmp_path: Path) -> None:
    checkpoint = MAKERS[name](tmp_path)
    loop = checkpoint.loop
    if loop is None:
        pytest.skip("its environment is edgerl's own plant, which the checks fly")
    outcome = edgerl.compile(
        checkpoint.path, target="host", layers=checkpoint.layers, output=tmp_path / "built"
    )
    emitted = edgerl.Controller(outcome.artifact.folder, mode="evaluate")
    theirs = returns(loop, loop.act, loop.reset)
    ours = returns(loop, emitted.step, emitted.reset)
    assert_equal_returns(ours, theirs)
