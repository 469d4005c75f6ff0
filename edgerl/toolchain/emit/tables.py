"""Division-free activations: piecewise cubics in the scaled argument.

A smooth function of one variable becomes a table of cubics over cells of one width. The
argument arrives pre-scaled, v = scale * x with a power of two that is folded into the weights
for free, so the cell is v rounded to the nearest integer (ties to even) and clamped. The cubic
is written in v itself, not in the distance to the cell's middle: no subtraction, three
multiply-adds. The outermost cell on each open side is constant, the limit of the function
there, which makes clamping the index enough. NaN stays NaN; an infinite argument gives NaN.

Coefficients are fitted on Chebyshev nodes and rounded to float32 one at a time, highest degree
first, each later one refitted to make up for the rounding of the earlier. A function that is
zero at zero has no constant term there, so that its table is zero at zero too.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Curve = Literal["tanh", "elu", "phi", "mish", "softplus"]

_NODES = 24


@dataclass(frozen=True)
class Table:
    """Cubics of one curve. `coefficients` [cells, 4] float32, constant term first; row 0 is
    cell `first`. `scale` is the power of two between x and v. `error` bounds the absolute error
    over all finite arguments that the curve is read at, fused and unfused."""

    curve: Curve
    scale: float
    first: int
    coefficients: Singles
    error: float

    @property
    def last(self) -> int:
        """The cell of the last row."""
        return self.first + len(self.coefficients) - 1


@dataclass(frozen=True)
class _Row:
    """A curve: its function of x, the scale, the first and last cell. One whose last cell is 0
    is read at v <= 0 only. `error` has little to spare; `benchmarks/activations.py` holds it, by
    the activations that read the curve, against every float32 there is."""

    function: Callable[[Doubles], Doubles]
    scale: float
    first: int
    last: int
    error: float


def _phi(x: Doubles) -> Doubles:
    """The normal distribution function."""
    return np.array([0.5 * math.erfc(-t / math.sqrt(2.0)) for t in x])


def _softplus(x: Doubles) -> Doubles:
    return np.logaddexp(0.0, x)


def _mish(x: Doubles) -> Doubles:
    return np.tanh(_softplus(x))


# `elu` and `softplus` are exp(x) - 1 and log(1 + exp(x)) at x <= 0; `mish` is what mish
# multiplies x by.
_ROWS: dict[Curve, _Row] = {
    "tanh": _Row(np.tanh, 8.0, -64, 63, 4.0e-7),
    "phi": _Row(_phi, 8.0, -48, 47, 1.6e-7),
    "mish": _Row(_mish, 8.0, -136, 80, 1.4e-7),
    "elu": _Row(np.expm1, 8.0, -136, 0, 1.6e-7),
    "softplus": _Row(_softplus, 8.0, -136, 0, 1.4e-7),
}


@cache
def table(curve: Curve) -> Table:
    """The table of `curve`, fitted on first use."""
    row = _ROWS[curve]
    coefficients = np.zeros((row.last - row.first + 1, 4), np.float32)
    for cell in range(row.first, row.last + 1):
        coefficients[cell - row.first] = _cubic(row, cell)
    return Table(curve, row.scale, row.first, coefficients, row.error)


def _cubic(row: _Row, cell: int) -> Singles:
    """The coefficients of one cell, constant first."""
    constant = cell == row.first or (cell == row.last and row.last > 0)
    if constant:
        limit = row.function(np.array([math.copysign(math.inf, cell)]))[0]
        return np.array([limit, 0.0, 0.0, 0.0], np.float32)
    low, high = cell - 0.5, min(cell + 0.5, row.last or 0.0)
    nodes = np.cos(np.pi * (np.arange(_NODES) + 0.5) / _NODES)
    v = 0.5 * (low + high) + 0.5 * (high - low) * nodes
    passes_zero = cell == 0 and row.function(np.zeros(1))[0] == 0.0
    return _fit(v, row.function(v / row.scale), lowest=int(passes_zero))


def _fit(v: Doubles, y: Doubles, lowest: int) -> Singles:
    """Near-minimax cubic through (v, y) without terms below degree `lowest`, as float32
    coefficients, constant first."""
    rounded = np.zeros(4, np.float32)
    rest = y.copy()
    for degree in range(3, lowest - 1, -1):
        # Chebyshev basis around the cell's middle keeps the fit well conditioned.
        polynomial = np.polynomial.Chebyshev.fit(
            v, rest / v**lowest, degree - lowest, w=np.abs(v) ** lowest
        ).convert(kind=np.polynomial.Polynomial)
        rounded[degree] = np.float32(polynomial.coef[-1])
        rest = rest - float(rounded[degree]) * v**degree
    return rounded
