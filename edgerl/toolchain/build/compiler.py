"""Compilers: which there are, what each is told, how it is called.

A compiler is a row of `FAMILIES`: where its command is found for a core, how its version
reads, which flags it needs beyond those that all share. A new compiler is a new row.
"""

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgerl.errors import ToolError
from edgerl.targets.model import Core
from edgerl.toolchain.build.process import run

WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror")

# The language of the C contract: C99, no contraction. Sections per symbol let the linker drop
# what is not called, and let the footprint be read per symbol. Without -fno-math-errno clang
# calls fmaf where the core has the instruction.
LANGUAGE = (
    "-std=c99",
    "-O2",
    "-g0",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-ffunction-sections",
    "-fdata-sections",
    "-fomit-frame-pointer",
    "-fno-unwind-tables",
    "-fno-asynchronous-unwind-tables",
    "-fstack-usage",
)
_COMPILE_TIMEOUT_S = 300.0
_VERSION_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Compiler:
    """A compiler, ready for one core.

    `command` is the start of every call, `core_flags` name the core, `flags` are all compile
    flags that every source gets (optimisation `-O2`; later flags override).
    """

    name: str
    version: str
    command: tuple[str, ...]
    core_flags: tuple[str, ...]
    flags: tuple[str, ...]
    link_flags: tuple[str, ...]
    libraries: tuple[str, ...]

    def compile(self, source: str, *, cwd: Path, flags: Sequence[str] = ()) -> str:
        """Compile `source` (a name relative to `cwd`) and return the object's name.

        Names are relative so that no path of this machine reaches the output. Raises ToolError
        with the compiler's first error line.
        """
        target = f"{source}.o"
        self._call([*self.core_flags, *self.flags, *flags, "-c", source, "-o", target], cwd)
        return target

    def compile_all(
        self, sources: Sequence[str], *, cwd: Path, flags: Sequence[str] = ()
    ) -> list[str]:
        """`compile` of each source, as many at once as there are processors; the objects' names
        in the order of the sources. Raises ToolError for the first source that fails."""
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as workers:
            return list(workers.map(lambda s: self.compile(s, cwd=cwd, flags=flags), sources))

    def link(
        self, objects: Sequence[str], output: str, *, cwd: Path, flags: Sequence[str] = ()
    ) -> None:
        """Link `objects` to `output`, all names relative to `cwd`. Raises ToolError."""
        self._call(
            [*self.core_flags, *self.link_flags, *flags, *objects, *self.libraries, "-o", output],
            cwd,
        )

    def _call(self, arguments: Sequence[str], cwd: Path) -> None:
        # zig's local cache goes with the build: it would only ever grow, and the stack-usage
        # files that it leaves there are wanted. What is worth keeping is in the global one.
        environment = {
            "ZIG_LOCAL_CACHE_DIR": str(cwd.absolute() / "zig-cache"),
            "ZIG_GLOBAL_CACHE_DIR": str(cache_folder("zig")),
        }
        try:
            run(
                [*self.command, *arguments],
                cwd=cwd,
                timeout_s=_COMPILE_TIMEOUT_S,
                environment=environment,
            )
        except ToolError as error:
            _, _, reason = str(error).partition(": ")
            raise ToolError(f"{self.version} failed: {reason}") from error


def cache_folder(name: str) -> Path:
    """The folder `name` in edgerl's cache, made if need be.

    The cache is `EDGERL_CACHE` if set, else edgerl's folder in the user's cache folder. Raises
    ToolError when it cannot be made.
    """
    if chosen := os.environ.get("EDGERL_CACHE"):
        root = Path(chosen).absolute()
    elif os.name == "nt":
        root = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "edgerl"
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches" / "edgerl"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgerl"
    folder = root / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToolError(
            f"cache folder {folder}: {error.strerror}; set EDGERL_CACHE to a folder with room"
        ) from error
    return folder


@dataclass(frozen=True)
class Family:
    """One compiler on every core: how to find it, what to tell it."""

    locate: Callable[[Core], tuple[str, ...] | None]
    install: Callable[[Core], str]
    version: Callable[[tuple[str, ...]], str]
    core_flags: Callable[[Core], tuple[str, ...]]
    link_flags: Callable[[Core], tuple[str, ...]]
    libraries: Callable[[Core], tuple[str, ...]]
    flags: tuple[str, ...] = ()


def _zig_command(core: Core) -> tuple[str, ...] | None:
    found = importlib.util.find_spec("ziglang") is not None
    return (sys.executable, "-m", "ziglang", "cc") if found else None


def _zig_link_flags(core: Core) -> tuple[str, ...]:
    """Spare zig its own run-time library, which takes seconds to build at first use, where
    nothing needs it: soft-float cores do, and libraries on Windows and macOS."""
    spare = sys.platform == "linux" if _native(core) else core.fpu
    return ("-nostdlib",) if spare else ()


@cache
def _zig_version(command: tuple[str, ...]) -> str:
    zig = _ask([*command[:-1], "version"])
    clang = _ask([*command, "--version"]).split("version", 1)[-1].split()[0]
    return f"zig {zig.strip()} (clang {clang})"


def _gcc_command(core: Core) -> tuple[str, ...] | None:
    names = (f"{core.gcc_prefix}gcc",) if core.gcc_prefix else ("gcc", "cc")
    path = next((found for name in names if (found := shutil.which(name))), None)
    return (path,) if path else None


def _gcc_package(core: Core) -> str:
    return "-".join(["gcc", *filter(None, core.gcc_prefix.replace("_", "-").split("-"))])


@cache
def _gcc_version(command: tuple[str, ...]) -> str:
    version = _ask([*command, "-dumpfullversion", "-dumpversion"]).strip()
    return f"{Path(command[0]).stem} {version}"


def _native(core: Core) -> bool:
    return core.architecture == "native"


def _ask(argv: Sequence[str]) -> str:
    return run(argv, cwd=Path.cwd(), timeout_s=_VERSION_TIMEOUT_S)


FAMILIES: dict[str, Family] = {
    "zig": Family(
        locate=_zig_command,
        install=lambda core: "pip install 'edgerl[emu]'",
        version=_zig_version,
        core_flags=lambda core: core.zig,
        link_flags=_zig_link_flags,
        libraries=lambda core: ("-lc", "-lm") if _native(core) else (),
        flags=("-fno-sanitize=all",),
    ),
    "gcc": Family(
        locate=_gcc_command,
        install=lambda core: f"apt-get install {_gcc_package(core)}",
        version=_gcc_version,
        core_flags=lambda core: core.gcc or ("-march=native",),
        link_flags=lambda core: () if _native(core) else ("-nostdlib",),
        libraries=lambda core: ("-lm",) if _native(core) else ("-lgcc",),
        # Without it gcc turns loops into calls of memset and memcpy, freestanding or not.
        flags=("-fno-tree-loop-distribute-patterns",),
    ),
}


def find(name: str, core: Core) -> Compiler:
    """The compiler called `name` for `core`.

    Raises ToolError, with the command that installs it, when it is missing, unknown, or not
    told how to compile for that core.
    """
    family = FAMILIES.get(name)
    if family is None:
        raise ToolError(f"unknown compiler {name[:40]!r}; known: {', '.join(FAMILIES)}")
    if not _native(core) and not family.core_flags(core):
        raise ToolError(f"compiler {name} has no flags for core {core.name}; choose another")
    command = family.locate(core)
    if command is None:
        raise ToolError(f"compiler {name} for {core.name} is not installed: {family.install(core)}")
    freestanding = () if _native(core) else ("-ffreestanding",)
    return Compiler(
        name=name,
        version=family.version(command),
        command=command,
        core_flags=family.core_flags(core),
        flags=(*LANGUAGE, *freestanding, *family.flags, *WARNINGS),
        link_flags=family.link_flags(core),
        libraries=family.libraries(core),
    )
