"""Instruction sets: how each reads and what it does to the stack, one module each.

A new instruction set is a module here, a template of start-up code, and a module of
`emulators.machines`.
"""

from edgerl.errors import ToolError
from edgerl.toolchain.build.architectures import aarch64, arm, riscv, x86_64
from edgerl.toolchain.build.architectures.architecture import Architecture

_KNOWN = {
    "arm": arm.ARCHITECTURE,
    "riscv": riscv.ARCHITECTURE,
    "aarch64": aarch64.ARCHITECTURE,
    "x86-64": x86_64.ARCHITECTURE,
}

__all__ = ["Architecture", "architecture_of"]


def architecture_of(name: str) -> Architecture:
    """The architecture that a core's row names; ToolError when images cannot be built for it."""
    found = _KNOWN.get(name)
    if found is None:
        raise ToolError(f"no images are built for architecture {name}; known: {', '.join(_KNOWN)}")
    return found
