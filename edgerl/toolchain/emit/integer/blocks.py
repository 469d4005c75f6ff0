"""Packing for kernels of vectors of 16 bytes: a row's weights in blocks of four words.

Tiles are of four rows, the last one filled up with rows of zeros in the stream, though not in the
result. A tile has its biases; then, for each product, the block of every row after another, block
by block; then its multipliers, if the rows have any.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from edgerl.toolchain.emit.integer.packing import TILE, Packing, Stream
from edgerl.toolchain.quantisation.arithmetic import Weights
from edgerl.toolchain.quantisation.program import Product, Rows, Stored
from edgerl.toolchain.quantisation.storage import pack

_BLOCK = 4
_Packed = Callable[[Weights, Stored], Stream]


def tiles(rows: int) -> tuple[int, ...]:
    """Cut `rows` into tiles of four and a rest: rows that count."""
    return (TILE,) * (rows // TILE) + ((rows % TILE,) if rows % TILE else ())


def stream(packed: _Packed, parts: Sequence[Rows], cut: tuple[int, ...]) -> Stream:
    """The words of rows that are computed side by side, tile by tile, each part in order;
    `packed` makes the words [rows, n] of weights."""
    row = 0
    words: list[Stream] = []
    for height in cut:
        for rows in parts:
            words += _tile(packed, rows, slice(row, row + height))
        row += height
    return np.concatenate(words)


def octets(weights: Weights, _stored: Stored) -> Stream:
    """Words [rows, n] of int8 weights [rows, columns]: four neighbours each, the first lowest."""
    columns = weights.shape[1]
    filled = np.pad(weights.astype(np.int8), ((0, 0), (0, -columns % _BLOCK)))
    return filled.view("<u4")


def _tile(packed: _Packed, rows: Rows, part: slice) -> Iterator[Stream]:
    yield _column(rows.bias[part])
    for product in rows.products:
        yield _blocks(packed, product, part)
    if rows.multipliers is not None:
        yield _column(rows.multipliers[part])


def _column(values: npt.NDArray[np.int32]) -> Stream:
    """A number of every row of a tile."""
    return np.pad(values.astype(np.int32), (0, TILE - len(values))).view(np.uint32)


def _blocks(packed: _Packed, product: Product, part: slice) -> Stream:
    words = packed(product.weights[part], product.stored)
    filled = np.pad(words, ((0, TILE - len(words)), (0, -words.shape[1] % _BLOCK)))
    return filled.reshape(TILE, -1, _BLOCK).swapaxes(0, 1).reshape(-1)


# Elements of 8 bits, four a word, and of 16, of which stores of four at once write two words.
OCTETS = Packing(4, TILE, 1, tiles, lambda _stored: _BLOCK, partial(stream, octets))
HALVES = Packing(2, TILE, 2, tiles, lambda stored: _BLOCK * 16 // stored, partial(stream, pack))
