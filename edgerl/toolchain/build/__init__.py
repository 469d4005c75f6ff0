"""Compilers, the HIL image, the host twin: from C package to something that runs."""

from edgerl.toolchain.build.compiler import Compiler, cache_folder, find
from edgerl.toolchain.build.firmware import build_firmware, require_stack
from edgerl.toolchain.build.footprint import Footprint, footprint
from edgerl.toolchain.build.host import HostTwin, build_host
from edgerl.toolchain.build.image import Image
from edgerl.toolchain.build.run import Mode, Run, first_difference
from edgerl.toolchain.build.stack import NoBound, StackUse, worst_stack

__all__ = [
    "Compiler",
    "Footprint",
    "HostTwin",
    "Image",
    "Mode",
    "NoBound",
    "Run",
    "StackUse",
    "build_firmware",
    "build_host",
    "cache_folder",
    "find",
    "first_difference",
    "footprint",
    "require_stack",
    "worst_stack",
]
