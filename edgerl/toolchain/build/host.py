"""The host twin: a package's portable C as a shared library of this machine."""

import ctypes
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgerl.errors import ToolError
from edgerl.targets.model import target
from edgerl.toolchain.build.compiler import Compiler, find
from edgerl.toolchain.build.rendering import package_sources, publish, render
from edgerl.toolchain.build.run import Bytes, Flags, Floats, Mode, Run, marks_of, rows_of

_SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")


class HostTwin:
    """The portable twin of a package, loaded. A BatchRunner.

    `library` is its shared library, `compiler` the version that built it.
    """

    name = "host"

    def __init__(self, library: Path, compiler: str) -> None:
        self.library = library
        self.compiler = compiler
        try:
            self._library = ctypes.CDLL(str(library.absolute()))
        except OSError as error:
            raise ToolError(f"{library.name} cannot be loaded: {error}") from error
        self.state_bytes = int(self._library.edgerl_host_state_bytes())
        self.observation_size = int(self._library.edgerl_host_observation_size())
        self.action_size = int(self._library.edgerl_host_action_size())

    def self_test(self) -> int:
        """The status of the compiled-in self test; 0 is good."""
        self._library.edgerl_host_self_test.restype = ctypes.c_uint
        return int(self._library.edgerl_host_self_test())

    def reset_states(self, count: int) -> Bytes:
        """States [count, state_bytes] of freshly reset controllers."""
        state = np.zeros(self.state_bytes, np.uint8)
        self._library.edgerl_host_reset(_at(state))
        return np.tile(state, (count, 1))

    def trace(self, observations: Floats, resets: Flags, mode: Mode = "step") -> Run:
        """One controller through T steps, from reset: observations [T, n], resets [T]."""
        obs = rows_of(observations, self.observation_size)
        marks = marks_of(resets, len(obs))
        state = self.reset_states(1)
        run = self._empty(len(obs))
        assert run.states is not None
        self._library.edgerl_host_trace(
            _at(state),
            ctypes.c_uint(len(obs)),
            _at(obs),
            _at(marks),
            ctypes.c_int(mode == "step"),
            _at(run.actions),
            _at(run.status),
            _at(run.states),
        )
        return run

    def many(self, states: Bytes, observations: Floats, mode: Mode = "step") -> Run:
        """One step of each of N controllers: states [N, state_bytes], observations [N, n]."""
        obs = rows_of(observations, self.observation_size)
        run = self._empty(len(obs))
        assert run.states is not None
        run.states[:] = states
        self._library.edgerl_host_many(
            _at(run.states),
            ctypes.c_uint(len(obs)),
            _at(obs),
            ctypes.c_int(mode == "step"),
            _at(run.actions),
            _at(run.status),
        )
        return run

    def _empty(self, rows: int) -> Run:
        return Run(
            actions=np.zeros((rows, self.action_size), np.float32),
            status=np.zeros(rows, np.uint32),
            states=np.zeros((rows, self.state_bytes), np.uint8),
        )


def build_host(
    package_dir: Path,
    name: str,
    out_dir: Path,
    compiler: Compiler | None = None,
    *,
    flags: Sequence[str] = (),
) -> HostTwin:
    """Build the portable twin of the package `name` and load it.

    `compiler` is zig for this machine unless one is given. The library goes to `out_dir`, named
    by its content, since a process never loads a second library under one name. Raises
    UserError when the package is incomplete, ToolError when the compiler is missing or fails.
    """
    compiler = compiler or find("zig", target("host").core)
    position = () if os.name == "nt" else ("-fPIC",)
    package_flags = (f"-D{name.upper()}_PORTABLE", *position, *flags)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="edgerl-build-") as scratch:
            work = Path(scratch)
            for source in package_sources(package_dir, name):
                shutil.copyfile(source, work / source.name)
            harness = ("edgerl-batch.c", "edgerl-host.c")
            render(work, (*harness, "edgerl-batch.h"), {"name": name, "NAME": name.upper()})
            sources = (f"{name}.c", *harness)
            objects = compiler.compile_all(sources, cwd=work, flags=package_flags)
            compiler.link(objects, "twin", cwd=work, flags=("-shared",))
            made = work / "twin"
            digest = hashlib.sha256(made.read_bytes()).hexdigest()[:16]
            library = out_dir / f"{name}-{digest}{_SUFFIX}"
            publish(made, library)
    except OSError as error:
        raise ToolError(f"build of {name} for the host: {error.strerror}") from error
    return HostTwin(library, compiler.version)


def _at(values: npt.NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(values.ctypes.data)
