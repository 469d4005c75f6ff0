"""Zip archives from outside: read from memory, bounded, never unpacked."""

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from edgerl.documents import read_bytes
from edgerl.errors import UserError
from edgerl.policies.limits import MOST_BYTES, TOO_LARGE
from edgerl.policies.names import shown

MOST_MEMBERS = 10_000
# What lists the members; zipfile makes objects of all of it before it tells how many there are.
MOST_DIRECTORY = 2 << 20
MOST_JSON = 32 << 20


@dataclass(frozen=True)
class Archive:
    """The members of a zip file, each read when asked for.

    `where` names the file in messages.
    """

    where: str
    _file: zipfile.ZipFile

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all members."""
        return tuple(self._file.namelist())

    def __contains__(self, name: str) -> bool:
        return name in self._file.NameToInfo

    def read(self, name: str) -> bytes:
        """A member's content. UserError when it is missing, damaged, or not of its size."""
        if name not in self:
            raise UserError(f"{self.where}: has no member {shown(name)}")
        size = self._file.getinfo(name).file_size
        try:
            with self._file.open(name) as member:
                content = member.read(size + 1)
        # zipfile and the decompressors below it raise errors of many kinds for damaged data.
        except Exception as error:
            raise UserError(f"{self.where}: member {shown(name)} is damaged") from error
        if len(content) != size:
            raise UserError(f"{self.where}: member {shown(name)} is not of the size it declares")
        return content


def json_object(content: bytes, title: str, otherwise: str) -> dict[str, Any]:
    """The JSON object in a member's content.

    Raises UserError, which begins with `title`, when it is larger than 32 MiB, no JSON, or no
    object, of which `otherwise` says what is wrong.
    """
    if len(content) > MOST_JSON:
        raise UserError(f"{title} is larger than {MOST_JSON >> 20} MiB")
    try:
        held = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{title} is not JSON") from error
    if not isinstance(held, dict):
        raise UserError(f"{title} {otherwise}")
    return held


def open_archive(path: Path) -> Archive:
    """The zip file at `path`, every bound checked.

    Raises UserError, in one line, when it cannot be read, is no zip file, has more than 10,000
    members or more than 256 MiB, packed or unpacked, or holds an encrypted member, one whose
    name leaves the archive, or two of one name.
    """
    where = shown_path(path)
    return opened(read_bytes(path, MOST_BYTES, where, TOO_LARGE), where)


class _Source(io.BytesIO):
    """A file in memory that gives `most` bytes at once."""

    most = MOST_DIRECTORY

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        if len(content) > self.most:
            raise ValueError("more than an archive's directory takes")
        return content


def opened(content: bytes, where: str) -> Archive:
    """The zip file with this content, bounded as by `open_archive`."""
    source = _Source(content)
    try:
        file = zipfile.ZipFile(source)
    # zipfile trusts the directory at the end of a file, and fails on a wrong one in many ways.
    except Exception as error:
        raise UserError(f"{where}: no zip archive (truncated or another format)") from error
    source.most = MOST_BYTES
    members = file.infolist()
    if len(members) > MOST_MEMBERS:
        raise UserError(f"{where}: {len(members)} members; {MOST_MEMBERS} are possible")
    total = sum(member.file_size for member in members)
    if total > MOST_BYTES:
        raise UserError(f"{where}: unpacks to {total >> 20:,} MiB; {MOST_BYTES >> 20} are possible")
    seen: set[str] = set()
    for member in members:
        name = PurePosixPath(member.filename.replace("\\", "/"))
        drive = PureWindowsPath(member.filename).drive
        if name.is_absolute() or ".." in name.parts or drive:
            raise UserError(f"{where}: member {shown(member.filename)} leaves the archive")
        if member.filename in seen:
            raise UserError(f"{where}: two members are called {shown(member.filename)}")
        # Other methods may ask for gigabytes before they give a byte.
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(
                f"{where}: member {shown(member.filename)} is packed by a method other than deflate"
            )
        if member.flag_bits & 1:
            raise UserError(f"{where}: member {shown(member.filename)} is encrypted")
        seen.add(member.filename)
    return Archive(where, file)


def shown_path(path: Path) -> str:
    """A file's name for a message."""
    return path.name if path.name.isprintable() and len(path.name) <= 200 else shown(path.name)
