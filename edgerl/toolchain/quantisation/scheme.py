"""Scheme: what rows of each purpose get as scales, in one arithmetic."""

from collections.abc import Callable
from dataclasses import dataclass

from edgerl.toolchain.quantisation.arithmetic import Arithmetic
from edgerl.toolchain.quantisation.cubic import CubicTable
from edgerl.toolchain.quantisation.program import Doubles
from edgerl.toolchain.quantisation.scaling import Candidate, Operands, RealRows
from edgerl.toolchain.quantisation.table import Table


@dataclass(frozen=True)
class Scheme:
    """The scales of an arithmetic.

    - `table(index_bits)`: the activation table; `index_bits` where nobody says otherwise.
    - `tabulated(rows, unit, operands)`: rows whose results, `unit` times the real ones, the table
      reads.
    - `per_row(rows, reach, operands)`: rows whose results other layers read; how they are read,
      and the rows.
    - `output(rows, operands)`: rows whose results leave; their exponent, and the rows.
    - `candidate_rows(hidden, input, unit, operands)`: the two parts of a gated unit's new state.
    - `margin`: what a layer's range is of the largest that a calibration reached.
    - `signal_margin`: the same of a signal; its valid range is held whole where that is no more
      than `widening` times as much.
    - `centred`: whether what is never negative is stored half of its range less.
    """

    arithmetic: Arithmetic
    margin: float
    index_bits: int
    table: Callable[[int], Table | CubicTable]
    tabulated: Callable[[RealRows, float, Operands], Candidate]
    per_row: Callable[[RealRows, Doubles, Operands], tuple[Doubles, Candidate]]
    output: Callable[[RealRows, Operands], tuple[int, Candidate]]
    candidate_rows: Callable[[RealRows, RealRows, float, Operands], tuple[Candidate, Candidate]]
    signal_margin: float = 1.25
    widening: float = 4.0
    centred: bool = False
