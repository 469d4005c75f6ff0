"""Target: where a policy runs, as data.

A core says what arithmetic there is and how it is compiled and emulated; a board is a core
with memories and an application region. Both are rows of the TOML files beside this module.
"""

import re
import tomllib
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from edgerl.errors import UserError, suggestion

Verification = Literal["same-binary", "relinked-stand-in", "host-only"]
Format = Literal["f32", "w32a32", "w16a16", "w8a16", "w4a16", "w8a8"]
FORMATS: tuple[Format, ...] = get_args(Format)
# What kernels compute with: floats, or integers of so many bits.
Arithmetic = Literal["f32", "a32", "a16", "a8"]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_][A-Za-z0-9]+)*\Z")
_MACHINE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_LONGEST_NAME, _LONGEST_TEXT = 40, 400
_ADDRESSES = 1 << 32
# Where a Cortex-M can find its vectors: at multiples of this, the coarsest among its cores.
_VECTORS = 0x100


def target_name(name: str) -> str:
    """`name` unchanged if it may name a target, and so a folder; ValueError if not."""
    if len(name) > _LONGEST_NAME or not _NAME.match(name):
        raise ValueError(
            f"{name[:60]!r} is not a usable name (a letter, then up to {_LONGEST_NAME - 1} "
            "letters, digits and single hyphens or underscores between them)"
        )
    return name


def _sentence(text: str) -> str:
    if len(text) > _LONGEST_TEXT or not text.isprintable():
        raise ValueError(f"must be one line of at most {_LONGEST_TEXT} printable characters")
    return text


def _machine(name: str) -> str:
    if name and not _MACHINE.match(name):
        raise ValueError(f"{name[:60]!r} names no QEMU machine")
    return name


TargetName = Annotated[
    str,
    AfterValidator(target_name),
    WithJsonSchema(
        {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9]*([-_][A-Za-z0-9]+)*$",
         "maxLength": _LONGEST_NAME}
    ),
]  # fmt: skip
Sentence = Annotated[
    str,
    AfterValidator(_sentence),
    WithJsonSchema({"type": "string", "maxLength": _LONGEST_TEXT}),
]
Machine = Annotated[str, AfterValidator(_machine)]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Region(_Row):
    """A span of memory: first address and length in bytes."""

    base: int = Field(ge=0, lt=_ADDRESSES, description="The first address.")
    size: int = Field(gt=0, le=_ADDRESSES, description="The length in bytes.")

    @model_validator(mode="after")
    def _addressable(self) -> Self:
        if self.end > _ADDRESSES:
            raise ValueError(f"{self} ends beyond the last address, {_ADDRESSES - 1:#010x}")
        return self

    @property
    def end(self) -> int:
        """The first address after it."""
        return self.base + self.size

    def holds(self, other: "Region") -> bool:
        """Whether all of `other` lies inside."""
        return self.base <= other.base and other.end <= self.end

    def meets(self, other: "Region") -> bool:
        """Whether some address lies in both."""
        return self.base < other.end and other.base < self.end

    def __str__(self) -> str:
        return f"{self.base:#010x} to {self.end - 1:#010x}"


class Core(_Row):
    """A processor core: its arithmetic, its compiler flags, its emulators.

    `formats` are the number formats whose bits it reproduces; without `fpu`, float arithmetic is
    the compiler's run-time library. `hosting` is what a HIL image speaks through: a debugger's
    semihosting on a bare core, or the system calls of Linux, where it is a program. `kernels`
    names the assembly families written for it, by arithmetic; elsewhere is portable C; `cycles`
    names the published timing table that models it, or is empty. `mve` says that it has what
    Armv8.1-M added: integer vectors and low-overhead loops.

    `unicorn` is the emulator's model, of this core or, where `unicorn_note` says so, of another
    that runs the same code, or is empty where it has none; `qemu` is QEMU's program and
    `qemu_options` what it is told beside the machine.
    """

    name: str
    about: str
    architecture: Literal["native", "arm", "riscv", "aarch64", "x86-64", "avr", "xtensa"]
    fpu: bool
    fma: bool
    formats: tuple[Format, ...] = FORMATS
    hosting: Literal["semihosting", "linux"] = "semihosting"
    kernels: dict[Arithmetic, str] = {}
    cycles: str = ""
    mve: bool = False
    zig: tuple[str, ...] = ()
    gcc: tuple[str, ...] = ()
    gcc_prefix: str = ""
    unicorn: str = ""
    unicorn_note: Sentence = ""
    qemu: str = ""
    qemu_options: tuple[str, ...] = ()

    def __hash__(self) -> int:
        """By the name: cores that are equal have it in common, and a table has no hash."""
        return hash(self.name)

    @property
    def emulator(self) -> Literal["unicorn", "qemu"]:
        """Which emulator runs and counts what is shipped; QEMU where it is the only one, while
        elsewhere it is the second."""
        return "qemu" if self.qemu and not self.unicorn else "unicorn"

    def require_format(self, number_format: str) -> None:
        """UserError when the core does not reproduce the bits of `number_format`."""
        if number_format not in self.formats:
            raise UserError(
                f"{self.name} takes no {number_format}: its arithmetic is not IEEE 754's, so the "
                f"bits would differ from the host's; formats it takes: {', '.join(self.formats)}"
            )


class Board(_Row):
    """What a board is beside its core: the keys of a row, and of a user's own board file."""

    name: TargetName = Field(description="The name of the board, as in --target.")
    about: Sentence = Field(default="", description="What it is, in one line.")
    source: Sentence = Field(
        default="",
        description="Where the memory map comes from: a data sheet, a maker's linker script.",
    )
    clock_hz: int = Field(
        default=0, ge=0, le=10**11, description="The core's clock in Hz; 0 where it is not known."
    )
    flash: Region | None = Field(
        default=None, description="The whole flash as the core addresses it."
    )
    application: Region | None = Field(
        default=None,
        description="The part of the flash that an image may occupy. What lies outside, such as "
        "a bootloader, is never written. Without it: the whole flash.",
    )
    ram: Region | None = Field(
        default=None, description="The RAM for static data and stack; one block, usable at reset."
    )
    qemu_machine: Machine = Field(
        default="", description="The QEMU machine with this very memory map, if there is one."
    )


class BoardRow(Board):
    """A board as a TOML file has it: with its core, and the stand-in, by name."""

    core: str = Field(description="The name of the processor core, a row of edgerl's.")
    stand_in: str = Field(
        default="",
        description="The bare-core target whose machine cross-checks what QEMU has no model of. "
        "Without it: the target that has the core's name.",
    )
    verified_by: Verification | None = Field(
        default=None,
        description="How far an emulator vouches for it: the shipped binary itself runs, or its "
        "sources linked for the stand-in do, or only the portable twin on a host. "
        "Without it: as far as the core's emulators go.",
    )


class Target(Board):
    """A board (or bare core): one row that the whole toolchain reads.

    `application` is the flash an image may occupy: what lies outside it (a bootloader) is
    never written. `verified_by` says how far an emulator can vouch for it; `stand_in` names the
    target on whose machine the same sources are run where QEMU has no model of this one.
    """

    core: Core
    stand_in: str = ""
    verified_by: Verification

    @property
    def native(self) -> bool:
        """True where what is built runs on this very machine: on a host, and for a board that
        nothing here could run."""
        return self.core.architecture == "native" or self.verified_by == "host-only"

    @property
    def built_for(self) -> Core:
        """The core that a compiler is told: this machine's where the target is native."""
        return cores()["native"] if self.native else self.core

    @model_validator(mode="after")
    def _memories_agree(self) -> Self:
        flash, application, ram = self.flash, self.application, self.ram
        if self.verified_by == "relinked-stand-in" and not self.stand_in:
            raise ValueError("verified_by says relinked-stand-in, but there is no stand_in")
        if (flash is None) != (application is None):
            raise ValueError("flash and application come together or not at all")
        if flash and application and not flash.holds(application):
            raise ValueError(f"application, {application}, leaves the flash, {flash}")
        # An AVR has a bus for each: the same numbers are other places.
        if flash and ram and self.core.architecture != "avr" and flash.meets(ram):
            raise ValueError(f"flash, {flash}, and ram, {ram}, overlap")
        if application and self.core.architecture == "arm" and application.base % _VECTORS:
            raise ValueError(
                f"application begins at {application.base:#010x}, where no vector table can: "
                f"not a multiple of {_VECTORS}"
            )
        return self


@cache
def cores() -> dict[str, Core]:
    """Every known core by name."""
    rows = tomllib.loads((files("edgerl.targets") / "cores.toml").read_text(encoding="utf-8"))
    return {row["name"]: Core.model_validate(row) for row in rows["core"]}


@cache
def targets() -> dict[str, Target]:
    """Every known target by name."""
    rows = tomllib.loads((files("edgerl.targets") / "boards.toml").read_text(encoding="utf-8"))
    made = (Target.model_validate({**row, "core": cores()[row["core"]]}) for row in rows["board"])
    return {row.name: row for row in made}


def target(name: str) -> Target:
    """The target called `name`; UserError, with the nearest names, when there is none."""
    known = targets()
    if name in known:
        return known[name]
    raise UserError(f"unknown target {name[:60]!r}; {suggestion(name, known)}")
