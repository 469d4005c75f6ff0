"""The activation table of 32-bit programs: tanh in cubic pieces.

The argument v is any int32, 2^32 of whose units span [-reach, reach). With 2^index_bits cells,
v's upper `index_bits` pick the cell, and v shifted left by index_bits - 1, read as a signed
number t, is the offset in halves of 2^32: its sign is the lowest bit of the cell, so that an even
cell is anchored at its left end and an odd one at its right end. A cell has four int32
coefficients, the lowest power first, and with (a * b) the upper half of a 64-bit product, to
nearest,

    y = c0 + t * (c1 + t * (c2 + t * c3))        Q30

(on a core with SMMLAR: saturate, shift, address, one load of four, shift, three SMMLAR). The
pieces interpolate at Chebyshev's nodes, within a few per cent of the best that cubics can do;
the cells reach as far as makes the worst error of the pieces and of what lies beyond smallest.
|y| < 2^30.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from edgerl.toolchain.quantisation.table import FRACTION, Doubles, Integers

ARGUMENT_BITS = 32
_HALF = 1 << (ARGUMENT_BITS - 1)
_POWERS = np.arange(4)
# Of each cell, evenly spread with both ends, where errors are measured.
_SAMPLES = 1025
# The largest |tanh''|, and what a cubic piece's exceeds it by at the very most.
_BEND = 0.8


@dataclass(frozen=True)
class CubicTable:
    """tanh over [-reach, reach): `coefficients` [2^index_bits, 4] int32, the first for the lowest
    cell, powers rising.

    `error` bounds the absolute error over all real arguments that are exact in v's units, those
    beyond the reach included: the largest of samples of each cell, plus the most that it can rise
    by between two of them.
    """

    index_bits: int
    reach: float
    coefficients: npt.NDArray[np.int32]
    error: float

    @property
    def words(self) -> npt.NDArray[np.int32]:
        """All coefficients, cell after cell."""
        return self.coefficients.reshape(-1)

    @property
    def argument_bits(self) -> int:
        """Bits of v, its sign included."""
        return ARGUMENT_BITS

    @property
    def scale(self) -> float:
        """Units of v in 1.0."""
        return _HALF / self.reach

    @property
    def ends(self) -> tuple[int, int]:
        """What no value is less or larger than, from ranges of every step in each cell."""
        odd = np.arange(len(self.coefficients)) & 1
        low, high = -_HALF * odd, (_HALF - 1) * (1 - odd)
        rising = self.coefficients.astype(np.int64).T
        least = most = rising[3]
        for power in (2, 1, 0):
            corners = [_upper(y * t) for y in (least, most) for t in (low, high)]
            least = rising[power] + np.min(corners, axis=0)
            most = rising[power] + np.max(corners, axis=0)
        return int(least.min()), int(most.max())

    def look_up(self, v: Integers) -> Integers:
        """y [...], Q30, of v [...], which is within int32."""
        cells = len(self.coefficients)
        chosen = self.coefficients.astype(np.int64)[
            (v >> (ARGUMENT_BITS - self.index_bits)) + (cells >> 1)
        ]
        t = ((v << (self.index_bits - 1)) + _HALF) % (2 * _HALF) - _HALF
        y: Integers = chosen[..., 3]
        for power in (2, 1, 0):
            y = chosen[..., power] + _upper(y * t)
        return y


def _upper(product: Integers) -> Integers:
    """The upper half of a 64-bit product, to nearest."""
    return product + _HALF >> ARGUMENT_BITS


@cache
def cubic_table(index_bits: int = 7) -> CubicTable:
    """The table of 2^index_bits cells (16 bytes each).

    ValueError outside 5 to 9 bits: beyond 9, values in Q30 leave nothing to gain.
    """
    if not 5 <= index_bits <= 9:
        raise ValueError(f"a cubic table has 2^5 to 2^9 cells, not 2^{index_bits}")
    reaches = np.arange(4.0, 12.0, 1.0 / 16.0)
    reach = float(min(reaches, key=lambda r: _estimated(index_bits, r)))
    coefficients = _fitted(index_bits, reach)
    table = CubicTable(index_bits, reach, coefficients, 0.0)
    return CubicTable(index_bits, reach, coefficients, _measured(table))


def _estimated(index_bits: int, reach: float) -> float:
    """About the worst error for a reach: of the steepest cubics, and of half of what is left."""
    cell = 2.0 * reach / (1 << index_bits)
    return float(max(4.1 * cell**4 / 3072.0, 0.5 * (1.0 - np.tanh(reach))))


def _fitted(index_bits: int, reach: float) -> npt.NDArray[np.int32]:
    """The coefficients for a reach, [cells, 4]."""
    cells = np.arange(-(1 << (index_bits - 1)), 1 << (index_bits - 1))
    odd, width = (cells & 1)[:, np.newaxis], 2.0 * reach / len(cells)
    nodes = 0.5 - 0.5 * np.cos((np.arange(4) + 0.5) * np.pi / 4.0) - odd
    values = np.tanh((cells[:, np.newaxis] + odd + nodes) * width)
    # The outermost cells answer for all that lies beyond them: half of what is left to one.
    rest = 0.5 * (1.0 - np.tanh(reach))
    values[0] -= rest
    values[-1] += rest
    powers: Doubles = np.linalg.solve(nodes[..., np.newaxis] ** _POWERS, values[..., np.newaxis])
    # Every product halves, as t has a fraction of 31 bits and 32 are dropped.
    return np.rint(powers[..., 0] * 2.0 ** (FRACTION + _POWERS)).astype(np.int32)


def _measured(table: CubicTable) -> float:
    """The bound of the error."""
    cells = len(table.coefficients)
    step = 2 * _HALF // cells
    places = np.linspace(0, step - 1, _SAMPLES).astype(np.int64)
    v = (np.arange(-(cells >> 1), cells >> 1)[:, np.newaxis] * step) + places
    y = table.look_up(v) * 2.0**-FRACTION
    inside = np.abs(y - np.tanh(v / table.scale)).max()
    beyond = max(1.0 - y[-1, -1], 1.0 + y[0, 0])
    apart = step / (_SAMPLES - 1) / table.scale
    # Between samples: what two curves bend apart, and what three roundings add.
    between = apart**2 / 8.0 * 2.0 * _BEND + 3.0 * 2.0**-FRACTION
    return float(max(inside + between, beyond))
