"""Emulated cores: run an image as the board would, count, and look at its stack; or run it here."""

from edgerl.toolchain.emulators.counting import Count, count, spread
from edgerl.toolchain.emulators.program import Program, runs_here
from edgerl.toolchain.emulators.qemu import QemuCore, require_qemu
from edgerl.toolchain.emulators.runner import BatchRunner, EmulatedCore, Runner
from edgerl.toolchain.emulators.unicorn import UnicornCore

__all__ = [
    "BatchRunner",
    "Count",
    "EmulatedCore",
    "Program",
    "QemuCore",
    "Runner",
    "UnicornCore",
    "count",
    "require_qemu",
    "runs_here",
    "spread",
]
