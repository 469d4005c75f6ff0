"""The files of a build: the package's sources, rendered harness, finished results."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from edgerl.errors import UserError


def package_sources(package_dir: Path, name: str) -> list[Path]:
    """The files of the package `name`: its C file, header and assembly.

    Raises UserError when the C file or the header is missing.
    """
    for required in (f"{name}.c", f"{name}.h"):
        if not (package_dir / required).is_file():
            raise UserError(f"{package_dir}: no {required}; compile the policy again")
    assembly = sorted(p for p in package_dir.glob(f"{name}_*.S") if p.is_file())
    return [package_dir / f"{name}.c", package_dir / f"{name}.h", *assembly]


def render(
    folder: Path,
    names: Sequence[str],
    values: Mapping[str, object],
    *,
    room: str = "edgerl.toolchain.build",
) -> None:
    """Render each of the templates `names` of the package `room` into `folder`."""
    environment = Environment(
        loader=PackageLoader(room),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # C and assembly; names have passed the identifier rule
    )
    for name in names:
        text = environment.get_template(f"{name}.j2").render(values)
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def publish(made: Path, final: Path) -> None:
    """Copy `made` beside `final` and rename: `final` is whole or absent, also where several
    processes make it at once."""
    aside = final.with_name(f"{final.name}.{os.getpid()}.part")
    shutil.copyfile(made, aside)
    aside.replace(final)
