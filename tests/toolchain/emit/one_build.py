"""Many emitted packages in one build: one library of this machine, one image of a core.

A compiler call costs more than a small package, so tests that need hundreds of packages put
them into one program, each under a name of its own.
"""

import ctypes
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from edgerl.policies import Policy, PolicySpec, Signal, StateSignal
from edgerl.targets import Target, target
from edgerl.toolchain import ir
from edgerl.toolchain.build import Compiler, Image, Mode, Run, cache_folder, find
from edgerl.toolchain.build.architectures import architecture_of
from edgerl.toolchain.build.image import read_binary
from edgerl.toolchain.build.process import run
from edgerl.toolchain.build.rendering import render
from edgerl.toolchain.emit import Golden, Package, emit
from edgerl.toolchain.emulators import UnicornCore

ASSEMBLY = "cortex_m_fpu"
BOARD = target("cortex-m4f")
HOST = target("host")
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=StrictUndefined,
    keep_trailing_newline=True,
    trim_blocks=True,
)
_TIMEOUT_S = 300.0
_LAYOUT = "edgerl-image.ld"


def policy_of(program: ir.Program, **changes: object) -> Policy:
    """A policy that has the program's signals, in +-8, and no graph."""
    rows = {
        "name": program.name,
        "observation": (
            Signal(name="seen", size=program.size(program.observation), range=(-8.0, 8.0)),
        ),
        "action": (Signal(name="done", size=program.size(program.action), range=(-8.0, 8.0)),),
        "state": tuple(
            StateSignal(name=f"s{k}", size=program.size(before))
            for k, (before, _) in enumerate(program.states)
        ),
        **changes,
    }
    return Policy(onnx.ModelProto(), PolicySpec.model_validate(rows))


def package(
    program: ir.Program,
    name: str,
    *,
    fused: bool,
    assembly: str = ASSEMBLY,
    golden: Golden | None = None,
    **spec: object,
) -> Package:
    """`program` emitted under `name`; `spec` are changes to `policy_of`."""
    named = replace(program, name=name)
    policy = policy_of(named, **{**spec, "name": name})
    return emit(policy, named, fused=fused, assembly=assembly, golden=golden)


class HostProgram:
    """One package of a library of this machine."""

    def __init__(self, library: ctypes.CDLL, made: Package) -> None:
        self._library = library
        self._name = made.name
        self.observation_size = made.plan.observation_size
        self.action_size = made.plan.action_size
        self.state_bytes = int(library[f"{made.name}_state_size"]())

    def trace(self, observations: np.ndarray, resets: np.ndarray, mode: Mode = "step") -> Run:
        """T steps from reset, as `HostTwin.trace`."""
        obs = np.ascontiguousarray(observations, np.float32)
        marks = np.ascontiguousarray(resets, np.uint8)
        assert obs.shape == (len(marks), self.observation_size)
        state = np.zeros(self.state_bytes, np.uint8)
        actions = np.zeros((len(obs), self.action_size), np.float32)
        status = np.zeros(len(obs), np.uint32)
        states = np.zeros((len(obs), self.state_bytes), np.uint8)
        self._library[f"{self._name}_reset"](_at(state))
        self._library[f"{self._name}_trace"](
            _at(state),
            ctypes.c_uint(len(obs)),
            _at(obs),
            _at(marks),
            ctypes.c_int(mode == "step"),
            _at(actions),
            _at(status),
            _at(states),
        )
        return Run(actions, status, states)

    def self_test(self) -> int:
        return int(self._library[f"{self._name}_self_test"]())


def _at(values: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(values.ctypes.data)


def _write(packages: Iterable[Package], folder: Path) -> list[str]:
    """Write each package with its trace function; the names of the C files."""
    sources = []
    for made in packages:
        files = dict(made.files)
        for kind in ("c", "h"):
            trace = _TEMPLATES.get_template(f"trace.{kind}.j2")
            files[f"{made.name}_trace.{kind}"] = trace.render(
                name=made.name, NAME=made.name.upper()
            )
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
        sources += [f"{made.name}.c", f"{made.name}_trace.c"]
    return sources


def compile_with(compiler: Compiler, arguments: Sequence[str], folder: Path) -> None:
    """Call the compiler once, with its core and language flags (those of C99 unless the
    arguments ask for C++). Raises ToolError."""
    ours = [flag for flag in compiler.flags if flag != "-std=c99" or "c++" not in arguments]
    run(
        [*compiler.command, *compiler.core_flags, *ours, *arguments],
        cwd=folder,
        timeout_s=_TIMEOUT_S,
        environment=zig_caches(folder),
    )


def zig_caches(folder: Path) -> dict[str, str]:
    """Environment that keeps zig's caches out of the user's own."""
    return {
        "ZIG_LOCAL_CACHE_DIR": str(folder / "zig-cache"),
        "ZIG_GLOBAL_CACHE_DIR": str(cache_folder("zig")),
    }


def on_host(
    packages: Sequence[Package], folder: Path, family: str = "zig", flags: Sequence[str] = ()
) -> dict[str, HostProgram]:
    """The packages' portable C as one library, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    compiler = find(family, HOST.core)
    position = () if os.name == "nt" else ("-fPIC",)
    portable = [f"-D{made.name.upper()}_PORTABLE" for made in packages]
    sources = _write(packages, folder)
    output = f"together-{os.getpid()}-{abs(hash(folder))}.so"
    arguments = [*flags, *position, *portable, "-shared", *sources, *compiler.libraries]
    compile_with(compiler, [*arguments, "-o", output], folder)
    library = ctypes.CDLL(str(folder / output))
    return {made.name: HostProgram(library, made) for made in packages}


@dataclass(frozen=True)
class CoreImage:
    """One image with many packages. `core(name)` runs one of them."""

    image: Image
    board: Target
    packages: dict[str, Package]

    def core(self, name: str) -> UnicornCore:
        """An emulated core that sees the package `name` as the only one."""
        made = self.packages[name]
        image = replace(self.image, name=name)
        sizes = {
            "state": made.state_bytes or 1,
            "observation": 4 * made.plan.observation_size,
            "reply": 4 * made.plan.action_size + 4,
        }
        seen = dict(self.image.symbols)
        seen["edgerl_rig_trace"] = seen[f"{name}_trace"]
        for what, size in sizes.items():
            symbol = f"edgerl_rig_{what}"
            seen[symbol] = replace(seen[symbol], size=size)
        vars(image)["symbols"] = seen
        return UnicornCore(image, self.board)


def on_core(
    packages: Sequence[Package],
    folder: Path,
    family: str = "zig",
    flags: Sequence[str] = (),
    portable: Iterable[str] = (),
    board: Target = BOARD,
) -> CoreImage:
    """The packages as one image of `board`; those named in `portable` without assembly."""
    assert board.flash is not None
    assert board.ram is not None
    folder.mkdir(parents=True, exist_ok=True)
    compiler = find(family, board.core)
    sources = _write(packages, folder)
    values = {
        "name": packages[0].name,
        "fpu": board.core.fpu,
        "mve": board.core.mve,
        "flash_base": board.flash.base,
        "flash_room": board.flash.size,
        "ram_base": board.ram.base,
        "ram_room": board.ram.size,
        "stack_top": board.ram.base + board.ram.size,
    }
    startup = f"edgerl-startup-{board.core.architecture}.S"
    render(folder, [startup, _LAYOUT], values)
    names = [made.name for made in packages]
    (folder / "main.c").write_text(_TEMPLATES.get_template("main.c.j2").render(names=names))
    kernels = [name for made in packages for name in made.files if name.endswith(".S")]
    twins = [f"-D{name.upper()}_PORTABLE" for name in portable]
    link = [
        f"-Wl,-T,{_LAYOUT}",
        f"-Wl,-e,{architecture_of(board.core.architecture).entry}",
        "-Wl,--build-id=none",
    ]
    # Optimising for size, zig strips what it links unless told to keep it.
    # Whatever language the flags give the C files, the assembly keeps its own.
    assembler = ["-x", "assembler-with-cpp", *kernels, startup, "-x", "none"]
    kept = ["-g"] if {"-Os", "-Oz"} & set(flags) else []
    compile_with(
        compiler,
        [*flags, *kept, *twins, *sources, "main.c", *assembler, *compiler.link_flags,
         *link, *compiler.libraries, "-o", "together.elf"],
        folder,
    )  # fmt: skip
    elf = folder / "together.elf"
    image = Image(
        name=packages[0].name,
        elf=elf,
        bin=elf,
        family=family,
        compiler=compiler.version,
        flags=(),
        binary=read_binary(elf),
        objects=(),
        frames={},
        architecture=board.core.architecture,
    )
    return CoreImage(image, board, {made.name: made for made in packages})
