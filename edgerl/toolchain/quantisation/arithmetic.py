"""Arithmetics: what depends on how many bits the vectors and weights of a program have.

In all three, sums are int32, states are of 30 bits with a fraction of 29, and the table gives
numbers of fraction 30; what matrices read of a state or of the table is its upper bits, as many
as a vector has.

- 16 bits: products are whole, int16 x int16, and count fully.
- 32 bits: products count by their upper half, to nearest (SMMLAR, one instruction of a DSP core
  that both halves and sums), and states are read as they are: the accuracy of floats.
- 8 bits: products are whole and so small that sums never get near int32; they are shifted up
  instead (`Rows.lift`) for multipliers to bring each row to the scale its readers expect. Inputs
  are rounded to nearest, as half a bit counts.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgerl.toolchain.quantisation.table import FRACTION, Integers

Width = Literal[8, 16, 32]
Weights = npt.NDArray[np.signedinteger[Any]]

STATE_BITS = 30
_TABLE_BITS = FRACTION + 1


def state_shift(bits: int) -> int:
    """From a state to a vector of so many bits."""
    return max(STATE_BITS - bits, 0)


def curve_shift(bits: int) -> int:
    """From what the table gives to a vector of so many bits."""
    return max(_TABLE_BITS - bits, 0)


def sigmoid_shift(bits: int) -> int:
    """From the table's value plus one, a number of fraction 31, to a vector of so many bits."""
    return max(_TABLE_BITS + 1 - bits, 0)


def upper(product: Integers, dropped: int = 32) -> Integers:
    """The upper bits of a 64-bit product, to nearest: without so many lower ones."""
    return product + (1 << dropped >> 1) >> dropped


@dataclass(frozen=True)
class Arithmetic:
    """What vectors and weights of `width` bits are like.

    `dropped` are the lower bits that a single product loses, to nearest; `guard` those that an
    input has more before it is rounded to nearest (without any it is rounded towards zero).
    `most_lift` is the most that rows may be lifted for their multipliers.
    """

    width: Width
    dropped: int
    guard: int
    integers: type[np.signedinteger[Any]]
    most_lift: int = 0

    @property
    def largest(self) -> int:
        """The largest weight, and the largest element of a vector."""
        return (1 << (self.width - 1)) - 1


HALVES = Arithmetic(16, 0, 0, np.int16)
WORDS = Arithmetic(32, 32, 0, np.int32)
BYTES = Arithmetic(8, 0, 8, np.int8, most_lift=30)
