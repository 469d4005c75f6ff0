"""x86-64 in unicorn, with Linux's system calls."""

from edgerl.toolchain.emulators.linux import Call, SystemCalls
from edgerl.toolchain.emulators.machines.machine import Machine
from edgerl.toolchain.emulators.session import Read

_CALLS: dict[int, Call] = {0: "read", 1: "write", 60: "exit"}


def _resume(_number: int, _pc: int, _read: Read) -> int | None:
    return None


MACHINE = Machine(
    constants="x86_const",
    engine=("UC_ARCH_X86", "UC_MODE_64"),
    prefix="UC_X86_REG_",
    pc="RIP",
    sp="RSP",
    link="",
    arguments=("RDI", "RSI", "RDX", "RCX", "R8", "R9"),
    result="RAX",
    word=8,
    request=("RAX", "RDI", "RSI", "RDX"),
    session=lambda requests: SystemCalls(_CALLS, requests),
    resume=_resume,
    # Beyond 32 bits, so that an address that is cut short shows.
    window=0x10_0000_0000,
    trap="UC_X86_INS_SYSCALL",
    # Linux has SSE switched on; no floating-point exception is unmasked.
    setup=(("CR4", 0x600), ("MXCSR", 0x1F80)),
)
