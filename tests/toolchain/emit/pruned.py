"""Networks with zeros in their matrices, as programs."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from edgerl.toolchain import ir

Activation = str | None
SIZES, ACTIVATIONS = (22, 64, 64, 4), ("relu", "tanh", None)


def pruned(
    name: str,
    zeros: float,
    sizes: Sequence[int] = SIZES,
    activations: Sequence[Activation] = ACTIVATIONS,
    *,
    empty_rows: Sequence[int] = (),
    empty_layer: int | None = None,
    seed: int = 0,
) -> ir.Program:
    """A stack of dense layers, each weight zero with probability `zeros`; so are the rows
    `empty_rows` of every layer, and all of the layer `empty_layer`."""
    rng = np.random.default_rng(seed)
    tensors = ["o", *(f"h{k}" for k in range(1, len(sizes) - 1)), "a"]
    operations = []
    for k, (columns, rows) in enumerate(pairwise(sizes)):
        weights = rng.normal(size=(rows, columns)) / np.sqrt(columns)
        weights[rng.random(weights.shape) < zeros] = 0.0
        weights[[row for row in empty_rows if row < rows]] = 0.0
        if k == empty_layer:
            weights[:] = 0.0
        bias = rng.normal(size=rows, scale=0.2).astype(np.float32)
        source = (tensors[k], weights.astype(np.float32))
        operations.append(ir.Dense((source,), bias, tensors[k + 1], activations[k]))
    shapes = {tensor: ir.Tensor(size) for tensor, size in zip(tensors, sizes, strict=True)}
    return ir.Program(name, "o", "a", (), tuple(operations), shapes)
