"""Which of several ways to quantise a program is taken."""

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from edgerl.toolchain.quantisation import FixedProgram
from edgerl.toolchain.quantisation.selection import Trial, closest, smallest_table


class Known(Trial):
    """A trial of programs that carry their error."""

    def errors(self, fixed: FixedProgram) -> np.ndarray:
        return np.array([[cast(SimpleNamespace, fixed).wrong]])


ON = Known((), (), np.ones(1))
# What tables of 2^7, 2^8 and 2^9 cells are wrong by themselves.
TABLES = {7: 2.4e-4, 8: 9.6e-5, 9: 6.1e-5}


def program(bits: int, wrong: float) -> FixedProgram:
    found = SimpleNamespace(bits=bits, wrong=wrong, table=SimpleNamespace(error=TABLES[bits]))
    return cast(FixedProgram, found)


@pytest.mark.parametrize(
    ("wrong", "taken", "tried"),
    [
        ((4e-4, 1e-4, 1e-4), 7, [7]),  # close enough
        ((9e-4, 4e-4, 1e-4), 8, [7, 8]),
        ((9.0e-4, 7.3e-4, 6.7e-4), 8, [7, 8, 9]),  # the third is hardly better
        ((9.0e-4, 7.6e-4, 5.5e-4), 9, [7, 8, 9]),
        ((3.6e-3, 1e-4, 1e-4), 7, [7]),  # no table could be the cause
    ],
)
def test_a_finer_table_must_be_worth_it(
    wrong: tuple[float, float, float], taken: int, tried: list[int]
) -> None:
    made: list[int] = []

    def make(bits: int) -> FixedProgram:
        made.append(bits)
        return program(bits, wrong[bits - 7])

    assert cast(SimpleNamespace, smallest_table(make, range(7, 10), ON)).bits == taken
    assert made == tried


def test_the_closest_is_taken() -> None:
    offered = [program(7, 0.3), program(8, 0.1), program(9, 0.2)]
    assert closest(iter(offered), ON) is offered[1]
