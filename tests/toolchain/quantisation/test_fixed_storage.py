"""Weights in words: what goes in comes out, and what multiplies is what a kernel's shifts give."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerl.toolchain.quantisation import storage
from edgerl.toolchain.quantisation.program import Stored

WIDTHS = st.sampled_from([16, 8, 4])


def signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


@given(WIDTHS, st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_every_word_has_its_halves_and_they_give_it_back(
    stored: Stored, rows: int, count: int, seed: int
) -> None:
    words = np.random.default_rng(seed).integers(0, 2**32, (rows, count)).astype(np.uint32)
    effective = storage.halves(words, stored)
    group = 32 // stored
    assert effective.shape == (rows, count * group) and effective.dtype == np.int16
    for row in range(rows):
        for number, word in enumerate(words[row].tolist()):
            for k in range(0, group, 2):
                low, high = effective[row, number * group + k : number * group + k + 2]
                shifted = word << (k // 2 * stored)
                assert (low, high) == (signed(shifted, 16), signed(shifted >> 16, 16))
    assert np.array_equal(storage.pack(effective, stored), words)


@given(WIDTHS, st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_what_a_row_does_not_fill_is_zero(stored: Stored, columns: int, seed: int) -> None:
    weights = np.random.default_rng(seed).integers(-7, 8, columns) << (16 - stored)
    group = 32 // stored
    whole = np.zeros(storage.words_a_row(columns, stored) * group, np.int64)
    for column in storage.known_order(columns, stored).tolist():
        start = column - column % group
        under = storage.below(stored, column % group)
        junk = sum(
            (int(whole[start + k]) >> (16 - stored) & ((1 << stored) - 1))
            << (16 - (place + 2) * stored)
            for place, k in enumerate(under)
        )
        whole[column] = weights[column] + junk
    packed = storage.pack(whole[np.newaxis, :columns], stored)
    assert packed.shape == (1, len(whole) // group)
    assert np.array_equal(storage.halves(packed, stored)[0, :columns], whole[:columns])


def test_the_order_of_a_word_from_its_top() -> None:
    eight = np.array([[0x0300, 0x0104, 0x0400, 0x0203]])
    assert storage.pack(eight - eight % 256 + [[4, 2, 0, 3]], 8).tolist() == [[0x01020304]]
    assert storage.known_order(4, 8).tolist() == [2, 0, 3, 1]
    assert storage.known_order(8, 4).tolist() == [6, 4, 2, 0, 7, 5, 3, 1]
    assert storage.known_order(6, 8).tolist() == [2, 0, 3, 1, 4, 5]
    assert storage.pack(np.array([[1, -2, 3]]), 16).tolist() == [[0xFFFE0001, 3]]


@pytest.mark.parametrize("stored", [4, 8])
def test_weights_that_no_word_has(stored: Stored) -> None:
    with pytest.raises(ValueError, match=f"{stored} bits"):
        storage.pack(np.array([[1, 0, 0, 0]]), stored)
