"""RISC-V of 32 bits in unicorn."""

from edgerl.toolchain.emulators.machines.machine import UNKNOWN, Machine
from edgerl.toolchain.emulators.semihosting import Semihosting
from edgerl.toolchain.emulators.session import Read

# slli x0, x0, 0x1f; ebreak; srai x0, x0, 7
_REQUEST = bytes.fromhex("1310f0017300100013507040")


def _resume(number: int, pc: int, read: Read) -> int | None:
    # unicorn takes ebreak for an instruction that it does not know.
    return pc + 4 if number == UNKNOWN and read(pc - 4, 12) == _REQUEST else None


MACHINE = Machine(
    constants="riscv_const",
    engine=("UC_ARCH_RISCV", "UC_MODE_RISCV32"),
    prefix="UC_RISCV_REG_",
    pc="PC",
    sp="SP",
    link="RA",
    arguments=tuple(f"A{k}" for k in range(8)),
    result="A0",
    word=4,
    request=("A0", "A1"),
    session=Semihosting,
    resume=_resume,
    window=0xC0000000,
)
