"""The image as the program that it is, where this machine can run it: no emulator at all."""

import platform
import shutil
import sys
import tempfile
from pathlib import Path

from edgerl.errors import ToolError
from edgerl.targets.model import Core
from edgerl.toolchain.build.image import Image
from edgerl.toolchain.build.process import ProgramFailed, run
from edgerl.toolchain.build.run import Flags, Floats, Mode, Run, rows_of
from edgerl.toolchain.emulators.requests import (
    EXIT_CODES,
    greeting_replies,
    greeting_requests,
    trace_replies,
    trace_requests,
)

# What Linux calls the architectures that programs are built for.
_MACHINES = {"x86-64": "x86_64", "aarch64": "aarch64"}


def runs_here(core: Core) -> bool:
    """Whether an image for `core` is a program of this very machine."""
    known = _MACHINES.get(core.architecture) == platform.machine()
    return core.hosting == "linux" and sys.platform == "linux" and known


class Program:
    """The image as a process. A Runner; states stay inside it. Each run is bounded by
    `timeout_s`."""

    def __init__(self, image: Image, *, timeout_s: float = 60.0) -> None:
        self.image = image
        self.timeout_s = timeout_s

    @property
    def name(self) -> str:
        """Compiler and where it runs, for reports."""
        return f"{self.image.family}/linux"

    def trace(self, observations: Floats, resets: Flags, mode: Mode = "step") -> Run:
        """One controller through T steps, from reset: observations [T, n], resets [T]."""
        size, action_size = self.image.signal_sizes
        requests = trace_requests(rows_of(observations, size), resets, mode)
        return trace_replies(self.run_main(requests), len(observations), action_size, mode)

    def greet(self) -> tuple[str, int]:
        """The build id that the program states, and the status of its self test."""
        return greeting_replies(self.run_main(greeting_requests()))

    def run_main(self, requests: bytes) -> bytes:
        """Run the program on `requests`; its replies."""
        with tempfile.TemporaryDirectory(prefix="edgerl-program-") as scratch:
            work = Path(scratch)
            program, source, sink = (work / name for name in ("program", "rig-in", "rig-out"))
            shutil.copyfile(self.image.elf, program)
            program.chmod(0o755)
            source.write_bytes(requests)
            try:
                run([str(program)], cwd=work, timeout_s=self.timeout_s, stdin=source, stdout=sink)
            except ProgramFailed as error:
                why = EXIT_CODES.get(error.code, f"ended with code {error.code}")
                raise ToolError(f"{self.name}: {why}") from error
            return sink.read_bytes()
