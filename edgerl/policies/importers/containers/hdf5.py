"""HDF5 files from outside: plain tensors and texts, and nothing that leaves the file.

Links to other places, references, filters, and data that is not stored in one piece are refused:
what is read can then never be larger than the file itself.
"""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.errors import ToolError, UserError
from edgerl.policies.assembly import plain_text
from edgerl.policies.importers.containers import hdf5_scan
from edgerl.policies.limits import MOST_PARAMETERS
from edgerl.policies.names import shown

_MOST_SECONDS = 15


class Hdf5:
    """What an HDF5 file holds; paths are like `actor/layers/0`.

    `where` leads every message. Whatever is wrong raises UserError in one line that names the
    path.
    """

    def __init__(self, entries: dict[str, hdf5_scan.Entry], content: bytes, where: str) -> None:
        self.where = where
        self._entries = entries
        self._content = content
        self._numbers = 0

    def __contains__(self, path: str) -> bool:
        return path in self._entries

    def names(self, path: str = "") -> tuple[str, ...]:
        """What lies directly in a group, in alphabetical order."""
        return tuple(self._group(path)["members"])

    def text(self, path: str, attribute: str) -> str | None:
        """An attribute of a group; None when there is none of that name."""
        texts = self._group(path)["texts"]
        if attribute in texts and texts[attribute] is None:
            raise UserError(f"{self.where}: attribute {shown(f'{path}@{attribute}')} is no text")
        said: str | None = texts.get(attribute)
        return said

    def tensor(self, path: str) -> npt.NDArray[Any]:
        """A tensor of floating-point numbers (float32 or float64), finite."""
        entry, title = self._entry(path), f"{self.where}: {shown(path)}"
        if "dtype" not in entry:
            raise UserError(f"{title} is no tensor")
        dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
        count = int(np.prod(shape, dtype=object))
        self._numbers += count
        if not 0 < count <= self._numbers <= MOST_PARAMETERS:
            raise UserError(
                f"{title} has {count:,} numbers; 1 to {MOST_PARAMETERS:,} are possible in all"
            )
        values = np.frombuffer(self._content, dtype, count, entry["start"]).reshape(shape)
        if not np.isfinite(values).all():
            raise UserError(f"{title} holds values that are not finite (NaN or Inf)")
        return values.astype(dtype.newbyteorder("="))

    def _group(self, path: str) -> hdf5_scan.Entry:
        entry = self._entry(path)
        if "members" not in entry:
            raise UserError(f"{self.where}: {shown(path)} is no group")
        return entry

    def _entry(self, path: str) -> hdf5_scan.Entry:
        if path not in self._entries:
            raise UserError(f"{self.where}: has no {shown(path)}")
        entry = self._entries[path]
        if "wrong" in entry:
            raise UserError(f"{self.where}: {shown(path)} {plain_text(entry['wrong'])}")
        return entry


def open_hdf5(content: bytes, where: str, install: str, *, trusted: bool = False) -> Hdf5:
    """The file whose bytes are `content`.

    It is scanned in a process of its own, for a library in C reads it; in this one when it is
    `trusted`, as a file is that an installed package brought. Raises UserError when it is no HDF5
    file, ToolError, with the command `install`, when h5py is missing.
    """
    if find_spec("h5py") is None:
        raise ToolError(f"reading HDF5 files needs the package h5py: {install}")
    try:
        entries = hdf5_scan.scan(content) if trusted else _scanned_apart(content)
    except ValueError as error:
        reason = plain_text(str(error))[:120]
        raise UserError(f"{where}: no HDF5 file, or a damaged one ({reason})") from error
    return Hdf5(entries, content, where)


def _scanned_apart(content: bytes) -> dict[str, hdf5_scan.Entry]:
    """`hdf5_scan.scan` in another process; ValueError also when that crashed or took too long."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(Path(hdf5_scan.__file__))],
            input=content,
            capture_output=True,
            timeout=_MOST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"the HDF5 library did not finish within {_MOST_SECONDS} s") from error
    except OSError as error:
        raise ToolError(f"cannot run {sys.executable} to read HDF5 ({error.strerror})") from error
    if done.returncode != 0:
        raise ValueError(f"the HDF5 library failed on it, exit code {done.returncode}")
    answer = json.loads(done.stdout)
    if "wrong" in answer:
        raise ValueError(answer["wrong"])
    entries: dict[str, hdf5_scan.Entry] = answer["entries"]
    return entries
