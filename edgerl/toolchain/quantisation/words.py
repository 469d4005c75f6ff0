"""Scales of 32-bit programs: as coarse as it takes for no sum to overflow, and no coarser.

Weights and operands have bits to spare, so that what an accumulator can reach decides: rows
accumulate at 2^-lift of the units of their result, and the smallest lift is chosen at which all
of them provably fit. A table's own shifts take the lift in; elsewhere it is a shift a row.
"""

from dataclasses import replace

from edgerl.toolchain.quantisation.arithmetic import WORDS
from edgerl.toolchain.quantisation.cubic import cubic_table
from edgerl.toolchain.quantisation.layers import output, row_steps
from edgerl.toolchain.quantisation.program import Doubles
from edgerl.toolchain.quantisation.proof import Range, lifted, reset_applied
from edgerl.toolchain.quantisation.scaling import (
    Candidate,
    Operands,
    RealRows,
    Start,
    candidate,
    first_fitting,
)
from edgerl.toolchain.quantisation.scheme import Scheme
from edgerl.toolchain.quantisation.table import Integers

_LIFTS = range(25)


def tabulated(real: RealRows, unit: float, operands: Operands) -> Candidate:
    """Rows whose results, of `unit` times the real ones, the table reads."""
    _, chosen = first_fitting(_LIFTS, lambda lift: _lifted(real, unit, lift, operands))
    return chosen


def per_row(real: RealRows, reach: Doubles, operands: Operands) -> tuple[Doubles, Candidate]:
    """The step of each row's result, which holds `reach` [rows], and the rows.

    Raises UserError where all are zero.
    """
    lsb = row_steps(real, reach, operands.arithmetic.largest)
    _, chosen = first_fitting(_LIFTS, lambda lift: _lifted(real, 1.0 / lsb, lift, operands))
    return lsb, chosen


def candidate_rows(
    real_hidden: RealRows, real_input: RealRows, unit: float, operands: Operands
) -> tuple[Candidate, Candidate]:
    """The hidden part of a new state at twice the scale of the accumulator that it is added to,
    and the input part, whose result is of `unit`."""

    def at(lift: int) -> Candidate:
        hidden = hidden_at(lift)
        return input_at(hidden, lift) if hidden.fits.all() else hidden

    def hidden_at(lift: int) -> Candidate:
        return candidate(real_hidden, 2.0 * unit * 2.0**-lift, (0,), operands)

    def input_at(hidden: Candidate, lift: int) -> Candidate:
        def start(bias: Integers) -> Range:
            return reset_applied(bias, hidden.result)

        return _lifted(real_input, unit, lift, operands, start)

    lift, chosen = first_fitting(_LIFTS, at)
    return hidden_at(lift), chosen


def _lifted(
    real: RealRows,
    unit: Doubles | float,
    lift: int,
    operands: Operands,
    start: Start | None = None,
) -> Candidate:
    """Rows whose result is of `unit` once it is shifted up."""
    still = (0,) * len(real.sources)
    below = candidate(real, unit * 2.0**-lift, still, operands, start)
    return replace(below, rows=replace(below.rows, lift=lift), result=lifted(below.result, lift))


SCHEME = Scheme(
    arithmetic=WORDS,
    # There are bits to spare; what is beyond them still saturates.
    margin=2.0,
    signal_margin=2.0,
    index_bits=8,
    table=cubic_table,
    tabulated=tabulated,
    per_row=per_row,
    output=output,
    candidate_rows=candidate_rows,
)
