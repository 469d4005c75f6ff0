"""Storage: weights of 16, 8 or 4 bits in words of 32, and what of a word multiplies.

A word holds one row's weights of 32 / stored neighbouring columns, a group. What multiplies are
its two signed halves: those of the word as it is for columns 0 (low half) and 1 (high half) of
the group, those of the word shifted left by `stored` bits for columns 2 and 3, and so on. From
the top a word therefore has its columns in the order 1, 3, ... 0, 2, ..., and no kernel ever
unpacks. Each weight is the upper bits of a half; the bits below it are its neighbours', so the
half, not the weight, is what multiplies: the effective weight.

The last group is filled up with columns of stored zeros. Below 16 bits their effective weights
need not be zero, so what they multiply must be.
"""

import numpy as np
import numpy.typing as npt

from edgerl.toolchain.quantisation.program import Halves, Stored

Unsigned = npt.NDArray[np.uint32]

_WORD = 32
_HALF = 16


def columns_a_word(stored: Stored) -> int:
    """How many columns of a row one word holds."""
    return _WORD // stored


def words_a_row(columns: int, stored: Stored) -> int:
    """How many words one row takes."""
    return -(-columns // columns_a_word(stored))


def known_order(columns: int, stored: Stored) -> npt.NDArray[np.intp]:
    """The columns, group by group, each after all whose weights lie below its own in a half.

    In this order weights can be chosen one by one, each knowing its effective weight.
    """
    group = columns_a_word(stored)
    every = np.arange(words_a_row(columns, stored) * group).reshape(-1, group)
    order = every[:, _upwards(stored)].ravel()
    return order[order < columns]


def below(stored: Stored, column: int) -> tuple[int, ...]:
    """The columns of its group whose weights lie below that of `column` in its half, the next
    lower first; each lies `stored` bits lower than the one before."""
    upwards = _upwards(stored)
    place = upwards.index(column)
    most = _HALF // stored - 1
    return tuple(reversed(upwards[max(0, place - most) : place]))


def pack(effective: npt.NDArray[np.signedinteger], stored: Stored) -> Unsigned:
    """The words [rows, words a row] of effective weights [rows, columns].

    Raises ValueError where no word has them.
    """
    rows, columns = effective.shape
    group = columns_a_word(stored)
    whole = np.zeros((rows, words_a_row(columns, stored) * group), np.int64)
    whole[:, :columns] = effective
    # The weight itself: below it lies what is positive, so rounding down takes it off.
    weights = whole >> (_HALF - stored)
    grouped = weights.reshape(rows, -1, group).astype(np.uint32) & np.uint32((1 << stored) - 1)
    words = np.zeros(grouped.shape[:2], np.uint32)
    for place, column in enumerate(_upwards(stored)):
        words |= grouped[:, :, column] << np.uint32(place * stored)
    if not np.array_equal(halves(words, stored)[:, :columns], effective):
        raise ValueError(f"weights that {stored} bits do not hold")
    return words


def halves(words: Unsigned, stored: Stored) -> Halves:
    """The effective weights [rows, words a row * columns a word] of words [rows, words a row],
    those of the columns that fill up the last group among them."""
    parts = []
    for shift in range(0, _HALF, stored):
        shifted = words << np.uint32(shift)
        parts += [shifted & np.uint32(0xFFFF), shifted >> np.uint32(_HALF)]
    return np.stack(parts, axis=-1).astype(np.uint16).view(np.int16).reshape(len(words), -1)


def _upwards(stored: Stored) -> list[int]:
    """The columns of a group from the lowest bits of a word to the highest."""
    group = columns_a_word(stored)
    return [*range(group - 2, -1, -2), *range(group - 1, -1, -2)]
