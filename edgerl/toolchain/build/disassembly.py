"""Machine code as instructions, for counters and for the call graph."""

from collections.abc import Iterator
from functools import cache
from itertools import islice
from typing import Any

from edgerl.errors import ToolError
from edgerl.toolchain.build.architectures import architecture_of
from edgerl.toolchain.build.instruction import Instruction

__all__ = ["Instruction", "decoded", "disassemble"]


def disassemble(
    code: bytes, address: int, architecture: str = "arm", most: int | None = None
) -> list[Instruction]:
    """All of `code`, which lies at `address`, or its first `most` instructions.

    Raises ToolError when capstone is missing or meets bytes that are no instruction.
    """
    read = architecture_of(architecture).read
    found: list[Instruction] = []
    for raw in islice(_listed(code, address, architecture), most):
        own = isinstance(raw, Instruction)
        found.append(raw if own else read(raw, found[-1] if found else None))
    return found


def decoded(code: bytes, address: int, architecture: str) -> Iterator[Any]:
    """All of `code` as capstone gives it, operands in detail. Raises as `disassemble` does, and
    ToolError for what capstone does not know, as vectors of Armv8.1-M."""
    for raw in _listed(code, address, architecture):
        if isinstance(raw, Instruction):
            what = f"{raw.mnemonic} {raw.operands}"
            raise ToolError(f"capstone does not know {what}, at {raw.address:#010x}")
        yield raw


def _listed(code: bytes, address: int, architecture: str) -> Iterator[Any]:
    """All of `code`, each as capstone gives it, or as an Instruction where the architecture reads
    it by itself."""
    engine, own = _engine(architecture), architecture_of(architecture).own
    done = 0
    while done < len(code):
        for raw in engine.disasm(code[done:], address + done):
            done += raw.size
            yield own(bytes(raw.bytes), raw.address) or raw
        if done < len(code):
            found = own(code[done:], address + done)
            if found is None:
                stray = code[done : done + 4].hex()
                raise ToolError(f"no instruction at {address + done:#010x}: {stray}")
            done += found.size
            yield found


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
