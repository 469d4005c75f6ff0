"""Sparse layers: rows as straight code that knows where every weight that is not zero stands.

A layer so written is a C function of its own. Rows are taken one by one (`sparse`), or by four
(`block`), which keep what any of them multiplies and load it once. The constants are a stream in
reading order: for each tile its biases, then for each source, column after kept column, the
weights of its rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

Writing = Literal["sparse", "block"]
# How layers are written, by the tensor that each makes; those without an entry are dense.
Writings = Mapping[str, Writing]

HEIGHTS: Mapping[Writing, int] = {"sparse": 1, "block": 4}

_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True)
class Tile:
    """Rows that are computed side by side: the first, how many, and of each source the columns
    (of a packed matrix the words) that some row multiplies by more than zero."""

    row: int
    height: int
    kept: tuple[tuple[int, ...], ...]

    @property
    def constants(self) -> int:
        """Biases and weights in the stream, without multipliers."""
        return self.height * (1 + sum(map(len, self.kept)))


def tiles(matrices: Sequence[npt.NDArray[Any]], rows: int, writing: Writing) -> tuple[Tile, ...]:
    """Cut `rows` rows, whose weights of each source are a matrix [rows, n], into tiles."""
    height = HEIGHTS[writing]
    cut = []
    for row in range(0, rows, height):
        part = slice(row, min(row + height, rows))
        kept = tuple(tuple(np.flatnonzero(m[part].any(axis=0)).tolist()) for m in matrices)
        cut.append(Tile(row, part.stop - row, kept))
    return tuple(cut)


def stream(
    bias: npt.NDArray[_Number],
    matrices: Sequence[npt.NDArray[_Number]],
    cut: Sequence[Tile],
    multipliers: npt.NDArray[_Number] | None = None,
) -> npt.NDArray[_Number]:
    """The constants in reading order; after a tile's weights its rows' multipliers, if any."""
    parts: list[npt.NDArray[_Number]] = []
    for tile in cut:
        rows = slice(tile.row, tile.row + tile.height)
        parts.append(bias[rows])
        for matrix, kept in zip(matrices, tile.kept, strict=True):
            parts.append(matrix[rows][:, list(kept)].T.reshape(-1))
        if multipliers is not None:
            parts.append(multipliers[rows])
    return np.concatenate(parts)
