"""Each instruction set reads as the call graph and the counters need it."""

import pytest

from edgerl.errors import ToolError
from edgerl.toolchain.build.architectures import architecture_of
from edgerl.toolchain.build.disassembly import disassemble

AT = 0x1000
# architecture, code, (mnemonic, target, calls, indirect)
READ = [
    ("riscv", "ef008000", ("jal", AT + 8, True, False)),
    ("riscv", "6f008000", ("j", AT + 8, False, False)),
    ("riscv", "6ff09fff", ("j", AT - 8, False, False)),
    ("riscv", "01a0", ("j", AT, False, False)),
    ("riscv", "0120", ("jal", AT, True, False)),
    ("riscv", "63040500", ("beqz", AT + 8, False, False)),
    ("riscv", "63f4c500", ("bgeu", AT + 8, False, False)),
    ("riscv", "67800000", ("ret", None, False, False)),
    ("riscv", "8280", ("jr", None, False, False)),
    ("riscv", "8283", ("jr", None, False, True)),
    ("riscv", "8295", ("jalr", None, True, True)),
    ("aarch64", "01000094", ("bl", AT + 4, True, False)),
    ("aarch64", "00000014", ("b", AT, False, False)),
    ("aarch64", "40000054", ("b", AT + 8, False, False)),
    ("aarch64", "400000b4", ("cbz", AT + 8, False, False)),
    ("aarch64", "40000037", ("tbnz", AT + 8, False, False)),
    ("aarch64", "c0035fd6", ("ret", None, False, False)),
    ("aarch64", "00001fd6", ("br", None, False, True)),
    ("aarch64", "00003fd6", ("blr", None, True, True)),
    ("x86-64", "e800000000", ("call", AT + 5, True, False)),
    ("x86-64", "eb00", ("jmp", AT + 2, False, False)),
    ("x86-64", "7400", ("je", AT + 2, False, False)),
    ("x86-64", "c3", ("ret", None, False, False)),
    ("x86-64", "ffd0", ("call", None, True, True)),
    ("x86-64", "ffe0", ("jmp", None, False, True)),
    ("arm", "00f002f8", ("bl", AT + 8, True, False)),
    ("arm", "7047", ("bx", None, False, False)),
    ("arm", "0047", ("bx", None, False, True)),
    ("arm", "f746", ("mov", None, False, False)),
    ("arm", "8746", ("mov", None, False, True)),
    ("arm", "dfe800f0", ("tbb", None, False, True)),
    ("arm", "0ff009c0", ("le", AT + 4 - 16, False, False)),
    ("arm", "1ff00bc8", ("letp", AT + 4 - 22, False, False)),
    ("arm", "40f007c0", ("wls", AT + 4 + 12, False, False)),
    ("arm", "22f007c0", ("wlstp", AT + 4 + 12, False, False)),
    ("arm", "42f001e0", ("dls", None, False, False)),
    ("arm", "02f001e0", ("dlstp", None, False, False)),
    ("arm", "02f001e8", ("vctp", None, False, False)),
    ("arm", "0ff001e0", ("lctp", None, False, False)),
    ("arm", "f2ee20cf", ("mve", None, False, False)),  # vmladava.s8 r12, q1, q0
    ("arm", "b1ec101e", ("mve", None, False, False)),  # vldrb.u8 q0, [r1], #16
    ("arm", "22ef4008", ("mve", None, False, False)),  # vadd.i32 q0, q1, q0
    ("arm", "51ea0280", ("csel", None, False, False)),
    ("arm", "50ea2f11", ("long_shift", None, False, False)),  # asrl r0, r1, #4
    ("arm", "51ea0200", ("orrs", None, False, False)),
    ("arm", "90ed000a", ("vldr", None, False, False)),
    ("arm", "b4ee400a", ("vcmp", None, False, False)),
    ("arm", "f1ee10fa", ("vmrs", None, False, False)),
]
# architecture, code, bytes by which it lowers the stack (None: not to be seen)
PUSHED = [
    ("riscv", "130101ff", 16),
    ("riscv", "0111", 32),
    ("riscv", "3971", 64),
    ("riscv", "13010102", 0),  # addi sp, sp, 32
    ("riscv", "3301a140", None),  # sub sp, sp, a0
    ("aarch64", "ff4300d1", 16),
    ("aarch64", "ff0740d1", 4096),  # sub sp, sp, #1, lsl #12
    ("aarch64", "fd7bbfa9", 16),
    ("aarch64", "fe0f1ff8", 16),
    ("aarch64", "ff6320cb", None),  # sub sp, sp, x0
    ("x86-64", "55", 8),
    ("x86-64", "4883ec18", 24),
    ("x86-64", "4883c480", 128),  # add rsp, -128
    ("x86-64", "4829c4", None),  # sub rsp, rax
    ("x86-64", "4889ec", None),  # mov rsp, rbp
    ("arm", "70b5", 16),
    ("arm", "86b0", 24),
    ("arm", "0021", 0),
    ("arm", "2ded108b", 64),  # vpush {d8-d15}
    ("arm", "8ded049f", 0),  # vstrw.32 q4, [sp, #16]
    ("arm", "2ded041f", None),  # the same with sp written back: unpredictable
    ("arm", "adec041f", None),
]


@pytest.mark.parametrize(("architecture", "code", "expected"), READ)
def test_read(architecture: str, code: str, expected: tuple[object, ...]) -> None:
    (i,) = disassemble(bytes.fromhex(code), AT, architecture)
    assert (i.mnemonic, i.target, i.calls, i.indirect) == expected


@pytest.mark.parametrize(("architecture", "code", "expected"), PUSHED)
def test_stack(architecture: str, code: str, expected: int | None) -> None:
    (i,) = disassemble(bytes.fromhex(code), AT, architecture)
    assert architecture_of(architecture).pushed(i) == expected


@pytest.mark.parametrize(
    ("code", "target", "calls"),
    [
        ("97100000e7804000", AT + 0x1004, True),  # auipc ra, 1; jalr 4(ra)
        ("97f0ffffe780c0ff", AT - 0x1004 & 0xFFFFFFFF, True),  # auipc ra, -1; jalr -4(ra)
        ("1703000067008300", AT + 8, False),  # auipc t1, 0; jr 8(t1)
    ],
)
def test_riscv_call_in_two_instructions(code: str, target: int, calls: bool) -> None:
    first, second = disassemble(bytes.fromhex(code), AT, "riscv")
    assert first.mnemonic == "auipc"
    assert (second.target, second.calls, second.indirect) == (target, calls, False)


def test_riscv_jump_through_another_register_is_indirect() -> None:
    _, second = disassemble(bytes.fromhex("170300008283"), AT, "riscv")
    assert second.indirect


def test_no_instruction() -> None:
    with pytest.raises(ToolError, match="no instruction at 0x00001000: ffffffff"):
        disassemble(b"\xff" * 4, AT, "riscv")


def test_architecture_without_images() -> None:
    with pytest.raises(ToolError, match="no images are built for architecture avr; known: arm, "):
        architecture_of("avr")
