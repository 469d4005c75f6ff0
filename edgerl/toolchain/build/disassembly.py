"""Thumb code as instructions, for counters and for the call graph."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from edgerl.errors import ToolError


@dataclass(frozen=True)
class Instruction:
    """One instruction as it reads. `mnemonic` has no condition and no width suffix, `target`
    is the address of a direct branch."""

    address: int
    size: int
    mnemonic: str
    operands: str
    conditional: bool
    target: int | None


def disassemble(code: bytes, address: int) -> list[Instruction]:
    """All of `code`, which lies at `address`.

    Raises ToolError when capstone is missing or meets bytes that are no instruction.
    """
    engine = _engine()
    found = [_instruction(raw) for raw in engine.disasm(code, address)]
    done = sum(i.size for i in found)
    if done != len(code):
        raise ToolError(f"no instruction at {address + done:#010x}: {code[done : done + 4].hex()}")
    return found


@cache
def _engine() -> Any:
    try:
        import capstone
    except ImportError as error:
        raise ToolError("capstone is not installed: pip install 'edgerl[emu]'") from error
    mode = capstone.CS_MODE_THUMB | capstone.CS_MODE_MCLASS | capstone.CS_MODE_V8
    engine = capstone.Cs(capstone.CS_ARCH_ARM, mode)
    engine.detail = True
    return engine


def _instruction(raw: Any) -> Instruction:
    from capstone.arm import ARM_CC_AL, ARM_CC_INVALID, ARM_OP_IMM

    mnemonic = raw.mnemonic.partition(".")[0]
    # `it` names the condition of what follows and is itself always executed.
    conditional = raw.cc not in (ARM_CC_AL, ARM_CC_INVALID) and not mnemonic.startswith("it")
    # A conditional mnemonic ends in its two-letter condition.
    stem = mnemonic[:-2] if conditional and mnemonic not in ("cbz", "cbnz") else mnemonic
    last = raw.operands[-1] if raw.operands else None
    branches = stem in ("b", "bl", "blx", "cbz", "cbnz")
    direct = branches and last is not None and last.type == ARM_OP_IMM
    return Instruction(
        address=raw.address,
        size=raw.size,
        mnemonic=stem,
        operands=raw.op_str,
        conditional=conditional,
        target=last.imm & 0xFFFFFFFF if direct and last is not None else None,
    )
