"""Architectures as unicorn runs them, one module each."""

from edgerl.errors import ToolError
from edgerl.toolchain.emulators.machines import aarch64, arm, riscv, x86_64
from edgerl.toolchain.emulators.machines.machine import UNKNOWN, Machine

_KNOWN = {
    "arm": arm.MACHINE,
    "riscv": riscv.MACHINE,
    "aarch64": aarch64.MACHINE,
    "x86-64": x86_64.MACHINE,
}

__all__ = ["UNKNOWN", "Machine", "machine_of"]


def machine_of(architecture: str) -> Machine:
    """How unicorn runs an architecture; ToolError when it does not."""
    found = _KNOWN.get(architecture)
    if found is None:
        raise ToolError(f"unicorn runs no {architecture} here; known: {', '.join(_KNOWN)}")
    return found
