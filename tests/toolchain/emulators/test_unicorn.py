"""The emulated core runs the image's own start-up code and main loop, and says where it fails."""

import struct

import numpy as np
import pytest

from edgerl.errors import ToolError
from edgerl.targets.model import target
from edgerl.toolchain.emulators import UnicornCore
from edgerl.toolchain.emulators.requests import (
    greeting_replies,
    greeting_requests,
    trace_replies,
    trace_requests,
)

BOARD = target("crazyflie21")


@pytest.fixture
def core(images) -> UnicornCore:
    return UnicornCore(images("crazyflie21", "zig"), BOARD, timeout_s=20)


def replace_code(core: UnicornCore, function: str, code: bytes) -> None:
    core.write(core.image.address(function), code)
    core.uc.ctl_flush_tb()


def test_main_loop_answers_as_the_functions_do(core: UnicornCore, flight) -> None:
    observations, resets = flight[0][:300], flight[1][:300]
    for mode in ("evaluate", "step"):
        called = core.trace(observations, resets, mode)
        replies = core.run_main(trace_requests(observations, resets, mode))
        answered = trace_replies(replies, 300, 2, mode)
        assert answered.actions.tobytes() == called.actions.tobytes()
        assert (answered.status == called.status).all()


def test_greeting(core: UnicornCore) -> None:
    build_id, status = greeting_replies(core.run_main(greeting_requests()))
    assert build_id == bytes(range(32)).hex()
    assert status == 0


def test_main_ends_with_its_input(core: UnicornCore) -> None:
    assert core.run_main(b"") == b""


@pytest.mark.parametrize("requests", [struct.pack("<I", 9), struct.pack("<If", 3, 1.0)])
def test_bad_request(core: UnicornCore, requests: bytes) -> None:
    with pytest.raises(ToolError, match="a request was cut short or unknown"):
        core.run_main(requests)


def test_missing_reply() -> None:
    with pytest.raises(ToolError, match="answered 1 of 3 requests"):
        trace_replies(bytes(12), 3, 2, "step")


def test_invalid_memory(core: UnicornCore) -> None:
    with pytest.raises(ToolError, match=r"zig/unicorn: .*0x0800\w+ \(net_evaluate\+0x"):
        core.call("net_evaluate", 0x40000000, 0x40000000, 0x40000000)


def test_undefined_instruction(core: UnicornCore) -> None:
    replace_code(core, "net_reset", b"\x00\xde")
    with pytest.raises(ToolError, match=r"at 0x0800\w+ \(net_reset\+0x0\)"):
        core.call("net_reset", 0)


def test_foreign_breakpoint(core: UnicornCore) -> None:
    replace_code(core, "net_reset", b"\x01\xbe")
    with pytest.raises(ToolError, match=r"exception 7 at 0x0800\w+ \(net_reset\+0x0\)"):
        core.call("net_reset", 0)


def test_endless_loop(images) -> None:
    core = UnicornCore(images("crazyflie21", "zig"), BOARD, timeout_s=0.2)
    replace_code(core, "net_reset", b"\xfe\xe7")
    with pytest.raises(ToolError, match=r"no end after 0.2 s at 0x0800\w+ \(net_reset\+0x0\)"):
        core.call("net_reset", 0)


def test_jump_out_of_the_image(core: UnicornCore) -> None:
    replace_code(core, "net_reset", b"\x00\x47")  # bx r0
    with pytest.raises(ToolError, match=r"at 0x5000\w+ \(outside the image\)"):
        core.call("net_reset", 0x50000001)


def test_a_fault_does_not_spoil_the_next_call(core: UnicornCore, flight) -> None:
    with pytest.raises(ToolError):
        core.call("net_evaluate", 0x40000000, 0x40000000, 0x40000000)
    assert core.call("net_self_test") == 0


def test_the_program_that_ends_itself(core: UnicornCore) -> None:
    with pytest.raises(ToolError, match="Fault_Handler: a fault handler was reached"):
        core.call("Fault_Handler")


def test_fpu_is_off_until_the_image_switches_it_on(core: UnicornCore) -> None:
    cpacr = int.from_bytes(core.read(0xE000ED88, 4), "little")
    assert cpacr & 0xF00000 == 0xF00000
    vtor = int.from_bytes(core.read(0xE000ED08, 4), "little")
    assert vtor == BOARD.application.base


def test_data_and_zeroed_memory_are_set_up(package, tmp_path) -> None:
    from edgerl.toolchain.build import build_firmware, find

    image = build_firmware(
        package,
        "net",
        BOARD,
        find("zig", BOARD.core),
        tmp_path,
        build_id="00" * 32,
        flags=("-DNET_KEEPS_STATE",),
    )
    core = UnicornCore(image, BOARD)
    kept = np.frombuffer(core.read(image.address("kept"), 12), np.float32)
    assert kept.tolist() == [1.0, 2.0, 3.0]
    assert core.read(image.address("counted"), 8) == bytes(8)
    core.call("net_self_test")
    assert np.frombuffer(core.read(image.address("counted"), 8), np.float32)[0] == 3.0


def test_core_without_a_model(images) -> None:
    odd = BOARD.model_copy(update={"core": BOARD.core.model_copy(update={"unicorn": ""})})
    with pytest.raises(ToolError, match="unicorn has no model of cortex-m4f; use QEMU"):
        UnicornCore(images("crazyflie21", "zig"), odd)


@pytest.mark.parametrize("shape", [(2, 4), (3,), (0, 3)])
def test_wrong_shapes(core: UnicornCore, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be"):
        core.trace(np.zeros(shape, np.float32), np.zeros(shape[0], bool))
