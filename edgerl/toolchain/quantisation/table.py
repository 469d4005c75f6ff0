"""The activation table: tanh in straight pieces, looked up without a multiplier, abs or mask.

The argument v is an integer of 15 + index bits, signed; 2^15 of its units make one cell, so
`v >> 15` picks the cell and the low 16 bits of v, read as a signed number t, are the offset: bit
15 is both the lowest bit of the cell and the sign of t. An even cell is therefore anchored at
its left end and an odd one at its right end. Its word is (value << 16) + slope, value in Q14 and
slope in Q30 a unit, and

    y = word + slope * t = value * 2^16 + slope * (t + 1)        Q30

(on a core with dual 16-bit multiplies: saturate, shift, load, one SMLABB). Chords are shifted by
half their largest distance, the best that a straight piece can do; the cells reach as far as
makes the worst error of the pieces and of what lies beyond smallest. |y| < 2^30.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

CELL_BITS = 15
FRACTION = 30
VALUE_BITS = 16
_LARGEST_VALUE = (1 << (FRACTION - VALUE_BITS)) - 1
_SAMPLES = 33

Integers = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """A function over [centre - reach, centre + reach]: `words` [2^index_bits] int32, the first
    for the lowest cell. An argument x is v = (x - centre) * scale, a value y * unit.

    Of tanh, `error` is the largest absolute error over all real arguments that are exact in v's
    units, those beyond the reach included, measured at every v.
    """

    index_bits: int
    reach: float
    words: npt.NDArray[np.int32]
    error: float
    centre: float = 0.0
    unit: float = 2.0**-FRACTION

    @property
    def argument_bits(self) -> int:
        """Bits of v, its sign included: what an accumulator is saturated to."""
        return CELL_BITS + self.index_bits

    @property
    def scale(self) -> float:
        """Units of v in 1.0."""
        return _scale(self.index_bits, self.reach)

    @property
    def ends(self) -> tuple[int, int]:
        """The least and the largest value there is: the pieces are straight."""
        first = np.arange(-(len(self.words) >> 1), len(self.words) >> 1) << CELL_BITS
        values = self.look_up(np.concatenate([first, first + (1 << CELL_BITS) - 1]))
        return int(values.min()), int(values.max())

    def look_up(self, v: Integers) -> Integers:
        """y [...], int32, of v [...], which is within `argument_bits`."""
        words = self.words.astype(np.int64)[(v >> CELL_BITS) + (len(self.words) >> 1)]
        y: Integers = words + low_half(words) * low_half(v)
        return y


def low_half(x: Integers) -> Integers:
    """The low 16 bits as a signed number."""
    return ((x & 0xFFFF) ^ 0x8000) - 0x8000


def _scale(index_bits: int, reach: float) -> float:
    return float(2.0 ** (CELL_BITS + index_bits - 1) / reach)


@cache
def tanh_table(index_bits: int = 7) -> Table:
    """The table of 2^index_bits cells (4 bytes each).

    ValueError outside 4 to 10 bits: beyond 9, values in Q14 leave nothing to gain.
    """
    if not 4 <= index_bits <= 10:
        raise ValueError(f"a table has 2^4 to 2^10 cells, not 2^{index_bits}")
    reaches = np.arange(2.0, 8.0, 1.0 / 16.0)
    reach = float(min(reaches, key=lambda r: _fitted(index_bits, r)[1]))
    words, _ = _fitted(index_bits, reach)
    table = Table(index_bits, reach, words, 0.0)
    half = 1 << (table.argument_bits - 1)
    v = np.arange(-half, half)
    y = table.look_up(v) * 2.0**-FRACTION
    inside = np.abs(y - np.tanh(v / table.scale)).max()
    beyond = max(1.0 - y[-1], 1.0 + y[0])
    return Table(index_bits, reach, words, float(max(inside, beyond)))


def _fitted(index_bits: int, reach: float) -> tuple[npt.NDArray[np.int32], float]:
    """The words for a reach, and their worst error on a grid of each cell's arguments."""
    cells = np.arange(-(1 << (index_bits - 1)), 1 << (index_bits - 1))
    width = 1 << CELL_BITS
    v = (cells[:, np.newaxis] << CELL_BITS) + np.linspace(0, width - 1, _SAMPLES).astype(np.int64)
    wanted = np.tanh(v / _scale(index_bits, reach))
    # The outermost cells answer for all that lies beyond them.
    wanted[0, 0], wanted[-1, -1] = -1.0, 1.0
    wanted *= 1 << FRACTION
    ends = np.tanh(np.stack([cells, cells + 1]) * (width / _scale(index_bits, reach)))
    slope = np.rint((ends[1] - ends[0]) * (1 << (FRACTION - CELL_BITS))).astype(np.int64)
    rest = wanted - slope[:, np.newaxis] * (low_half(v) + 1)
    middle = 0.5 * (rest.max(axis=1) + rest.min(axis=1)) / (1 << VALUE_BITS)
    value = np.clip(np.rint(middle), -_LARGEST_VALUE, _LARGEST_VALUE).astype(np.int64)
    error = np.abs(rest - (value << VALUE_BITS)[:, np.newaxis]).max() / (1 << FRACTION)
    return ((value << VALUE_BITS) + slope).astype(np.int32), float(error)
