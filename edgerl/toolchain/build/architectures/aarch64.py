"""AArch64."""

import re
from typing import Any

from edgerl.toolchain.build.architectures.architecture import Architecture
from edgerl.toolchain.build.instruction import Instruction

_BRANCHES = ("b", "bl", "cbz", "cbnz", "tbz", "tbnz")


def _read(raw: Any, _before: Instruction | None) -> Instruction:
    stem, _, condition = raw.mnemonic.partition(".")
    target = raw.operands[-1].imm if stem in _BRANCHES else None
    return Instruction(
        address=raw.address,
        size=raw.size,
        mnemonic=stem,
        operands=raw.op_str,
        conditional=bool(condition) or stem in _BRANCHES[2:],
        target=target,
        calls=stem in ("bl", "blr"),
        indirect=stem in ("br", "blr") or (stem == "ret" and raw.op_str not in ("", "x30")),
    )


def _pushed(i: Instruction) -> int | None:
    if moved := re.search(r"\[sp, #-(\w+)\]!", i.operands):
        return int(moved[1], 0)
    if i.mnemonic == "sub" and i.operands.startswith("sp,"):
        amount = re.fullmatch(r"sp, sp, #(\w+)(?:, lsl #(\d+))?", i.operands)
        return None if amount is None else int(amount[1], 0) << int(amount[2] or 0)
    return 0


ARCHITECTURE = Architecture(
    entry="_start",
    capstone=("CS_ARCH_ARM64", "CS_MODE_LITTLE_ENDIAN"),
    read=_read,
    pushed=_pushed,
)
