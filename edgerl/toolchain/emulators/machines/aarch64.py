"""AArch64 in unicorn, with Linux's system calls."""

from edgerl.toolchain.emulators.linux import Call, SystemCalls
from edgerl.toolchain.emulators.machines.machine import Machine
from edgerl.toolchain.emulators.session import Read

_SUPERVISOR_CALL = 2
_CALLS: dict[int, Call] = {63: "read", 64: "write", 93: "exit"}


def _resume(number: int, pc: int, _read: Read) -> int | None:
    return pc if number == _SUPERVISOR_CALL else None


MACHINE = Machine(
    constants="arm64_const",
    engine=("UC_ARCH_ARM64", "UC_MODE_ARM"),
    prefix="UC_ARM64_REG_",
    pc="PC",
    sp="SP",
    link="X30",
    arguments=tuple(f"X{k}" for k in range(8)),
    result="X0",
    word=8,
    request=("X8", "X0", "X1", "X2"),
    session=lambda requests: SystemCalls(_CALLS, requests),
    resume=_resume,
    # Beyond 32 bits, so that an address that is cut short shows.
    window=0x10_0000_0000,
)
