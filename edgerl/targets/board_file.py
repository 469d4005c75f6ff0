"""Board file: a user's own board, described in TOML as edgerl's own rows are.

    name = "my-board"
    core = "cortex-m7"
    clock_hz = 216_000_000
    flash = { base = 0x08000000, size = 0x100000 }
    application = { base = 0x08010000, size = 0xF0000 }   # above its bootloader
    ram = { base = 0x20000000, size = 0x50000 }

A path that ends in `.toml` stands wherever the name of a target may.
"""

from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from edgerl.documents import explain, read_toml, validated
from edgerl.errors import UserError, suggestion
from edgerl.targets.model import (
    BoardRow,
    Core,
    Region,
    Target,
    Verification,
    cores,
    target,
    targets,
)

SUFFIX = ".toml"


def is_board_file(name: str) -> bool:
    """Whether `name` is the path of a board file and not the name of a target."""
    return name.lower().endswith(SUFFIX)


def find_target(name: str) -> Target:
    """The target called `name`, or the board that the file `name` describes.

    Raises UserError as `target` and `load_board` do.
    """
    return load_board(Path(name)) if is_board_file(name) else target(name)


def load_board(path: Path) -> Target:
    """Read a board from a TOML file.

    Raises UserError, naming file and key, when it cannot be read, has unknown keys or cores,
    names a target of edgerl's own, or has memories that do not go together.
    """
    row = validated(BoardRow, read_toml(path, "board"), str(path))
    known = {core.name: core for core in cores().values() if core.architecture != "native"}
    core = known.get(row.core)
    if core is None:
        raise UserError(
            f"{path}: core: unknown core {row.core[:60]!r}; {suggestion(row.core, known)}"
        )
    if row.name in targets():
        raise UserError(f"{path}: name: {row.name!r} is a target of edgerl's own; choose another")
    bare = targets().get(core.name)
    filled = {
        "core": core,
        **_memories(row, core, bare, path),
        "stand_in": _stand_in(row, core, bare, path),
        "verified_by": _verified_by(row, bare, path),
    }
    try:
        return Target.model_validate({**dict(row), **filled})
    except ValidationError as error:
        raise UserError(explain(error, str(path), Target)) from error


def _memories(
    row: BoardRow, core: Core, bare: Target | None, path: Path
) -> dict[str, Region | None]:
    """The memories of a board: those of its core's own target, at places that the file says.
    Under Linux they are a program's, the same on every board."""
    found = {"flash": row.flash, "ram": row.ram, "application": row.application or row.flash}
    for key, region in found.items():
        usual: Region | None = getattr(bare, key, None)
        if region is None and usual is not None:
            if core.hosting != "linux":
                raise UserError(
                    f"{path}: {key}: missing; an image for a {core.name} must know where it goes: "
                    f"{key} = {{ base = 0x…, size = 0x… }}"
                )
            found[key] = usual
    return found


def _stand_in(row: BoardRow, core: Core, bare: Target | None, path: Path) -> str:
    """The stand-in that the file names, or the bare core's own target if it has a machine."""
    if not row.stand_in:
        return bare.name if bare and bare.qemu_machine and not row.qemu_machine else ""
    known = targets().get(row.stand_in)
    if known is None:
        raise UserError(
            f"{path}: stand_in: unknown target {row.stand_in[:60]!r}; "
            f"{suggestion(row.stand_in, targets())}"
        )
    if known.core != core:
        raise UserError(
            f"{path}: stand_in: {known.name} has the core {known.core.name}, "
            f"{row.name} has {core.name}"
        )
    return known.name


def _verified_by(row: BoardRow, bare: Target | None, path: Path) -> Verification:
    """What the file claims, which is no more than the core's own target can show."""
    most: Verification = bare.verified_by if bare else "host-only"
    claimed = row.verified_by or most
    ranks = get_args(Verification)
    if ranks.index(claimed) < ranks.index(most):
        raise UserError(
            f"{path}: verified_by: {claimed!r} is more than emulators can show of a {row.core}: "
            f"{most!r}"
        )
    return claimed
