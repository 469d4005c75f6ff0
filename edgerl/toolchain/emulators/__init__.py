"""Emulated cores: run an image as the board would, count, and look at its stack; or run it here."""

from edgerl.toolchain.emulators.counting import Count, count, spread
from edgerl.toolchain.emulators.painting import painted_stack
from edgerl.toolchain.emulators.program import Program, runs_here
from edgerl.toolchain.emulators.qemu import QemuCore
from edgerl.toolchain.emulators.runner import BatchRunner, Runner
from edgerl.toolchain.emulators.unicorn import UnicornCore

__all__ = [
    "BatchRunner",
    "Count",
    "Program",
    "QemuCore",
    "Runner",
    "UnicornCore",
    "count",
    "painted_stack",
    "runs_here",
    "spread",
]
