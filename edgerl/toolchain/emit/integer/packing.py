"""Packing: integer rows cut into tiles, as the stream of words that kernels read.

Tiles are of four rows, then two and one. A single pointer walks the stream once a step. A tile
has its biases; then, for each product, one word of every row after another, column group by
column group; then its multipliers, if the rows have any.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgerl.toolchain.quantisation.arithmetic import Weights
from edgerl.toolchain.quantisation.program import Rows, Stored
from edgerl.toolchain.quantisation.storage import pack

Stream = npt.NDArray[np.uint32]

TILE = 4


@dataclass(frozen=True)
class Packing:
    """How the kernels of a family want vectors and weights to lie.

    A word holds `per_word` elements of a vector, which takes a multiple of `least` words. `tiles`
    cuts rows, each tile having weights of `stride` rows or, where that is 0, of as many as it is
    high. `group` says to a multiple of how many words a vector is read, given the bits of a stored
    weight; `stream` makes the words.
    """

    per_word: int
    stride: int
    least: int
    tiles: Callable[[int], tuple[int, ...]]
    group: Callable[[Stored], int]
    stream: Callable[[Sequence[Rows], tuple[int, ...]], Stream]

    def words(self, size: int) -> int:
        """Words that hold a vector."""
        return -(-size // self.per_word)

    def read(self, columns: int, stored: Stored) -> int:
        """Words of a vector that are read for a matrix of so many columns."""
        words = self.group(stored)
        return -(-columns // (self.per_word * words)) * words


def tiles(rows: int) -> tuple[int, ...]:
    """Cut `rows` into tiles of four, then at most one each of two and one."""
    return (TILE,) * (rows // TILE) + tuple(t for t in (2, 1) if rows % TILE & t)


def group(stored: Stored) -> int:
    """Pairs of columns, which are words of a vector, that one word of weights is for."""
    return 16 // stored


def stream(parts: Sequence[Rows], cut: tuple[int, ...]) -> Stream:
    """The words of rows that are computed side by side, tile by tile, each part in order."""
    row = 0
    words: list[Stream] = []
    for height in cut:
        for rows in parts:
            words += _tile(rows, slice(row, row + height))
        row += height
    return np.concatenate(words)


def _tile(rows: Rows, part: slice) -> Iterator[Stream]:
    yield rows.bias[part].astype(np.int32).view(np.uint32)
    for product in rows.products:
        yield _words(product.weights[part], product.stored).T.reshape(-1)
    if rows.multipliers is not None:
        yield rows.multipliers[part].astype(np.int32).view(np.uint32)


def _words(weights: Weights, stored: Stored) -> Stream:
    """The words [rows, n] of weights [rows, columns]."""
    if stored == 32:
        return np.ascontiguousarray(weights, np.int32).view(np.uint32)
    return pack(weights, stored)


# Elements of 16 bits, two a word, and of 32.
PAIRS = Packing(2, 0, 1, tiles, group, stream)
WORDS = Packing(1, 0, 1, tiles, lambda _stored: 1, stream)
