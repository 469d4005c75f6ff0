"""The image in QEMU: its own main loop, its requests and replies, and a counting plugin.

QEMU is the second opinion: another emulator, a model of the whole microcontroller, started
from the image's entry point as a debugger would; for a program of Linux, of its processor.
"""

import hashlib
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from edgerl.errors import ToolError
from edgerl.targets.model import Target, target
from edgerl.toolchain.build.compiler import cache_folder, find
from edgerl.toolchain.build.image import Image
from edgerl.toolchain.build.process import ProgramFailed, run
from edgerl.toolchain.build.rendering import publish, render
from edgerl.toolchain.build.run import Flags, Floats, Mode, Run, rows_of
from edgerl.toolchain.emulators.counting import Counts
from edgerl.toolchain.emulators.requests import (
    EXIT_CODES,
    greeting_replies,
    greeting_requests,
    trace_replies,
    trace_requests,
)

# What installs each of QEMU's programs.
PACKAGES = {
    "qemu-system-arm": "qemu-system-arm",
    "qemu-system-riscv32": "qemu-system-misc",
    "qemu-aarch64": "qemu-user",
    "qemu-x86_64": "qemu-user",
}
_ELF, _REQUESTS, _REPLIES = "firmware.elf", "rig-in", "rig-out"


class QemuCore:
    """The image on the QEMU machine of `target`, or its program in QEMU's Linux. A Runner; states
    stay inside the machine.

    Every run of QEMU is bounded by `timeout_s`. Raises ToolError when QEMU is missing or has no
    machine for the target.
    """

    def __init__(self, image: Image, target: Target, *, timeout_s: float = 120.0) -> None:
        self.image = image
        self.target = target
        self.timeout_s = timeout_s
        self._linux = target.core.hosting == "linux"
        if not (target.qemu_machine or self._linux):
            raise ToolError(f"QEMU has no machine for {target.name}; use unicorn")
        self._program = _program(target.core.qemu)

    @property
    def name(self) -> str:
        """Compiler and emulator, for reports."""
        return f"{self.image.family}/qemu"

    @property
    def version(self) -> str:
        """QEMU's version, such as "QEMU 7.2.22"."""
        return _version(self._program)

    def trace(self, observations: Floats, resets: Flags, mode: Mode = "step") -> Run:
        """One controller through T steps, from reset: observations [T, n], resets [T]."""
        replies = self.run_main(trace_requests(self._rows(observations), resets, mode))
        return trace_replies(replies, len(observations), self.image.signal_sizes[1], mode)

    def greet(self) -> tuple[str, int]:
        """The build id that the running image states, and the status of its self test."""
        return greeting_replies(self.run_main(greeting_requests()))

    def run_main(self, requests: bytes) -> bytes:
        """Run the image's main loop, from reset, on `requests`; the replies."""
        replies, _ = self._run(requests, count=False)
        return replies

    def count(self, observations: Floats) -> Counts:
        """Instructions [T] of each call of `NAME_evaluate` on observations [T, n], from reset.

        Counted by a plugin that is compiled at first use, from the function's entry up to and
        with its return, as `counting.count` does.
        """
        resets = np.zeros(len(observations), bool)
        requests = trace_requests(self._rows(observations), resets, "evaluate")
        _, counts = self._run(requests, count=True)
        found = np.array(counts.split(), np.int64)
        if len(found) != len(observations):
            raise ToolError(f"{self.name}: {len(found)} of {len(observations)} calls were counted")
        return found

    def _rows(self, observations: Floats) -> Floats:
        return rows_of(observations, self.image.signal_sizes[0])

    def _run(self, requests: bytes, *, count: bool) -> tuple[bytes, str]:
        """Replies of the main loop, and what the plugin wrote (empty without `count`)."""
        with tempfile.TemporaryDirectory(prefix="edgerl-qemu-") as scratch:
            work = Path(scratch)
            # Relative names: QEMU splits its options at commas, and a path may hold some.
            shutil.copyfile(self.image.elf, work / _ELF)
            (work / _REQUESTS).write_bytes(requests)
            argv = [self._program, *self.target.core.qemu_options]
            if count:
                shutil.copyfile(_plugin(), work / "count.so")
                after = self.image.address("edgerl_rig_evaluate")
                until = self.image.address("edgerl_rig_evaluate_return")
                argv += ["-plugin", f"./count.so,after={after:#x},until={until:#x},out=counts"]
            try:
                self._start(argv, work)
            except ProgramFailed as error:
                where = f"{self.name} on {self.target.qemu_machine or 'Linux'}"
                if error.code in EXIT_CODES:
                    raise ToolError(f"{where}: {EXIT_CODES[error.code]}") from error
                raise ToolError(f"{where}: {error}") from error
            counts = (work / "counts").read_text() if count else ""
            return (work / _REPLIES).read_bytes(), counts

    def _start(self, argv: list[str], work: Path) -> None:
        """Run the image in `work`, whose surroundings are its files."""
        if self._linux:
            (work / _ELF).chmod(0o755)
            run(
                [*argv, f"./{_ELF}"],
                cwd=work,
                timeout_s=self.timeout_s,
                stdin=work / _REQUESTS,
                stdout=work / _REPLIES,
            )
            return
        machine = [
            *("-M", self.target.qemu_machine),
            *("-display", "none", "-monitor", "none", "-serial", "none"),
            *("-semihosting-config", "enable=on,target=native"),
            # Starts at the ELF's entry point, wherever a bootloader leaves room for it.
            *("-device", f"loader,file={_ELF},cpu-num=0"),
        ]
        run([*argv, *machine], cwd=work, timeout_s=self.timeout_s)


def _program(name: str) -> str:
    path = shutil.which(name) if name else None
    if path is None:
        package = PACKAGES.get(name, "qemu-system")
        raise ToolError(f"{name or 'QEMU'} is not installed: apt-get install {package}")
    return path


@cache
def _version(program: str) -> str:
    text = run([program, "--version"], cwd=Path.cwd(), timeout_s=60.0)
    found = re.search(r"version (\d[\d.]*)", text)
    return f"QEMU {found[1] if found else 'of unknown version'}"


def _plugin() -> Path:
    """The counting plugin, compiled once for each of its texts and compilers."""
    compiler = find("zig", target("host").core)
    with tempfile.TemporaryDirectory(prefix="edgerl-build-") as scratch:
        work = Path(scratch)
        render(work, ("count.c",), {}, room="edgerl.toolchain.emulators")
        text = (work / "count.c").read_bytes() + compiler.version.encode()
        plugin = cache_folder("qemu") / f"count-{hashlib.sha256(text).hexdigest()[:16]}.so"
        if not plugin.exists():
            made = compiler.compile("count.c", cwd=work, flags=("-fPIC",))
            compiler.link([made], "count", cwd=work, flags=("-shared", "-Wl,-z,undefs"))
            publish(work / "count", plugin)
    return plugin
