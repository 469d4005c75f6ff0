"""Target: where a policy runs, as data.

A core says what arithmetic there is and how it is compiled and emulated; a board is a core
with memories and an application region. Both are rows of the TOML files beside this module.
"""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from edgerl.errors import UserError


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Region(_Row):
    """A span of memory: first address and length in bytes."""

    base: int = Field(ge=0, lt=1 << 32)
    size: int = Field(gt=0)


class Core(_Row):
    """A processor core: its arithmetic, its compiler flags, its emulators.

    `kernels` names the assembly family written for it, or is empty where only portable C
    exists; `cycles` names the published timing table that models it, or is empty.
    """

    name: str
    about: str
    architecture: Literal["native", "arm"]
    fpu: bool
    fma: bool
    kernels: str = ""
    cycles: str = ""
    zig: tuple[str, ...] = ()
    gcc: tuple[str, ...] = ()
    gcc_prefix: str = ""
    unicorn: str = ""
    qemu: str = ""


class Target(_Row):
    """A board (or bare core): one row that the whole toolchain reads.

    `application` is the flash an image may occupy: what lies outside it (a bootloader) is
    never written. `verified_by` says how far an emulator can vouch for it.
    """

    name: str
    about: str
    core: Core
    clock_hz: int = 0
    flash: Region | None = None
    application: Region | None = None
    ram: Region | None = None
    qemu_machine: str = ""
    verified_by: Literal["same-binary", "relinked-stand-in", "host-only"]

    @property
    def native(self) -> bool:
        """True where the artifact runs on this very machine."""
        return self.core.architecture == "native"


@cache
def targets() -> dict[str, Target]:
    """Every known target by name."""
    folder = files("edgerl.targets")
    cores = {
        row["name"]: Core.model_validate(row)
        for row in tomllib.loads((folder / "cores.toml").read_text())["core"]
    }
    boards = tomllib.loads((folder / "boards.toml").read_text())["board"]
    return {
        row["name"]: Target.model_validate({**row, "core": cores[row["core"]]}) for row in boards
    }


def target(name: str) -> Target:
    """The target called `name`; UserError, with the nearest names, when there is none."""
    import difflib

    known = targets()
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    raise UserError(f"unknown target {name[:60]!r}; {hint}")
