"""x86-64, the System V calling convention without a red zone."""

import re
from typing import Any

from edgerl.toolchain.build.architectures.architecture import Architecture
from edgerl.toolchain.build.instruction import Instruction


def _read(raw: Any, _before: Instruction | None) -> Instruction:
    from capstone.x86 import X86_OP_IMM

    jumps = raw.mnemonic == "call" or raw.mnemonic.startswith("j")
    direct = jumps and raw.operands[0].type == X86_OP_IMM
    return Instruction(
        address=raw.address,
        size=raw.size,
        mnemonic=raw.mnemonic,
        operands=raw.op_str,
        conditional=jumps and raw.mnemonic not in ("call", "jmp"),
        target=raw.operands[0].imm if direct else None,
        calls=raw.mnemonic == "call",
        indirect=jumps and not direct,
    )


def _pushed(i: Instruction) -> int | None:
    if i.mnemonic == "push":
        return 8
    if i.mnemonic == "sub" and i.operands.startswith("rsp,"):
        amount = re.fullmatch(r"rsp, (\w+)", i.operands)
        return int(amount[1], 0) if amount and amount[1][0].isdigit() else None
    if i.mnemonic == "add" and (amount := re.fullmatch(r"rsp, -(\w+)", i.operands)):
        return int(amount[1], 0)
    # Rounding the pointer down wastes less than what it is rounded to.
    if i.mnemonic == "and" and (amount := re.fullmatch(r"rsp, (0x[0-9a-f]+)", i.operands)):
        return (1 << 64) - int(amount[1], 0) - 8
    return None if i.mnemonic in ("lea", "mov") and i.operands.startswith("rsp,") else 0


ARCHITECTURE = Architecture(
    entry="_start",
    capstone=("CS_ARCH_X86", "CS_MODE_64"),
    read=_read,
    pushed=_pushed,
    return_bytes=8,
)
