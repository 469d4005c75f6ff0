"""Diagnosis: which tools are here, what a missing one would add, how to get it."""

import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from edgerl.errors import ToolError
from edgerl.targets.model import Core, cores
from edgerl.toolchain.build import find
from edgerl.toolchain.emulators.qemu import PACKAGES


@dataclass(frozen=True)
class Tool:
    """One row of `edgerl doctor`."""

    name: str
    found: bool
    version: str
    adds: str
    install: str


_PACKAGES = (
    ("ziglang", "cross compiler and host compiler", "pip install 'edgerl[emu]'"),
    ("unicorn", "emulated cores: counting and checking", "pip install 'edgerl[emu]'"),
    ("capstone", "instruction counts, cycle model, call graph", "pip install 'edgerl[emu]'"),
    ("foundation-policy", "the published RAPTOR policy", "pip install 'edgerl[raptor]'"),
    ("safetensors", "reading .safetensors files", "pip install 'edgerl[import]'"),
    ("h5py", "reading RLtools checkpoints, RAPTOR among them", "pip install 'edgerl[import]'"),
    ("torch", "policies from torch.nn.Module; files are read without", "pip install torch"),
)


def diagnose() -> list[Tool]:
    """Every tool that edgerl can use, found or not."""
    rows = [_package(*row) for row in _PACKAGES]
    rows += [_compiler(served[0], served) for served in _served_by("gcc_prefix")]
    rows += [_emulator(served[0].qemu, served) for served in _served_by("qemu")]
    return rows


def _package(name: str, adds: str, install: str) -> Tool:
    try:
        return Tool(name, True, version(name), adds, install)
    except PackageNotFoundError:
        return Tool(name, False, "", adds, install)


def _served_by(tool: Literal["gcc_prefix", "qemu"]) -> list[list[Core]]:
    """Cores that share a compiler or an emulator, for each of those that there are."""
    served: dict[str, list[Core]] = {}
    for core in cores().values():
        served.setdefault(getattr(core, tool), []).append(core)
    served.pop("", None)
    return list(served.values())


def _names(served: list[Core]) -> str:
    return ", ".join(core.name for core in served)


def _compiler(core: Core, served: list[Core]) -> Tool:
    name, adds = f"{core.gcc_prefix}gcc", f"a second compiler to cross-check {_names(served)}"
    try:
        return Tool(name, True, find("gcc", core).version, adds, "")
    except ToolError as error:
        return Tool(name, False, "", adds, str(error).rpartition(": ")[2])


def _emulator(name: str, served: list[Core]) -> Tool:
    path = shutil.which(name)
    second = [core for core in served if core.emulator != "qemu"]
    only = [core for core in served if core.emulator == "qemu"]
    adds = f"a second emulator to cross-check {_names(second)}"
    adds += f"; the only one of {_names(only)}" if only else ""
    install = "" if path else f"apt-get install {PACKAGES[name]}"
    return Tool(name, path is not None, path or "", adds, install)
