"""Gated cells: the weights of GRUs and LSTMs as torch and Flax name and shape them.

torch (nn.GRU, nn.LSTM and their cells): rows of the gates r, z, n or i, f, g, o below each
other. Flax linen (GRUCell, LSTMCell, OptimizedLSTMCell): a kernel [in, hidden] of its own for
each gate, `ir` to `hn` or `ii` to `ho`; Flax nnx fuses them into `dense_i` and `dense_h`.
"""

from dataclasses import dataclass

import numpy as np

from edgerl.errors import UserError
from edgerl.policies.graph import Array
from edgerl.policies.importers.layers.weights import Weights
from edgerl.policies.names import shown

GATES = {"gru": "rzn", "lstm": "ifgo"}
_MOST_STACKED = 100


@dataclass(frozen=True)
class Cell:
    """One gated cell with torch's gate order: w_input [k H, X], w_hidden [k H, H], biases [k H]."""

    w_input: Array
    w_hidden: Array
    b_input: Array
    b_hidden: Array

    @property
    def size(self) -> int:
        """Number of hidden values H."""
        return int(self.w_hidden.shape[1])


def torch_cells(
    weights: Weights, kind: str, prefix: str, size: int | None, layer: str
) -> tuple[Cell, ...]:
    """The stacked cells of torch's nn.GRU or nn.LSTM, or the one of nn.GRUCell or nn.LSTMCell.

    `size` is how many values reach the first; None where its own weights say it. Raises UserError
    naming the tensor that is missing or of another shape, and for forms that are not
    supported (two directions, projections).
    """
    for ending, what in (
        ("weight_ih_l0_reverse", "two directions"),
        ("weight_hr_l0", "a proj_size"),
    ):
        if f"{prefix}{ending}" in weights:
            raise UserError(
                f"{weights.where}: {layer}: {shown(prefix)} has {what} ({ending}); not supported"
            )
    endings = [""]
    if f"{prefix}weight_ih" not in weights:
        stacked = range(1, _MOST_STACKED)
        more = (f"_l{k}" for k in stacked if f"{prefix}weight_ih_l{k}" in weights)
        endings = ["_l0", *more]
    cells: list[Cell] = []
    for ending in endings:
        cells.append(_torch_cell(weights, kind, prefix, ending, size, layer))
        size = cells[-1].size
    return tuple(cells)


def _torch_cell(
    weights: Weights, kind: str, prefix: str, ending: str, size: int | None, layer: str
) -> Cell:
    gates = len(GATES[kind])
    reason = "" if size is None else f"the layer above gives {size} values"
    w_input = weights.take(f"{prefix}weight_ih{ending}", (None, size), layer, reason)
    rows = w_input.shape[0]
    if rows % gates:
        raise UserError(
            f"{weights.where}: {layer}: tensor {shown(f'{prefix}weight_ih{ending}')} has {rows} "
            f"rows, which are not {gates} gates; is it {_other(kind)}?"
        )
    reason = f"{gates} gates of {rows // gates} values, from weight_ih{ending}"
    w_hidden = weights.take(f"{prefix}weight_hh{ending}", (rows, rows // gates), layer, reason)
    biases = []
    for name in (f"{prefix}bias_ih{ending}", f"{prefix}bias_hh{ending}"):
        there = name in weights
        biases.append(
            weights.take(name, (rows,), layer, reason) if there else np.zeros(rows, np.float32)
        )
    return Cell(w_input, w_hidden, *biases)


def flax_cell(weights: Weights, kind: str, prefix: str, size: int | None, layer: str) -> Cell:
    """A Flax cell, of linen (one kernel a gate) or nnx (gates fused).

    `size` is how many values reach it; None where its own weights say it. Raises UserError naming
    the tensor that is missing or of another shape.
    """
    separators = [prefix[-1]] if prefix.endswith((".", "/")) else ["/", "."]
    for dot in separators:
        if f"{prefix}dense_i{dot}kernel" in weights:
            return _fused(weights, kind, prefix, dot, size, layer)
    first = f"i{GATES[kind][0]}"
    dot = next((d for d in separators if f"{prefix}{first}{d}kernel" in weights), separators[0])
    columns = [_linen_part(weights, f"{prefix}i{gate}", dot, size, layer) for gate in GATES[kind]]
    hidden = columns[0][0].shape[1]
    rows = [_linen_part(weights, f"{prefix}h{gate}", dot, hidden, layer) for gate in GATES[kind]]
    for (kernel, _), gate in zip((*columns, *rows), GATES[kind] * 2, strict=True):
        if kernel.shape[1] != hidden:
            raise UserError(
                f"{weights.where}: {layer}: the kernels of gate {gate!r} below {shown(prefix)} "
                f"give {kernel.shape[1]} values, those of gate {GATES[kind][0]!r} {hidden}"
            )
    return Cell(
        np.concatenate([kernel.T for kernel, _ in columns]),
        np.concatenate([kernel.T for kernel, _ in rows]),
        np.concatenate([bias for _, bias in columns]),
        np.concatenate([bias for _, bias in rows]),
    )


def _linen_part(
    weights: Weights, name: str, dot: str, size: int | None, layer: str
) -> tuple[Array, Array]:
    """Kernel [in, out] and bias [out], zeros where there is none."""
    reason = "" if size is None else f"{size} values reach it"
    kernel = weights.take(f"{name}{dot}kernel", (size, None), layer, reason)
    out = kernel.shape[1]
    bias = f"{name}{dot}bias"
    if bias not in weights:
        return kernel, np.zeros(out, np.float32)
    return kernel, weights.take(bias, (out,), layer, f"{out} values, from its kernel")


def _fused(
    weights: Weights, kind: str, prefix: str, dot: str, size: int | None, layer: str
) -> Cell:
    w_input, b_input = _linen_part(weights, f"{prefix}dense_i", dot, size, layer)
    columns = w_input.shape[1]
    gates = len(GATES[kind])
    if columns % gates:
        raise UserError(
            f"{weights.where}: {layer}: tensor {shown(f'{prefix}dense_i{dot}kernel')} gives "
            f"{columns} values, which are not {gates} gates; is it {_other(kind)}?"
        )
    w_hidden, b_hidden = _linen_part(weights, f"{prefix}dense_h", dot, columns // gates, layer)
    if w_hidden.shape[1] != columns:
        raise UserError(
            f"{weights.where}: {layer}: tensor {shown(f'{prefix}dense_h{dot}kernel')} gives "
            f"{w_hidden.shape[1]} values, dense_i {columns}"
        )
    return Cell(
        np.ascontiguousarray(w_input.T), np.ascontiguousarray(w_hidden.T), b_input, b_hidden
    )


def _other(kind: str) -> str:
    return "an lstm" if kind == "gru" else "a gru"
