"""One program, one arithmetic: host, two emulators, two compilers, equal bits."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from edgerl.targets.model import target
from edgerl.toolchain.build import HostTwin, Run, build_firmware, build_host, find, first_difference
from edgerl.toolchain.emulators import BatchRunner, QemuCore, Runner, UnicornCore

BUILDS = [
    ("crazyflie21", False),
    ("crazyflie21", True),
    ("cortex-m4f", False),
    ("cortex-m7", False),
    ("cortex-m33", False),
]


def differences(runner: Runner, twin: HostTwin, flight) -> list[object]:
    found = []
    for mode in ("evaluate", "step"):
        expected = twin.trace(*flight, mode)
        assert np.isfinite(expected.actions).all()
        found.append(first_difference(expected, runner.trace(*flight, mode)))
    return found


@pytest.mark.parametrize("family", ["zig", "gcc"])
@pytest.mark.parametrize(("board", "portable"), BUILDS)
def test_unicorn_gives_the_bits_of_the_host(
    board: str, portable: bool, family: str, twin: HostTwin, images, flight
) -> None:
    core = UnicornCore(images(board, family, portable), target(board))
    assert core.name == f"{family}/unicorn"
    assert differences(core, twin, flight) == [None, None]


@pytest.mark.usefixtures("qemu")
@pytest.mark.parametrize("family", ["zig", "gcc"])
@pytest.mark.parametrize(("board", "portable"), BUILDS)
def test_qemu_gives_the_bits_of_the_host(
    board: str, portable: bool, family: str, twin: HostTwin, images, flight
) -> None:
    core = QemuCore(images(board, family, portable), target(board))
    assert core.name == f"{family}/qemu"
    assert differences(core, twin, flight) == [None, None]


def test_many_controllers_at_once(twin: HostTwin, images, flight) -> None:
    core: BatchRunner = UnicornCore(images("crazyflie21", "zig"), target("crazyflie21"))
    observations = flight[0]
    states = twin.trace(*flight).states
    assert states is not None
    assert (core.reset_states(3) == twin.reset_states(3)).all()
    for mode in ("evaluate", "step"):
        expected = twin.many(states, observations, mode)
        assert first_difference(expected, core.many(states, observations, mode)) is None


@pytest.mark.parametrize("family", ["zig", "gcc"])
def test_state_too_large_to_copy_in_registers(
    family: str, package: Path, tmp_path: Path, flight
) -> None:
    if family == "gcc" and shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is not installed")
    shutil.copytree(package, tmp_path / "net")
    header = tmp_path / "net" / "net.h"
    header.write_text(header.read_text().replace("held[2];", "held[2];\n    float unused[60];"))
    board = target("crazyflie21")
    compiler = find(family, board.core)
    image = build_firmware(tmp_path / "net", "net", board, compiler, tmp_path, build_id="00" * 32)
    twin = build_host(tmp_path / "net", "net", tmp_path)
    assert twin.state_bytes == image.state_bytes == 24 + 240
    assert differences(UnicornCore(image, board), twin, flight) == [None, None]


def test_first_difference_is_the_first() -> None:
    rng = np.random.default_rng(1)
    actions = rng.normal(size=(9, 2)).astype(np.float32)
    states = rng.integers(0, 99, (9, 8)).astype(np.uint8)
    run = Run(actions, np.zeros(9, np.uint32), states)
    assert first_difference(run, run) is None

    later, earlier = actions.copy(), states.copy()
    later[5, 1] = np.nextafter(later[5, 1], np.float32(9))
    earlier[3, 6] ^= 1
    action = first_difference(run, Run(later, run.status, states))
    assert action is not None
    assert (action.step, action.tensor, action.index) == (5, "action", 1)
    assert action.values == (actions[5, 1], later[5, 1])
    state = first_difference(run, Run(later, run.status, earlier))
    assert state is not None
    assert (state.step, state.tensor, state.index) == (3, "state", 1)
    assert first_difference(run, Run(actions, run.status, None)) is None


def test_a_negative_zero_is_a_difference() -> None:
    one = Run(np.zeros((1, 1), np.float32), np.zeros(1, np.uint32), None)
    other = Run(-one.actions, one.status, None)
    assert first_difference(one, other) is not None
    with pytest.raises(ValueError, match="shapes"):
        first_difference(one, Run(np.zeros((2, 1), np.float32), one.status, None))
