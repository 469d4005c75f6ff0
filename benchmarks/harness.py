"""What another tool generated, linked like an edgerl package and run on the same emulated core.

The tool's source takes the place of a package's C file. Start-up code, rig, linker script,
counter and stack painting are those of edgerl; only libm comes from elsewhere, as these tools
need one: arm gcc's newlib, whoever compiled.
"""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.networks import Network
from benchmarks.peers import Generated
from edgerl.errors import ToolError
from edgerl.policies.policy import Floats
from edgerl.targets import Target
from edgerl.toolchain.build import Compiler, Image, build_firmware, find
from edgerl.toolchain.build.process import run
from edgerl.toolchain.build.rendering import render
from edgerl.toolchain.emulators import UnicornCore

FLAGS = (
    "-std=gnu11",
    "-g0",
    "-w",
    "-fno-math-errno",
    "-ffunction-sections",
    "-fdata-sections",
    "-fomit-frame-pointer",
    "-fno-unwind-tables",
    "-fno-asynchronous-unwind-tables",
)
LINK_FLAGS = ("-nostartfiles", "--specs=nosys.specs")
LIBRARIES = ("-lm", "-lc", "-lgcc")
LEVELS = ("-O2", "-O3")
_OWN_FLAGS = {"zig": ("-fno-sanitize=all",), "gcc": ()}
FAMILIES = tuple(_OWN_FLAGS)
_EMPTY = Generated("", "", ())


@dataclass(frozen=True)
class NewlibCompiler(Compiler):
    """A compiler whose objects `linker` links, with newlib."""

    linker: Compiler

    def link(
        self, objects: Sequence[str], output: str, *, cwd: Path, flags: Sequence[str] = ()
    ) -> None:
        """Link `objects` to `output` as `linker` does."""
        self.linker.link(objects, output, cwd=cwd, flags=flags)


@dataclass(frozen=True)
class Build:
    """An image with a peer's network and, by difference to the same image without it, what the
    network and the libraries that it needs take of flash and static RAM, in bytes."""

    image: Image
    flash_bytes: int
    static_ram_bytes: int
    compiler: str
    flags: tuple[str, ...]


class PeerCore(UnicornCore):
    """An emulated core on which a peer's function answers for the package's `_evaluate`.

    `actions` are what it answered so far, in order.
    """

    def __init__(self, image: Image, target: Target, generated: Generated) -> None:
        super().__init__(_renamed(image, generated.symbol), target)
        self._generated = generated
        self.actions: list[Floats] = []

    def call(self, symbol: str, *arguments: int) -> int:
        """Call a function of the image; `_evaluate` is the peer's own, with its arguments."""
        if symbol != f"{self.image.name}_evaluate":
            return super().call(symbol, *arguments)
        state, observation, action = arguments
        following = self.image.address(f"{self.image.name}_next_state")
        places = {"state": state, "observation": observation, "action": action, "next": following}
        words = [places[a] if isinstance(a, str) else a for a in self._generated.arguments]
        result = super().call(self._generated.symbol, *words)
        self.write(state, self.read(following, self.state_bytes))
        answer = self.read(action, 4 * self.action_size)
        self.actions.append(np.frombuffer(answer, np.float32))
        return result


def _renamed(image: Image, symbol: str) -> Image:
    """The image with the peer's function under the name of the contract's `_evaluate`, where
    counters look for it."""
    name = f"{image.name}_evaluate"
    own = replace(image.symbols[symbol], name=name)
    others = (s for s in image.binary.symbols if s.name != name)
    return replace(image, binary=replace(image.binary, symbols=(own, *others)))


def build(network: Network, generated: Generated, target: Target, family: str, level: str) -> Build:
    """Build `generated` with one compiler at one level of optimisation.

    Raises ToolError when a compiler is missing or fails.
    """
    full = _link(network, generated, target, family, level)
    empty = _link(network, _EMPTY, target, family, level)
    return Build(
        image=full,
        flash_bytes=_flash(full) - _flash(empty),
        static_ram_bytes=_ram(full) - _ram(empty),
        compiler=full.compiler,
        flags=full.flags,
    )


def _flash(image: Image) -> int:
    return sum(s.size for s in image.binary.sections if s.loaded)


def _ram(image: Image) -> int:
    return sum(s.size for s in image.binary.sections if s.writable)


def _link(network: Network, generated: Generated, target: Target, family: str, level: str) -> Image:
    spec = network.policy.spec
    values = {
        "name": spec.name,
        "source": generated.source,
        "observation_size": spec.observation_size,
        "action_size": spec.action_size,
        "state_size": spec.state_size,
    }
    compiler = _compiler(target, family, level, generated.symbol)
    headers = [_newlib(target) / "include"] if family != "gcc" else []
    headers += [generated.include] if generated.include else []
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "package"
        package.mkdir()
        render(package, ("peer.c", "peer.h"), values, room="benchmarks")
        for made in ("peer.c", "peer.h"):
            (package / made).rename(package / made.replace("peer", spec.name))
        image = build_firmware(
            package,
            spec.name,
            target,
            compiler,
            Path(scratch) / "out",
            build_id="0" * 64,
            flags=[part for folder in headers for part in ("-isystem", str(folder))],
        )
        return replace(image, flags=(*compiler.core_flags, *compiler.flags))


def _compiler(target: Target, family: str, level: str, symbol: str) -> Compiler:
    gcc = find("gcc", target.core)
    chosen = find(family, target.core)
    keep = (f"-Wl,-u,{symbol}",) if symbol else ()
    linker = replace(gcc, link_flags=(*LINK_FLAGS, *keep), libraries=LIBRARIES)
    return NewlibCompiler(
        **{**vars(chosen), "flags": (level, *FLAGS, *_OWN_FLAGS[family])}, linker=linker
    )


@cache
def _newlib(target: Target) -> Path:
    """newlib's folder, which has `include` and `lib`."""
    command = find("gcc", target.core).command
    found = run([*command, "-print-file-name=libm.a"], cwd=Path.cwd(), timeout_s=60.0)
    folder = Path(found.strip()).resolve().parents[1]
    if not (folder / "include" / "math.h").is_file():
        raise ToolError(
            "newlib for arm gcc is not installed: apt-get install libnewlib-arm-none-eabi"
        )
    return folder


def newlib_version(target: Target) -> str:
    """newlib's version, read from its header."""
    header = (_newlib(target) / "include" / "_newlib_version.h").read_text()
    found = re.search(r'_NEWLIB_VERSION "(.+)"', header)
    return found[1] if found else "unknown"
