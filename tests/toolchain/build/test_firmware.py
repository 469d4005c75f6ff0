"""The HIL image: reproducible, whole or absent, refused with numbers when it does not fit."""

import shutil
import struct
import tempfile
from pathlib import Path

import pytest

from edgerl.errors import ToolError, UserError
from edgerl.targets.model import Region, Target, target
from edgerl.toolchain.build import build_firmware, find, footprint, require_stack

BOARD = target("crazyflie21")
BUILD_ID = "5a" * 32


def build(package: Path, out: Path, board: Target = BOARD, family: str = "zig", flags=()):
    compiler = find(family, board.core)
    return build_firmware(package, "net", board, compiler, out, build_id=BUILD_ID, flags=flags)


@pytest.mark.parametrize("family", ["zig", "gcc"])
def test_same_inputs_same_bytes_anywhere(family: str, package: Path, tmp_path: Path) -> None:
    if family == "gcc" and shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is not installed")
    copy = tmp_path / "a folder, elsewhere"
    shutil.copytree(package, copy)
    one = build(package, tmp_path / "one", family=family)
    two = build(copy, tmp_path / "deep" / "er" / "two", family=family)
    assert one.elf.read_bytes() == two.elf.read_bytes()
    assert one.bin.read_bytes() == two.bin.read_bytes()
    for path in (tmp_path, package, Path.cwd(), Path.home(), tempfile.gettempdir()):
        assert str(path).encode() not in one.elf.read_bytes()
    assert bytes.fromhex(BUILD_ID) in one.bin.read_bytes()


@pytest.mark.parametrize("name", ["crazyflie21", "betaflight-f4", "cortex-m33"])
def test_layout(name: str, images) -> None:
    board, image = target(name), images(name, "zig")
    stack, reset = struct.unpack("<II", image.bin.read_bytes()[:8])
    assert stack == image.address("edgerl_rig_stack_top") == board.ram.base + board.ram.size
    assert reset == image.address("Reset_Handler") | 1 == image.binary.entry
    assert min(s.load for s in image.binary.segments) == board.application.base
    assert image.address("edgerl_rig_state") >= board.ram.base
    assert image.signal_sizes == (3, 2)


def test_too_little_flash(package: Path, tmp_path: Path) -> None:
    small = BOARD.model_copy(update={"application": Region(base=0x08004000, size=1000)})
    with pytest.raises(UserError, match=r"net needs 2,\d{3} B of flash, crazyflie21 has 1,000 B"):
        build(package, tmp_path, small)
    assert list(tmp_path.iterdir()) == []


def test_too_little_ram(package: Path, tmp_path: Path) -> None:
    small = BOARD.model_copy(update={"ram": Region(base=0x20000000, size=1040)})
    with pytest.raises(UserError, match=r"net needs 1,\d{3} B of RAM, crazyflie21 has 1,040 B"):
        build(package, tmp_path, small)


def test_too_little_stack(images) -> None:
    image = images("crazyflie21", "zig")
    require_stack(image, BOARD, 100_000)
    with pytest.raises(UserError, match=r"net needs 200,\d{3} B of RAM, crazyflie21 has 131,072 B"):
        require_stack(image, BOARD, 200_000)


def test_failed_build_leaves_the_old_files(package: Path, tmp_path: Path) -> None:
    before = build(package, tmp_path / "out").elf.read_bytes()
    with pytest.raises(ToolError, match="somebody_else"):
        build(package, tmp_path / "out", flags=("-DNET_NEEDS_MORE",))
    assert (tmp_path / "out" / "firmware.elf").read_bytes() == before
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["firmware.bin", "firmware.elf"]


def test_incomplete_package(tmp_path: Path) -> None:
    (tmp_path / "net.c").write_text("")
    with pytest.raises(UserError, match=r"no net\.h"):
        build(tmp_path, tmp_path / "out")


def test_output_folder_is_a_file(package: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ToolError, match="build of net for crazyflie21"):
        build(package, tmp_path / "out")


def test_host_takes_no_firmware(package: Path, tmp_path: Path) -> None:
    host = target("host")
    with pytest.raises(UserError, match="target host has no memory map"):
        build_firmware(package, "net", host, find("zig", host.core), tmp_path, build_id=BUILD_ID)


@pytest.mark.parametrize("family", ["zig", "gcc"])
def test_footprint(family: str, images) -> None:
    image = images("crazyflie21", family)
    found = footprint(image)
    code = {s.name: s.size for part in image.objects for s in part.sections if s.executable}
    assert found.weight_bytes == 4 * (8 + 7 * 8 + 2 + 8 * 2)
    assert found.table_bytes == 8
    assert found.constant_bytes == 0
    assert found.code_bytes == sum(code.values())
    assert found.flash_bytes == found.code_bytes + found.weight_bytes + found.table_bytes
    assert (found.static_ram_bytes, found.state_bytes) == (0, 24)
    assert found.undefined_symbols == frozenset()


def test_footprint_sees_what_is_forbidden(package: Path, tmp_path: Path) -> None:
    found = footprint(build(package, tmp_path, flags=("-DNET_KEEPS_STATE",)))
    assert found.static_ram_bytes == 12 + 8


def test_no_footprint_after_link_time_optimisation(package: Path, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="-flto"):
        footprint(build(package, tmp_path, flags=("-flto",)))
