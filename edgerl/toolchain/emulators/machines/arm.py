"""Cortex-M in unicorn."""

from edgerl.targets.model import Region
from edgerl.toolchain.emulators.machines.machine import Machine
from edgerl.toolchain.emulators.semihosting import Semihosting
from edgerl.toolchain.emulators.session import Read

_BREAKPOINT = 7
_REQUEST = bytes.fromhex("abbe")  # bkpt 0xAB


def _resume(number: int, pc: int, read: Read) -> int | None:
    return pc + 2 | 1 if number == _BREAKPOINT and read(pc, 2) == _REQUEST else None


MACHINE = Machine(
    constants="arm_const",
    # Not UC_MODE_MCLASS: that takes an M33 whatever model is asked for.
    engine=("UC_ARCH_ARM", "UC_MODE_THUMB"),
    prefix="UC_ARM_REG_",
    pc="PC",
    sp="SP",
    link="LR",
    arguments=("R0", "R1", "R2", "R3"),
    result="R0",
    word=4,
    request=("R0", "R1"),
    session=Semihosting,
    resume=_resume,
    # External RAM. (unicorn wrongly takes code at 0x60000000 as never executable.)
    window=0x80000000,
    code_bit=1,
    pages=(Region(base=0xE000E000, size=0x1000),),  # system control
)
