"""Artifact: the directory a compile leaves, complete without edgerl (DESIGN §3).

It is written aside and renamed, so a partial one never stands under its name. `manifest.json`
lists every file by its hash; reading an artifact checks them all.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgerl.errors import ToolError, UserError

SCHEMA = 1
MANIFEST = "manifest.json"
# Written later than the manifest, and different on every machine that checks.
_UNLISTED = frozenset({MANIFEST, "report.json", "report.html", "manifest.sig"})


@dataclass(frozen=True)
class Artifact:
    """A compiled policy on disk: its folder and its manifest."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.manifest["policy"]["name"])

    @property
    def source(self) -> Path:
        """The folder of the C package."""
        return self.folder / "src"


def build_id(parts: Mapping[str, bytes]) -> str:
    """One hash over named parts, independent of their order."""
    digest = hashlib.sha256()
    for key in sorted(parts):
        digest.update(hashlib.sha256(key.encode()).digest())
        digest.update(hashlib.sha256(parts[key]).digest())
    return digest.hexdigest()


@contextmanager
def published(folder: Path) -> Iterator[Path]:
    """A new folder to fill that becomes `folder` when the block ends well, and vanishes
    otherwise.

    An artifact that stands there already is replaced; anything else is refused with a
    UserError. Raises ToolError when the disk refuses.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder}: stands in the way and is no artifact; choose another with -o")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise UserError(
            f"{folder}: is not empty and holds no artifact; choose another with -o, or empty it"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise ToolError(f"{folder.parent}: {error.strerror}") from error
    try:
        yield aside
        aside.chmod(0o755)
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            folder.replace(old / "old")
            aside.replace(folder)
            shutil.rmtree(old)
        else:
            aside.replace(folder)
    except OSError as error:
        raise ToolError(f"{folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write manifest.json for the files in `folder`: `facts` and a hash of every file."""
    manifest = {"schema": SCHEMA, **facts, "files": _hashes(folder)}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return manifest


def read_artifact(folder: Path) -> Artifact:
    """The artifact in `folder`, every file checked against the manifest.

    Raises UserError naming the first file that is missing, altered or not listed.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        files = dict(manifest["files"])
        schema, name = manifest["schema"], manifest["policy"]["name"]
    except OSError as error:
        raise UserError(f"{folder}: no artifact ({MANIFEST}: {error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a manifest of edgerl ({error})") from error
    if schema != SCHEMA or not isinstance(name, str):
        raise UserError(f"{path}: schema {schema!r}; this edgerl reads {SCHEMA}")
    found = _hashes(folder)
    for each in sorted({*files, *found}):
        if each not in found:
            raise UserError(f"{folder}: {each} is missing; compile again")
        if each not in files:
            raise UserError(f"{folder}: {each} is not in the manifest; remove it or compile again")
        if files[each] != found[each]:
            raise UserError(f"{folder}: {each} was altered since it was compiled; compile again")
    return Artifact(folder, manifest)


def write_aside(path: Path, text: str) -> None:
    """Write `text` to `path`, aside first. Raises ToolError when the disk refuses."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise ToolError(f"{path}: {error.strerror}") from error
    finally:
        aside.unlink(missing_ok=True)


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() or p.is_symlink())
    names = {p.relative_to(folder).as_posix(): p for p in files}
    return {
        name: "symlink" if p.is_symlink() else hashlib.sha256(p.read_bytes()).hexdigest()
        for name, p in names.items()
        if name not in _UNLISTED and not name.startswith(".")
    }
