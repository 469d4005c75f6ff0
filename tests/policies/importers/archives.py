"""Zip archives taken apart, put together, and damaged."""

import io
import zipfile
from pathlib import Path

import numpy as np


def stored(path: Path) -> list[tuple[str, bytes]]:
    """The members of an archive."""
    with zipfile.ZipFile(path) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def packed(members: list[tuple[str, bytes]]) -> bytes:
    """An archive of these members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """A file cut short, or with some bits flipped."""
    data = bytearray(content)
    if rng.random() < 0.25:
        return bytes(data[: rng.integers(len(data))])
    for _ in range(rng.integers(1, 6)):
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    return bytes(data)
