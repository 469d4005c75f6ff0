"""Policies that users' frameworks save, in integers: as close to the framework's own actions as
16 bits are, on observations of the policy's environment."""

from pathlib import Path

import checkpoints_torch
import numpy as np
import pytest
from checkpoint import Checkpoint

from edgerl.policies import Policy, load
from edgerl.toolchain import quantisation
from edgerl.toolchain.lowering import lower
from edgerl.toolchain.quantisation.sources import calibration_for

# Absolute: actions are small beside what the golden trace makes of signals without a range.
CLOSE = 1e-2
NAMES = ("rsl-rl", "rsl-rl-lstm", "rsl-rl-gru", "isaac-lab", "isaac-lab-lstm", "torch-export-gru")


@pytest.fixture(scope="module", params=NAMES)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Checkpoint, Policy]:
    checkpoint = checkpoints_torch.MAKERS[request.param](tmp_path_factory.mktemp(request.param))
    return checkpoint, load(checkpoint.path)


def test_integers_do_what_the_framework_does(
    made: tuple[Checkpoint, Policy], tmp_path: Path
) -> None:
    checkpoint, policy = made
    program = lower(policy)
    # Episodes of a hundred steps side by side: all but two are calibrated on.
    ends = len(checkpoint.observations) // 100 * 100
    episodes = checkpoint.observations[:ends].reshape(-1, 100, policy.spec.observation_size)
    expected = checkpoint.actions[:ends].reshape(len(episodes), 100, -1).swapaxes(0, 1)
    assert checkpoint.resets[:ends].reshape(-1, 100)[:, 0].all()
    episodes = np.ascontiguousarray(episodes.swapaxes(0, 1))
    np.save(tmp_path / "seen.npy", episodes[:, :-2])
    calibration = calibration_for(policy, program, tmp_path / "seen.npy")
    fixed = quantisation.quantise(program, calibration, spec=policy.spec)
    states = quantisation.reset(fixed, (episodes.shape[1],))
    worst = 0.0
    for seen, wanted in zip(episodes, expected, strict=True):
        action, states = quantisation.run(fixed, seen, states)
        worst = max(worst, float(np.abs(action - wanted)[-2:].max()))
    assert worst <= CLOSE
