"""Machine code as instructions, for counters and for the call graph."""

from functools import cache
from typing import Any

from edgerl.errors import ToolError
from edgerl.toolchain.build.architectures import architecture_of
from edgerl.toolchain.build.instruction import Instruction

__all__ = ["Instruction", "disassemble"]


def disassemble(code: bytes, address: int, architecture: str = "arm") -> list[Instruction]:
    """All of `code`, which lies at `address`.

    Raises ToolError when capstone is missing or meets bytes that are no instruction.
    """
    engine, read = _engine(architecture), architecture_of(architecture).read
    found: list[Instruction] = []
    for raw in engine.disasm(code, address):
        found.append(read(raw, found[-1] if found else None))
    done = sum(i.size for i in found)
    if done != len(code):
        raise ToolError(f"no instruction at {address + done:#010x}: {code[done : done + 4].hex()}")
    return found


@cache
def _engine(architecture: str) -> Any:
    try:
        import capstone
    except ImportError as error:
        raise ToolError("capstone is not installed: pip install 'edgerl[emu]'") from error
    family, *modes = architecture_of(architecture).capstone
    engine = capstone.Cs(getattr(capstone, family), sum(getattr(capstone, mode) for mode in modes))
    engine.detail = True
    return engine
