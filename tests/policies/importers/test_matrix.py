"""Every importer on every kind of core: what the framework does, the board does.

Rows are the makers of checkpoints beside this file, columns the targets below. The emitted code
stays within the error bound of the framework's own output; the firmware gives, on an emulated
core, the very bits that the same code gives on the host.
"""

from collections.abc import Callable
from pathlib import Path

import checkpoints_sb3
import checkpoints_torch
import checkpoints_weights
import numpy as np
import numpy.typing as npt
import pytest
from checkpoint import Checkpoint

import edgerl
from edgerl.policies import Policy, load
from edgerl.targets import target
from edgerl.toolchain.artifact import Artifact
from edgerl.toolchain.bounds import error_bound
from edgerl.toolchain.build import HostTwin, build_host, find, first_difference
from edgerl.toolchain.compiling import rebuild
from edgerl.toolchain.emulators import UnicornCore
from edgerl.toolchain.ir import Program
from edgerl.toolchain.lowering import lower

MAKERS: dict[str, Callable[[Path], Checkpoint]] = {
    **checkpoints_sb3.MAKERS,
    **checkpoints_torch.MAKERS,
    **checkpoints_weights.MAKERS,
}
# Steps on the emulated core; float routines in software take some forty times as long.
STEPS = {"cortex-m4f": 1000, "cortex-m0plus": 64, "rv32imafc": 256}
AT_ONCE = 256


@pytest.fixture(scope="module", params=MAKERS)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Checkpoint, Policy]:
    checkpoint = MAKERS[request.param](tmp_path_factory.mktemp(request.param))
    policy = load(checkpoint.path, layers=checkpoint.layers, vecnormalize=checkpoint.vecnormalize)
    return checkpoint, policy


def compiled(policy: Policy, name: str, folder: Path) -> Artifact:
    policy.save(folder / "policy.onnx")
    return edgerl.compile(folder / "policy.onnx", target=name, output=folder / "out").artifact


def step_bounds(
    policy: Policy, program: Program, artifact: Artifact, twin: HostTwin, checkpoint: Checkpoint
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The error bound of each step's action [T, m] from the twin's own state, and whether
    rounding decides between a step's discrete actions."""
    run = twin.trace(checkpoint.observations, checkpoint.resets, "evaluate")
    assert run.states is not None
    sizes = [program.size(before) for before, _ in program.states]
    after = np.ascontiguousarray(run.states[:, : 4 * sum(sizes)]).view(np.float32)
    before = np.roll(after, 1, axis=0)
    before[checkpoint.resets] = 0.0
    states = np.split(before, np.cumsum(sizes)[:-1], axis=1) if sizes else []
    rows, undecided = [], []
    for start in range(0, len(before), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        found = error_bound(
            program,
            policy.spec,
            fused="-fma-" in artifact.manifest.numerics,
            ranges=np.stack([checkpoint.observations[part]] * 2, axis=-1),
            states=[np.stack([state[part]] * 2, axis=-1) for state in states],
        )
        rows.append(found.between.action)
        undecided.append(found.undecided)
    return np.concatenate(rows), np.concatenate(undecided)


def test_the_maker_keeps_its_word(made: tuple[Checkpoint, Policy]) -> None:
    checkpoint, policy = made
    rows = len(checkpoint.observations)
    assert rows >= 1000
    assert checkpoint.observations.shape == (rows, policy.spec.observation_size)
    assert checkpoint.actions.shape == (rows, policy.spec.action_size)
    assert checkpoint.resets.shape == (rows,) and checkpoint.resets[0]
    assert np.ptp(checkpoint.actions, axis=0).min() > 0.0, "an action that never changes"


def test_as_the_framework_says(made: tuple[Checkpoint, Policy], tmp_path: Path) -> None:
    checkpoint, policy = made
    artifact = compiled(policy, "host", tmp_path)
    twin = build_host(artifact.source, artifact.name, tmp_path / "twin")
    run = twin.trace(checkpoint.observations, checkpoint.resets, "evaluate")
    program = lower(policy)
    bound, undecided = step_bounds(policy, program, artifact, twin, checkpoint)
    assert np.isfinite(bound).all()
    if program.states:
        # The two run freely, so that the deviations of all steps since the reset add up.
        episode = np.cumsum(checkpoint.resets)
        since = np.arange(len(episode)) - np.flatnonzero(checkpoint.resets)[episode - 1]
        bound = bound * (since + 1)[:, np.newaxis]
    error = np.abs(run.actions.astype(np.float64) - checkpoint.actions.astype(np.float64))
    judged = ~undecided
    assert judged.mean() > 0.9
    assert (error[judged] <= bound[judged]).all(), (error[judged] - bound[judged]).max()


@pytest.mark.parametrize("name", STEPS)
def test_the_board_gives_the_host_s_bits(
    name: str, made: tuple[Checkpoint, Policy], tmp_path: Path
) -> None:
    checkpoint, policy = made
    artifact = compiled(policy, name, tmp_path)
    twin = build_host(artifact.source, artifact.name, tmp_path / "twin")
    board = target(name)
    image = rebuild(artifact, board, find("zig", board.core), tmp_path / "image")
    core = UnicornCore(image, board)
    part = slice(0, STEPS[name])
    for mode in ("evaluate", "step"):
        inputs = checkpoint.observations[part], checkpoint.resets[part], mode
        assert first_difference(twin.trace(*inputs), core.trace(*inputs)) is None
