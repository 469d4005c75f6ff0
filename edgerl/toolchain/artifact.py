"""Artifact: the directory a compile leaves, complete without edgerl (DESIGN §3).

It is written aside and renamed, so a partial one never stands under its name. `manifest.json`
lists every file by its hash; reading an artifact checks them all.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgerl.errors import EdgerlError, ToolError, UserError
from edgerl.toolchain.manifest import MANIFEST, Manifest, read_manifest

# Written later than the manifest, and different on every machine that checks.
_UNLISTED = re.compile(r"manifest\.(json|sig)|report\.(json|html)|\.report\.(json|html)\.\d+")
# What the disk says when the path is the wrong one; anything else (no space, input/output
# error) is no mistake of the user's.
_MISTAKES = frozenset(
    {
        errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EEXIST, errno.ENOTDIR,
        errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EBUSY, errno.EXDEV,
    }
)  # fmt: skip
_ELSEWHERE = "; choose another with -o"


@dataclass(frozen=True)
class Artifact:
    """A compiled policy on disk: its folder and its manifest."""

    folder: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """The policy's name, which is also the C package's."""
        return self.manifest.policy.name

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


def refusal(path: Path, error: OSError, advice: str = "") -> EdgerlError:
    """What it means that the disk refused to write `path`, as the error to raise; `advice` goes
    to a user who named the wrong path."""
    line = f"{path}: cannot be written ({error.strerror or error})"
    return UserError(line + advice) if error.errno in _MISTAKES else ToolError(line)


def require_free(folder: Path) -> None:
    """UserError when `folder` is neither absent, nor empty, nor an artifact and nothing more:
    publishing there would destroy what somebody else put there."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder}: stands in the way and is no artifact{_ELSEWHERE}")
    try:
        if not folder.is_dir() or not any(folder.iterdir()):
            return
        if not (folder / MANIFEST).is_file():
            raise UserError(
                f"{folder}: is not empty and holds no artifact{_ELSEWHERE}, or empty it"
            )
        foreign = sorted(set(_files(folder)) - set(_listed(folder)))
    except OSError as error:
        raise refusal(folder, error, _ELSEWHERE) from error
    if foreign:
        raise UserError(f"{folder / foreign[0]}: is no part of the artifact there; move it away")


def _listed(folder: Path) -> Mapping[str, str]:
    try:
        return read_manifest(folder).files
    except UserError as error:
        raise UserError(f"{error}{_ELSEWHERE}, or empty {folder}") from error


@contextmanager
def published(folder: Path) -> Iterator[Path]:
    """A new folder to fill that becomes `folder` when the block ends well, and vanishes
    otherwise.

    An artifact that stands there already is replaced, and comes back if that fails; anything
    else is refused with a UserError. Raises UserError or ToolError when the disk refuses.
    """
    require_free(folder)
    folder = folder.absolute()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise refusal(folder, error, _ELSEWHERE) from error
    try:
        yield aside
        aside.chmod(0o755)
        _swap(aside, folder)
    except OSError as error:
        raise refusal(folder, error, _ELSEWHERE) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _swap(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`."""
    if not folder.exists():
        new.replace(folder)
        return
    old = new.with_name(f"{new.name}.old")
    try:
        folder.replace(old)
        new.replace(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.replace(folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json for the files in `folder`, whose hashes replace those in `manifest`."""
    whole = manifest.model_copy(update={"files": _hashes(folder)})
    text = json.dumps(whole.to_json(), indent=1, sort_keys=True) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8", newline="\n")


def read_artifact(folder: Path) -> Artifact:
    """The artifact in `folder`, every file checked against the manifest.

    Raises UserError naming the first file that is missing, altered or not listed.
    """
    manifest = read_manifest(folder)
    listed = manifest.files
    try:
        found = _hashes(folder)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error
    for each in sorted({*listed, *found}):
        if each not in found:
            raise UserError(f"{folder}: {each} is missing; compile again")
        if each not in listed:
            raise UserError(f"{folder}: {each} is not in the manifest; remove it or compile again")
        if listed[each] != found[each]:
            raise UserError(f"{folder}: {each} was altered since it was compiled; compile again")
    return Artifact(folder, manifest)


def write_aside(path: Path, text: str) -> None:
    """Write `text` to `path`, aside first. Raises UserError or ToolError when the disk
    refuses."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            aside.write_text(text, encoding="utf-8", newline="\n")
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise refusal(path, error) from error


def _files(folder: Path) -> dict[str, Path]:
    """What lies in and under `folder` and belongs into a manifest, by relative name."""
    found = {
        p.relative_to(folder).as_posix(): p
        for p in folder.rglob("*")
        if p.is_symlink() or not p.is_dir()
    }
    return {name: p for name, p in sorted(found.items()) if not _UNLISTED.fullmatch(name)}


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file; what is no plain file has none, and so equals nothing listed."""
    return {
        name: hashlib.sha256(p.read_bytes()).hexdigest()
        if p.is_file() and not p.is_symlink()
        else "not a plain file"
        for name, p in _files(folder).items()
    }
