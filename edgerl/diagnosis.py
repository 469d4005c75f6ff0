"""Diagnosis: which tools are here, what a missing one would add, how to get it."""

import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from edgerl.errors import ToolError
from edgerl.targets import targets
from edgerl.toolchain.build import find


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
    ("torch", "training and torch importers", "pip install 'edgerl[train]'"),
)
_PROGRAMS = (
    ("qemu-system-arm", "a second emulator to cross-check", "apt-get install qemu-system-arm"),
)


def diagnose() -> list[Tool]:
    """Every tool that edgerl can use, found or not."""
    rows = [_package(*row) for row in _PACKAGES]
    rows += [_compiler(prefix) for prefix in _prefixes()]
    rows += [
        Tool(name, path is not None, path or "", adds, install)
        for name, adds, install in _PROGRAMS
        for path in (shutil.which(name),)
    ]
    return rows


def _package(name: str, adds: str, install: str) -> Tool:
    try:
        return Tool(name, True, version(name), adds, install)
    except PackageNotFoundError:
        return Tool(name, False, "", adds, install)


def _prefixes() -> list[str]:
    """One target for each gcc that some core uses."""
    seen = {t.core.gcc_prefix: t.name for t in targets().values() if t.core.gcc_prefix}
    return list(seen.values())


def _compiler(target: str) -> Tool:
    core = targets()[target].core
    name, adds = f"{core.gcc_prefix}gcc", "a second compiler to cross-check"
    try:
        return Tool(name, True, find("gcc", core).version, adds, "")
    except ToolError as error:
        return Tool(name, False, "", adds, str(error).rpartition(": ")[2])
