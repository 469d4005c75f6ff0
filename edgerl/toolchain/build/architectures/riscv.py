"""RISC-V of 32 bits, compressed instructions included."""

import re
from typing import Any

from edgerl.toolchain.build.architectures.architecture import Architecture
from edgerl.toolchain.build.instruction import Instruction

_JUMPS = ("j", "jal")
_THROUGH_REGISTER = ("jr", "jalr")
# Registers that hold a return address: of a call, and of a call to save registers.
_LINKS = ("ra", "t0")


def _read(raw: Any, before: Instruction | None) -> Instruction:
    stem = raw.mnemonic.removeprefix("c.")
    operands = raw.op_str
    branch = re.fullmatch(r"b(eq|ne|lt|ge|le|gt)u?z?", stem) is not None
    target = None
    if stem in _JUMPS or branch:
        # capstone gives the distance, as the instruction does.
        target = raw.address + _number(operands.split(",")[-1]) & 0xFFFFFFFF
    elif stem in _THROUGH_REGISTER:
        target = _far(operands, before)
    through = stem in _THROUGH_REGISTER and target is None
    returns = stem == "jr" and operands.strip() in _LINKS
    return Instruction(
        address=raw.address,
        size=raw.size,
        mnemonic=stem,
        operands=operands,
        conditional=branch,
        target=target,
        calls=stem in ("jal", "jalr") and not operands.startswith("zero,"),
        indirect=through and not returns,
    )


def _far(operands: str, before: Instruction | None) -> int | None:
    """The target of a jump through a register that `auipc` has just set, if that is what it is."""
    if before is None or before.mnemonic != "auipc":
        return None
    register, high = (part.strip() for part in before.operands.split(","))
    parts = [part.strip() for part in operands.split(",")]
    # Of "rd, rs, offset" the parts that are left out are ra and 0.
    offset = _number(parts.pop()) if re.match(r"-?(0x)?[0-9a-f]+\Z", parts[-1]) else 0
    if parts[-1] != register:
        return None
    return before.address + (_number(high) << 12) + offset & 0xFFFFFFFF


def _pushed(i: Instruction) -> int | None:
    if i.mnemonic in ("addi", "addi16sp"):
        moved = re.fullmatch(r"sp, (?:sp, )?(-?\w+)", i.operands)
        return max(0, -_number(moved[1])) if moved else 0
    # A frame beyond the reach of an immediate is added from a register.
    return None if i.mnemonic in ("add", "sub") and i.operands.startswith("sp,") else 0


def _number(text: str) -> int:
    return int(text.strip(), 0)


ARCHITECTURE = Architecture(
    entry="_start",
    capstone=("CS_ARCH_RISCV", "CS_MODE_RISCV32", "CS_MODE_RISCVC"),
    read=_read,
    pushed=_pushed,
)
