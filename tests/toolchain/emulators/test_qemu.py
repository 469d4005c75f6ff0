"""QEMU runs the same file, and every failure is one line."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgerl.errors import ToolError
from edgerl.targets.model import target
from edgerl.toolchain.build import Image, cache_folder
from edgerl.toolchain.emulators import QemuCore

BOARD = target("crazyflie21")
pytestmark = pytest.mark.usefixtures("qemu")


def patched(image: Image, function: str, code: bytes, folder: Path) -> Image:
    """The image with the first instructions of `function` replaced, in a file of its own."""
    elf = bytearray(image.elf.read_bytes())
    symbol = image.symbols[function]
    old = image.read(symbol.address, symbol.size)
    assert elf.count(old) == 1
    at = elf.index(old)
    elf[at : at + len(code)] = code
    (folder / "patched.elf").write_bytes(elf)
    return replace(image, elf=folder / "patched.elf")


def test_greeting(images) -> None:
    core = QemuCore(images("crazyflie21", "zig"), BOARD)
    assert core.greet() == (bytes(range(32)).hex(), 0)
    assert core.version.startswith("QEMU ")


def test_path_with_commas(images, tmp_path: Path) -> None:
    image = images("crazyflie21", "zig")
    folder = tmp_path / "a,b c"
    folder.mkdir()
    (folder / "fw,1.elf").write_bytes(image.elf.read_bytes())
    core = QemuCore(replace(image, elf=folder / "fw,1.elf"), BOARD)
    assert core.greet()[1] == 0
    assert len(core.count(np.ones((3, 3), np.float32))) == 3


def test_fault(images, tmp_path: Path) -> None:
    image = patched(images("crazyflie21", "zig"), "net_reset", b"\x00\xde", tmp_path)
    with pytest.raises(ToolError, match="zig/qemu on netduinoplus2: a fault handler was reached"):
        QemuCore(image, BOARD).greet()


def test_endless_loop(images, tmp_path: Path) -> None:
    image = patched(images("crazyflie21", "zig"), "net_reset", b"\xfe\xe7", tmp_path)
    with pytest.raises(ToolError, match="no end after 1 s; killed"):
        QemuCore(image, BOARD, timeout_s=1).greet()


def test_bad_request(images) -> None:
    with pytest.raises(ToolError, match="a request was cut short or unknown"):
        QemuCore(images("crazyflie21", "zig"), BOARD).run_main(b"\x09\0\0\0")


def test_plugin_is_compiled_once(images) -> None:
    core = QemuCore(images("crazyflie21", "zig"), BOARD)
    core.count(np.ones((2, 3), np.float32))
    plugins = {p: p.stat().st_mtime_ns for p in cache_folder("qemu").iterdir()}
    core.count(np.ones((2, 3), np.float32))
    assert plugins == {p: p.stat().st_mtime_ns for p in cache_folder("qemu").iterdir()}
    assert len(plugins) == 1


def test_target_without_machine(images) -> None:
    odd = BOARD.model_copy(update={"qemu_machine": ""})
    with pytest.raises(ToolError, match="QEMU has no machine for crazyflie21; use unicorn"):
        QemuCore(images("crazyflie21", "zig"), odd)


def test_machine_that_qemu_does_not_know(images) -> None:
    odd = BOARD.model_copy(update={"qemu_machine": "warpdrive"})
    with pytest.raises(ToolError, match=r"zig/qemu on warpdrive: qemu-system-arm: .*unsupported"):
        QemuCore(images("crazyflie21", "zig"), odd).greet()


def test_missing_qemu(images, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    image = images("crazyflie21", "zig")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="apt-get install qemu-system-arm"):
        QemuCore(image, BOARD)
