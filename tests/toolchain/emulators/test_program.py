"""Images that are programs of Linux: system calls, faults, and this machine running one."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgerl.errors import ToolError
from edgerl.policies import load
from edgerl.targets.model import target
from edgerl.toolchain.build import Image, build_firmware, find
from edgerl.toolchain.compiling import Form, emitted
from edgerl.toolchain.emulators import Program, QemuCore, UnicornCore, runs_here
from edgerl.toolchain.emulators.linux import SystemCalls
from edgerl.toolchain.lowering import lower

LINUX = ["aarch64", "x86-64"]
# In place of a function's first bytes: an instruction that is none.
UNDEFINED = {"aarch64": bytes(4), "x86-64": b"\x0f\x0b"}


@pytest.fixture(scope="module", params=LINUX)
def program(request: pytest.FixtureRequest, small_policy: Path, tmp_path_factory) -> Image:
    """The dense policy as a program."""
    board = target(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    policy = load(str(small_policy))
    package, _ = emitted(policy, lower(policy), Form(fused=False, assembly=""))
    for file, text in package.files.items():
        (folder / file).write_text(text, newline="\n")
    compiler = find("zig", board.core)
    return build_firmware(
        folder, "small", board, compiler, folder / "out", build_id="00" * 32, portable=True
    )


def test_nothing_is_flashed(program: Image) -> None:
    assert program.elf.is_file()
    assert not program.bin.exists()
    assert program.elf.stat().st_size < 300_000


def test_segments_keep_to_large_pages(program: Image) -> None:
    text, *rest = sorted(segment.load for segment in program.binary.segments)
    assert text % 0x10000 == 0
    assert all(load % 0x10000 == 0 for load in rest)


def test_bad_request(program: Image) -> None:
    board = target(program.architecture)
    with pytest.raises(ToolError, match="a request was cut short or unknown"):
        UnicornCore(program, board).run_main(b"\x09\0\0\0")


def test_undefined_instruction(program: Image) -> None:
    core = UnicornCore(program, target(program.architecture))
    core.write(core.image.address("small_reset"), UNDEFINED[program.architecture])
    core.uc.ctl_flush_tb()
    with pytest.raises(ToolError, match=r"zig/unicorn: .* \(small_reset\+0x"):
        core.call("small_reset", 0)


def test_address_beyond_32_bits(program: Image) -> None:
    core = UnicornCore(program, target(program.architecture))
    (state,) = core.scratch(core.state_bytes)
    assert state >= 1 << 32
    core.call("small_reset", state)


def patched(image: Image, code: bytes, folder: Path) -> Image:
    elf = bytearray(image.elf.read_bytes())
    symbol = image.symbols["small_reset"]
    old = image.read(symbol.address, 16)
    assert elf.count(old) == 1
    at = elf.index(old)
    elf[at : at + len(code)] = code
    (folder / "patched.elf").write_bytes(elf)
    return replace(image, elf=folder / "patched.elf")


def test_crash_in_qemu(program: Image, tmp_path: Path) -> None:
    board = target(program.architecture)
    try:
        core = QemuCore(patched(program, UNDEFINED[program.architecture], tmp_path), board)
    except ToolError as error:
        pytest.skip(str(error))
    with pytest.raises(ToolError, match="zig/qemu on Linux: "):
        core.greet()


def test_this_machine_runs_its_own_kind(program: Image, tmp_path: Path) -> None:
    if not runs_here(target(program.architecture).core):
        pytest.skip(f"{program.architecture} is not this machine")
    assert Program(program).greet()[0] == "00" * 32
    with pytest.raises(ToolError, match="a request was cut short or unknown"):
        Program(program).run_main(b"\x09\0\0\0")
    broken = patched(program, UNDEFINED[program.architecture], tmp_path)
    with pytest.raises(ToolError, match="zig/linux: ended with code -4"):
        Program(broken).greet()


def test_bare_cores_are_no_programs() -> None:
    assert not runs_here(target("cortex-m4f").core)


def test_system_calls() -> None:
    memory = bytearray(16)

    def read(address: int, size: int) -> bytes:
        return bytes(memory[address : address + size])

    def write(address: int, data: bytes) -> None:
        memory[address : address + len(data)] = data

    calls = SystemCalls({0: "read", 1: "write", 60: "exit"}, b"abcde")
    assert calls.serve((0, 0, 4, 3), read, write) == 3
    assert calls.serve((0, 0, 7, 8), read, write) == 2
    assert calls.serve((0, 0, 9, 8), read, write) == 0
    assert memory[4:9] == b"abcde"
    assert calls.serve((1, 1, 4, 5), read, write) == 5
    assert calls.replies == b"abcde"
    assert calls.serve((0, 3, 4, 3), read, write) == -9
    assert calls.serve((1, 2, 4, 3), read, write) == -9
    assert calls.serve((77, 0, 0, 0), read, write) == -38
    assert calls.exit_code is None
    calls.serve((60, 300, 0, 0), read, write)
    assert calls.exit_code == 44
