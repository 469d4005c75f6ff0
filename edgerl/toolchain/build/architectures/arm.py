"""Thumb, as Cortex-M has it."""

import re
from typing import Any

from edgerl.toolchain.build.architectures import armv8_1m
from edgerl.toolchain.build.architectures.architecture import Architecture
from edgerl.toolchain.build.instruction import Instruction

_BRANCHES = ("b", "bl", "blx", "cbz", "cbnz")


def _read(raw: Any, _before: Instruction | None) -> Instruction:
    from capstone.arm import ARM_CC_AL, ARM_CC_INVALID, ARM_OP_IMM

    mnemonic = raw.mnemonic.partition(".")[0]
    # `it` names the condition of what follows and is itself always executed.
    conditional = raw.cc not in (ARM_CC_AL, ARM_CC_INVALID) and not mnemonic.startswith("it")
    # A conditional mnemonic ends in its two-letter condition.
    stem = mnemonic[:-2] if conditional and mnemonic not in ("cbz", "cbnz") else mnemonic
    last = raw.operands[-1] if raw.operands else None
    direct = stem in _BRANCHES and last is not None and last.type == ARM_OP_IMM
    return Instruction(
        address=raw.address,
        size=raw.size,
        mnemonic=stem,
        operands=raw.op_str,
        conditional=conditional,
        target=last.imm & 0xFFFFFFFF if direct and last is not None else None,
        calls=stem in ("bl", "blx"),
        indirect=not direct and _goes_where_told(stem, raw.op_str),
    )


def _goes_where_told(stem: str, operands: str) -> bool:
    """Whether a branch that is not direct is no return either."""
    if stem in ("bx", "blx"):
        return operands != "lr"
    if stem == "ldr":  # from the stack it is a return
        return re.match(r"pc, \[(?!sp)", operands) is not None
    if stem in ("tbb", "tbh"):
        return True
    return stem in ("mov", "add") and operands.startswith("pc,") and operands != "pc, lr"


def _pushed(i: Instruction) -> int | None:
    if i.mnemonic == "mve":  # writing back to the stack pointer is unpredictable
        return None if i.operands.endswith("sp!") else 0
    if i.mnemonic in ("push", "vpush"):
        return _listed(i.operands)
    if i.mnemonic in ("stmdb", "vstmdb") and i.operands.startswith("sp!"):
        return _listed(i.operands)
    if moved := re.search(r"\[sp, #-(\w+)\]!", i.operands):
        return int(moved[1], 0)
    if i.mnemonic in ("sub", "subw") and i.operands.startswith("sp,"):
        amount = re.search(r"#(\w+)$", i.operands)
        return None if amount is None else int(amount[1], 0)
    return 0


def _listed(operands: str) -> int:
    names = operands[operands.find("{") + 1 : operands.find("}")].split(",")
    return sum(8 if name.strip().startswith("d") else 4 for name in names)


ARCHITECTURE = Architecture(
    entry="Reset_Handler",
    capstone=("CS_ARCH_ARM", "CS_MODE_THUMB", "CS_MODE_MCLASS", "CS_MODE_V8"),
    read=_read,
    pushed=_pushed,
    own=armv8_1m.read,
)
