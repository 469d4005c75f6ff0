"""Packing: matrices cut into tiles, and their weights in the order in which kernels read them.

Rows are cut into tiles of eight (then four, two, one). The weights of all tiles form one stream
in execution order that a single pointer walks once a step: for each tile its biases, then
column by column its rows' weights, scaled for the table of the activation that follows.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.errors import UserError
from edgerl.toolchain import ir

Singles = npt.NDArray[np.float32]

TILE = 8
TANH_SCALE = 8.0
SIGMOID_SCALE = 4.0  # sigmoid(x) = 1/2 + 1/2 tanh(x/2): the tanh table at half the argument


def tiles(rows: int) -> tuple[int, ...]:
    """Cut `rows` into tiles of eight, then at most one each of four, two and one."""
    rest = tuple(t for t in (4, 2, 1) if rows % TILE & t)
    return (TILE,) * (rows // TILE) + rest


def _stream(
    bias: Singles, matrices: tuple[Singles, ...], cut: tuple[int, ...]
) -> Iterator[list[Singles]]:
    """Per tile: [bias, columns of each matrix…], each flattened in reading order."""
    row = 0
    for height in cut:
        rows = slice(row, row + height)
        yield [bias[rows], *(m[rows].T.reshape(-1) for m in matrices)]
        row += height


def _scaled(values: Singles, scale: float, what: str) -> Singles:
    with np.errstate(over="ignore"):
        result = (values * np.float32(scale)).astype(np.float32)
    if not np.isfinite(result).all():
        raise UserError(f"{what}: weights are not finite or above 1e37; is the policy trained?")
    return result


def scaled_dense(op: ir.Dense) -> tuple[Singles, tuple[Singles, ...]]:
    """Biases and matrices of a dense layer, scaled for its activation's table."""
    scale = {"tanh": TANH_SCALE, "sigmoid": SIGMOID_SCALE}.get(op.activation or "", 1.0)
    return _scaled(op.bias, scale, op.y), tuple(_scaled(w, scale, op.y) for _, w in op.sources)


def pack_dense(op: ir.Dense, cut: tuple[int, ...]) -> Singles:
    """The weight stream of a dense layer, scaled for its activation's table."""
    bias, matrices = scaled_dense(op)
    return np.concatenate([part for tile in _stream(bias, matrices, cut) for part in tile])


def pack_gru(op: ir.Gru, cut: tuple[int, ...]) -> Singles:
    """The weight stream of a GRU: per tile the hidden half of n, its input half, r, then z.

    The gates' biases are summed. The hidden half of n is stored at half scale, because with
    r = 1/2 + 1/2 t it enters as g' + t g' (g' its half).
    """
    hidden = op.w_hidden.shape[1]
    wr, wz, wn = (op.w_input[k * hidden : (k + 1) * hidden] for k in range(3))
    ur, uz, un = (op.w_hidden[k * hidden : (k + 1) * hidden] for k in range(3))
    br, bz, bn = (op.b_input[k * hidden : (k + 1) * hidden] for k in range(3))
    cr, cz, cn = (op.b_hidden[k * hidden : (k + 1) * hidden] for k in range(3))
    name = op.h_next

    def gate(b: Singles, w: Singles, u: Singles) -> Iterator[list[Singles]]:
        s = SIGMOID_SCALE
        return _stream(_scaled(b, s, name), (_scaled(w, s, name), _scaled(u, s, name)), cut)

    half = 0.5 * TANH_SCALE
    groups = zip(
        _stream(_scaled(cn, half, name), (_scaled(un, half, name),), cut),
        _stream(_scaled(bn, TANH_SCALE, name), (_scaled(wn, TANH_SCALE, name),), cut),
        gate(br + cr, wr, ur),
        gate(bz + cz, wz, uz),
        strict=True,
    )
    return np.concatenate([part for tile in groups for group in tile for part in group])


def pack_lstm(op: ir.Lstm, cut: tuple[int, ...]) -> Singles:
    """The weight stream of an LSTM: per tile the gates g, i, f, o."""
    hidden = op.w_hidden.shape[1]

    def gate(k: int, scale: float) -> Iterator[list[Singles]]:
        rows = slice(k * hidden, (k + 1) * hidden)
        parts = [_scaled(a[rows], scale, op.h_next) for a in (op.bias, op.w_input, op.w_hidden)]
        return _stream(parts[0], (parts[1], parts[2]), cut)

    groups = zip(
        gate(2, TANH_SCALE),
        gate(0, SIGMOID_SCALE),
        gate(1, SIGMOID_SCALE),
        gate(3, SIGMOID_SCALE),
        strict=True,
    )
    return np.concatenate([part for tile in groups for group in tile for part in group])


def checked_constants(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, object]:
    """What a self test needs to know of all arrays of constants: names and lengths of those that
    exist, and the sum of their words, each a rotation further than the next."""
    words = np.concatenate([values.reshape(-1).view(np.uint32) for values in arrays.values()])
    # Rotated once for each word that follows.
    turns = (np.arange(words.size, dtype=np.uint32)[::-1]) % 32
    total = int(np.bitwise_xor.reduce(words << turns | words >> (32 - turns) % 32))
    present = [(name, values.size) for name, values in arrays.items() if values.size]
    return {"summed_constants": present, "constant_sum": total}
