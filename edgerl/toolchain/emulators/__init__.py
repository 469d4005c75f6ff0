"""Emulated cores: run an image as the board would, count, and look at its stack."""

from edgerl.toolchain.emulators.counting import Count, count, spread
from edgerl.toolchain.emulators.painting import painted_stack
from edgerl.toolchain.emulators.qemu import QemuCore
from edgerl.toolchain.emulators.runner import BatchRunner, Runner
from edgerl.toolchain.emulators.unicorn import UnicornCore

__all__ = [
    "BatchRunner",
    "Count",
    "QemuCore",
    "Runner",
    "UnicornCore",
    "count",
    "painted_stack",
    "spread",
]
