"""Division-free activations: piecewise cubics in the scaled argument.

A smooth function of one variable becomes a table of cubics over cells of one width. The
argument arrives pre-scaled, v = scale * x with a power of two that is folded into the weights
for free, so the cell is v rounded to the nearest integer (ties to even) and clamped. The cubic
is written in v itself, not in the distance to the cell's middle: no subtraction, three
multiply-adds. The two outermost cells are constant, which makes clamping the index enough.

Coefficients are fitted on Chebyshev nodes and rounded to float32 one at a time, highest degree
first, each later one refitted to make up for the rounding of the earlier. NaN stays NaN.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Curve = Literal["tanh", "sigmoid", "elu", "phi", "mish", "softplus", "exp", "sine"]

_NODES = 24


@dataclass(frozen=True)
class Table:
    """Cubics of one curve. `coefficients` [cells, 4] float32, constant term first; row 0 is
    cell `first`. `scale` is the power of two between x and v."""

    curve: Curve
    scale: float
    first: int
    coefficients: Singles

    @property
    def last(self) -> int:
        return self.first + len(self.coefficients) - 1

    def evaluate(self, v: Singles, *, fused: bool) -> Singles:
        """The table at scaled arguments v, bit for bit what the emitted code computes."""
        cell = np.clip(np.rint(np.clip(v, self.first, self.last)), self.first, self.last)
        row = np.where(np.isnan(v), 0, cell).astype(np.int64) - self.first
        c0, c1, c2, c3 = (self.coefficients[row, k] for k in range(4))
        with np.errstate(invalid="ignore", over="ignore"):
            if fused:
                for c in (c2, c1, c0):
                    # One rounding: a float32 product is exact in float64; adding there rounds
                    # twice only on ties that the 29 spare bits make vanishingly rare, which
                    # is why code is compared with code and this only bounds the error.
                    c3 = (c3.astype(np.float64) * v + c).astype(np.float32)
            else:
                for c in (c2, c1, c0):
                    c3 = c3 * v + c
        return c3


def _tanh(x: Doubles) -> Doubles:
    return np.tanh(x)


def _sigmoid(x: Doubles) -> Doubles:
    return 0.5 + 0.5 * np.tanh(0.5 * x)


def _phi(x: Doubles) -> Doubles:
    from math import erfc

    return np.array([0.5 * erfc(-t / np.sqrt(2.0)) for t in np.atleast_1d(x)])


def _softplus(x: Doubles) -> Doubles:
    return np.logaddexp(0.0, x)


# Curve, scale, first and last cell, limit on the left and on the right. `elu` and `softplus`
# are only read at x <= 0, where they are exp(x) - 1 and log(1 + exp(x)).
_ROWS: dict[Curve, tuple[object, float, int, int]] = {
    "tanh": (_tanh, 8.0, -64, 63),
    "sigmoid": (_sigmoid, 4.0, -64, 63),
    "phi": (_phi, 8.0, -48, 47),
    "mish": (lambda x: np.tanh(_softplus(x)), 8.0, -136, 80),
    "elu": (lambda x: np.expm1(x), 8.0, -136, 0),
    "softplus": (_softplus, 8.0, -136, 0),
}


@cache
def table(curve: Curve) -> Table:
    """The table of `curve`, fitted on first use.

    Largest absolute errors over all float32 arguments are recorded by
    `benchmarks/activations.py`.
    """
    function, scale, first, last = _ROWS[curve]
    rows = np.zeros((last - first + 1, 4), np.float32)
    nodes = np.cos(np.pi * (np.arange(_NODES) + 0.5) / _NODES)
    for row, cell in enumerate(range(first, last + 1)):
        if cell == first or (cell == last and last > 0):
            edge = np.array([cell + (8.0 if cell > 0 else -8.0) * scale])
            rows[row, 0] = np.float32(function(edge / scale)[0])  # type: ignore[operator]
            continue
        v = cell + 0.5 * nodes
        rows[row] = _fit(v, function(v / scale))  # type: ignore[operator]
    return Table(curve, scale, first, rows)


def _fit(v: Doubles, y: Doubles) -> Singles:
    """Near-minimax cubic through (v, y), float32 coefficients, constant first."""
    rounded = np.zeros(4, np.float32)
    rest = y.copy()
    for degree in (3, 2, 1, 0):
        # Chebyshev basis around the cell's middle keeps the fit well conditioned.
        polynomial = np.polynomial.Chebyshev.fit(v, rest, degree).convert(
            kind=np.polynomial.Polynomial
        )
        rounded[degree] = np.float32(polynomial.coef[degree])
        rest = rest - float(rounded[degree]) * v**degree
    return rounded
