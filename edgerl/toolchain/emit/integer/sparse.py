"""Sparse layers of integers: the words of rows that are not zero, and where they stand.

A word is the unit: a pair of columns of 16 bits, four or eight columns of fewer, or one column of
32. A word of zeros adds nothing, so what is left out changes no sum.
"""

import numpy as np

from edgerl.toolchain.emit import sparse
from edgerl.toolchain.emit.integer.blocks import octets
from edgerl.toolchain.emit.integer.packing import Packing, Stream
from edgerl.toolchain.emit.sparse import Tile, Writing
from edgerl.toolchain.quantisation.program import Product, Rows
from edgerl.toolchain.quantisation.storage import pack


def straight(rows: Rows, writing: Writing, packing: Packing) -> tuple[tuple[Tile, ...], Stream]:
    """`rows` cut into tiles, and the constants that these read in order."""
    matrices = [_words(product, packing) for product in rows.products]
    cut = sparse.tiles(matrices, rows.size, writing)
    multipliers = None if rows.multipliers is None else _bits(rows.multipliers)
    return cut, sparse.stream(_bits(rows.bias), matrices, cut, multipliers)


def _words(product: Product, packing: Packing) -> Stream:
    """The words [rows, n] of a matrix."""
    match packing.per_word:
        case 1:
            return _bits(product.weights)
        case 2:
            return pack(product.weights, product.stored)
        case _:
            return octets(product.weights, product.stored)


def _bits(values: np.ndarray) -> Stream:
    return np.ascontiguousarray(values, np.int32).view(np.uint32)
