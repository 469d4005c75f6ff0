"""The emitted code, called from Python."""

from pathlib import Path

import numpy as np
import pytest
import torch

import edgerl
from edgerl.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled torch module with a memory, straight from Python."""
    torch.manual_seed(0)

    class Leaky(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)
            self.register_buffer("kept", torch.zeros(1, 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.kept = 0.5 * self.kept + torch.tanh(self.layer(x))
            return self.kept

    policy = edgerl.load(Leaky(), example=torch.zeros(1, 3))
    out = tmp_path_factory.mktemp("controller") / "out"
    return edgerl.compile(policy, target="host", output=out).artifact.folder


def test_its_memory_is_its_own_until_a_reset(folder: Path) -> None:
    controller = edgerl.Controller(folder, mode="evaluate")
    rows = np.random.default_rng(0).normal(0.0, 1.0, (5, 3)).astype(np.float32)
    once = [controller.step(row) for row in rows]
    controller.reset()
    again = [controller.step(row) for row in rows]
    assert np.array_equal(once, again)
    assert not np.array_equal(controller.step(rows[0]), once[0]), "the state has moved on"


def test_many_side_by_side(folder: Path) -> None:
    rows = np.random.default_rng(1).normal(0.0, 1.0, (4, 7, 3)).astype(np.float32)
    together = edgerl.Controller(folder, count=7)
    found = np.array([together.step(each) for each in rows])
    for k in range(7):
        alone = edgerl.Controller(folder)
        assert np.array_equal(found[:, k], [alone.step(each[k]) for each in rows])


def test_the_guard_says_what_it_saw(folder: Path) -> None:
    controller = edgerl.Controller(folder)
    good = controller.step([0.1, 0.2, 0.3])
    assert controller.status[0] == 0
    held = controller.step([float("nan"), 0.0, 0.0])
    assert controller.status[0] != 0 and np.array_equal(held, good)
    assert controller.step([0.1, 0.2, 0.3]).dtype == np.float32


@pytest.mark.parametrize("shape", [(2,), (1, 4), (2, 3), ()])
def test_shapes_that_do_not_fit(shape: tuple[int, ...], folder: Path) -> None:
    controller = edgerl.Controller(folder)
    with pytest.raises(UserError, match=r"takes \[3\]"):
        controller.step(np.zeros(shape))


def test_a_loaded_policy_brings_its_own_spec(tmp_path: Path) -> None:
    policy = edgerl.load(torch.nn.Linear(2, 1), example=torch.zeros(1, 2))
    with pytest.raises(UserError, match="is loaded has its spec"):
        edgerl.compile(policy, target="host", spec=tmp_path / "spec.toml")
