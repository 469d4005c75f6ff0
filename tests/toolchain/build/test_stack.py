"""Worst stack: by the compiler's word, by the code, and by painting."""

from pathlib import Path

import pytest

from edgerl.errors import ToolError
from edgerl.targets.model import target
from edgerl.toolchain.build import Image, build_firmware, find, worst_stack
from edgerl.toolchain.build.stack import frame_from_code
from edgerl.toolchain.emulators import UnicornCore

BOARD = target("crazyflie21")


def build(package: Path, out: Path, *flags: str) -> Image:
    compiler = find("zig", BOARD.core)
    return build_firmware(package, "net", BOARD, compiler, out, build_id="00" * 32, flags=flags)


@pytest.mark.parametrize("family", ["zig", "gcc"])
@pytest.mark.parametrize("portable", [False, True])
def test_code_says_what_the_compiler_says(family: str, portable: bool, images) -> None:
    image = images("crazyflie21", family, portable)
    stated = {f.name: image.frames[f.name] for f in image.functions if f.name in image.frames}
    assert {"net_evaluate", "net_step", "main"} <= stated.keys()
    assert stated == {
        f.name: frame_from_code(image, f) for f in image.functions if f.name in stated
    }


@pytest.mark.parametrize("family", ["zig", "gcc"])
@pytest.mark.parametrize("portable", [False, True])
def test_painting_stays_within_the_call_graph(family: str, portable: bool, images, flight) -> None:
    image = images("crazyflie21", family, portable)
    core = UnicornCore(image, BOARD)
    for mode in ("evaluate", "step"):
        bound = worst_stack(image, f"net_{mode}").bytes
        used = core.stack_used(flight[0][:50], mode)
        # A frame may hold padding that nothing touches.
        assert bound - 8 <= used <= bound


def test_assembly_states_its_frame(images) -> None:
    image = images("crazyflie21", "zig")
    assert frame_from_code(image, image.symbols["net_core"]) == 40
    use = worst_stack(image, "net_evaluate")
    assert use.path == ("net_evaluate", "net_core")
    assert use.bytes == image.frames["net_evaluate"] + 40


def test_recursion(package: Path, tmp_path: Path) -> None:
    image = build(package, tmp_path, "-DNET_RECURSES")
    with pytest.raises(ToolError, match="recursion: net_self_test calls depth calls deeper"):
        worst_stack(image, "net_self_test")


def test_call_through_pointer(package: Path, tmp_path: Path) -> None:
    image = build(package, tmp_path, "-DNET_CALLS_THROUGH_POINTER")
    with pytest.raises(ToolError, match="net_self_test: jumps through a pointer at 0x0800"):
        worst_stack(image, "net_self_test")


def test_frame_without_bound(package: Path, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="unbounded: its stack frame has no bound"):
        build(package, tmp_path, "-DNET_UNBOUNDED")


def test_stack_that_overflows_is_noticed(images, flight) -> None:
    image = images("crazyflie21", "zig")
    core = UnicornCore(image, BOARD)
    core.stack_limit = core.stack_top - 64
    with pytest.raises(ToolError, match="net_step overflows the 64 B of stack"):
        core.stack_used(flight[0][:2])


def test_unknown_function(images) -> None:
    with pytest.raises(ToolError, match=r"firmware\.elf: no symbol net_fly"):
        worst_stack(images("crazyflie21", "zig"), "net_fly")
