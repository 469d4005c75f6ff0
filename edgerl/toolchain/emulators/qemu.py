"""The image in QEMU: its own main loop, its requests and replies, and a counting plugin.

QEMU is the second opinion, and the only one on cores that unicorn has no model of: another
emulator, a model of the whole microcontroller, started from the image's entry point as a debugger
would; for a program of Linux, of its processor.
"""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgerl.errors import ToolError
from edgerl.targets.model import Core, Target, target
from edgerl.toolchain.build.architectures import architecture_of
from edgerl.toolchain.build.compiler import cache_folder, find
from edgerl.toolchain.build.disassembly import disassemble
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
from edgerl.toolchain.emulators.runner import Path as Blocks

# What installs each of QEMU's programs.
PACKAGES = {
    "qemu-system-arm": "qemu-system-arm",
    "qemu-system-riscv32": "qemu-system-misc",
    "qemu-aarch64": "qemu-user",
    "qemu-x86_64": "qemu-user",
}
_ELF, _REQUESTS, _REPLIES = "firmware.elf", "rig-in", "rig-out"
_COUNTS, _PATHS = "counts", "paths"
_ENTERED = np.dtype([("address", "<u8"), ("size", "<u4"), ("instructions", "<u4")])


@dataclass(frozen=True)
class _Counted:
    """What the plugin found: instructions [T] and stack depths [T] of each call, and, where they
    were asked for, the blocks of all calls, each call ended by one of zeros."""

    instructions: Counts
    depths: Counts
    blocks: npt.NDArray[np.void]


class QemuCore:
    """The image on the QEMU machine of `target`, or its program in QEMU's Linux. An EmulatedCore;
    states stay inside the machine.

    Every run of QEMU is bounded by `timeout_s`. Raises ToolError when QEMU is missing or has no
    machine for the target.
    """

    def __init__(self, image: Image, target: Target, *, timeout_s: float = 120.0) -> None:
        self.image = image
        self.target = target
        self.timeout_s = timeout_s
        self._linux = target.core.hosting == "linux"
        if not (target.qemu_machine or self._linux):
            other = "; use unicorn" if target.core.unicorn else ""
            raise ToolError(f"QEMU has no machine for {target.name}{other}")
        self._program = require_qemu(target.core)

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
        with _workplace() as work:
            return self._replies(work, requests, ())

    def count(self, observations: Floats, mode: Mode = "evaluate") -> Counts:
        """Instructions [T] of each call of `NAME_evaluate` (or `NAME_step`) on observations
        [T, n], from reset.

        Counted by a plugin that is compiled at first use, from the function's entry up to and
        with its return, as `counting.count` does.
        """
        return self._counted(observations, mode).instructions

    def paths(self, observations: Floats, mode: Mode) -> Iterator[Blocks]:
        """The blocks that each call enters, on observations [T, n], from reset."""
        found = self._counted(observations, mode, paths=True).blocks
        ends = np.flatnonzero(found["instructions"] == 0)
        block = cache(self._block)
        for path in np.split(found, ends + 1)[: len(ends)]:
            yield [block(*entered) for entered in path[:-1].tolist()]

    def _block(self, address: int, size: int, instructions: int) -> tuple[int, int]:
        """A block as its instructions say: to Thumb's last one QEMU 7 adds what it has seen of
        the next one, to know whether that reaches into the next page."""
        code, architecture = self.image.read(address, size), self.image.architecture
        return address, sum(i.size for i in disassemble(code, address, architecture, instructions))

    def stack_used(self, observations: Floats, mode: Mode = "step") -> int:
        """Most bytes of stack that one call wrote to on observations [T, n], its return address
        included where a call puts it there."""
        deepest = int(self._counted(observations, mode).depths.max())
        return deepest + architecture_of(self.image.architecture).return_bytes

    def _counted(self, observations: Floats, mode: Mode, *, paths: bool = False) -> _Counted:
        """What the plugin says of each call."""
        rows = self._rows(observations)
        image = self.image
        with _workplace() as work:
            shutil.copyfile(_plugin(), work / "count.so")
            told = {
                "after": f"{image.address(f'edgerl_rig_{mode}'):#x}",
                "until": f"{image.address(f'edgerl_rig_{mode}_return'):#x}",
                "stack": f"{image.address('edgerl_rig_stack_limit'):#x}",
                "out": _COUNTS,
                **({"path": _PATHS} if paths else {}),
            }
            options = ",".join(["./count.so", *(f"{key}={value}" for key, value in told.items())])
            requests = trace_requests(rows, np.zeros(len(rows), bool), mode)
            self._replies(work, requests, ("-plugin", options))
            found = np.array((work / _COUNTS).read_text().split(), np.int64).reshape(-1, 2)
            blocks = np.fromfile(work / _PATHS, _ENTERED) if paths else np.empty(0, _ENTERED)
        if len(found) != len(rows):
            raise ToolError(f"{self.name}: {len(found)} of {len(rows)} calls were counted")
        return _Counted(found[:, 0], found[:, 1], blocks)

    def _rows(self, observations: Floats) -> Floats:
        return rows_of(observations, self.image.signal_sizes[0])

    def _replies(self, work: Path, requests: bytes, options: tuple[str, ...]) -> bytes:
        """Replies of the main loop, run in the folder `work`."""
        # Relative names: QEMU splits its options at commas, and a path may hold some.
        shutil.copyfile(self.image.elf, work / _ELF)
        (work / _REQUESTS).write_bytes(requests)
        try:
            self._start([self._program, *self.target.core.qemu_options, *options], work)
        except ProgramFailed as error:
            where = f"{self.name} on {self.target.qemu_machine or 'Linux'}"
            if error.code in EXIT_CODES:
                raise ToolError(f"{where}: {EXIT_CODES[error.code]}") from error
            raise ToolError(f"{where}: {error}") from error
        return (work / _REPLIES).read_bytes()

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


@contextmanager
def _workplace() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="edgerl-qemu-") as folder:
        yield Path(folder)


def require_qemu(core: Core, why: str = "") -> str:
    """The path of the QEMU for `core`; ToolError, beginning with `why`, where it is missing."""
    path = shutil.which(core.qemu) if core.qemu else None
    if path is None:
        package = PACKAGES.get(core.qemu, "qemu-system")
        missing = f"{core.qemu or 'QEMU'} is not installed: apt-get install {package}"
        raise ToolError(f"{why}; {missing}" if why else missing)
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
