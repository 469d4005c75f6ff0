"""Layers: which scales the rows of each kind of layer get."""

import math

import numpy as np
import numpy.typing as npt

from edgerl.errors import UserError
from edgerl.toolchain.ir import Gru, Lstm
from edgerl.toolchain.quantisation.arithmetic import HALVES
from edgerl.toolchain.quantisation.program import (
    STATE_FRACTION,
    Doubles,
    FixedGru,
    FixedLstm,
    Rows,
)
from edgerl.toolchain.quantisation.proof import Range, reset_applied
from edgerl.toolchain.quantisation.scaling import (
    Candidate,
    Operands,
    RealRows,
    candidate,
    first_fitting,
)
from edgerl.toolchain.quantisation.scheme import Scheme
from edgerl.toolchain.quantisation.table import Integers, tanh_table

LARGEST_HALFWORD = (1 << 15) - 1

_SHIFTS = range(20, -1, -1)
_OUTPUT_EXPONENTS = range(31, -32, -1)
_CELL_EXPONENTS = range(29, 21, -1)
# With fewer bits to shift out, single rows are widened rather than everybody's weights coarsened.
_LEAST_SHIFT = 8
_WIDENINGS = 24
# Of a row's range in the layer's largest: one bit of it, for far fewer saturations on fresh data.
_LEAST_SHARE = 1.0 / 2.0
# Ranges are rounded up to so many bits, or the last bit of somebody's sums would decide them.
_RANGE_BITS = 10


def tabulated(real: RealRows, unit: Doubles | float, operands: Operands) -> Candidate:
    """Rows whose results, of `unit` times the real ones, the table reads.

    The second source and later ones continue where the first ended; each stretch but the last
    is as much finer as its weights and the accumulator allow.
    """
    count = len(real.sources)
    shifts = [0] * count
    for place in reversed(range(count)):

        def at(shift: int, place: int = place) -> Candidate:
            tried = (*shifts[:place], shift, *shifts[place + 1 :])
            return candidate(real, unit, tried, operands)

        shifts[place], chosen = first_fitting(_SHIFTS, at)
    return chosen


def per_row(real: RealRows, reach: Doubles, operands: Operands) -> tuple[Doubles, Candidate]:
    """The step of each row's int16 result, and the rows at the largest common shift.

    `reach` [rows] is what the results must hold. A row that a calibration hardly excites says
    little about its range, so none is thought to reach less than a part of what the largest does.
    Raises UserError where all are zero.
    """
    lsb = row_steps(real, reach, LARGEST_HALFWORD)
    still = (0,) * (len(real.sources) - 1)
    for _ in range(_WIDENINGS):
        floor = candidate(real, 1.0 / lsb, (*still, _LEAST_SHIFT), operands)
        if floor.fits.all():
            break
        lsb = np.where(floor.fits, lsb, 2.0 * lsb)
    _, chosen = first_fitting(
        range(_SHIFTS[0], _LEAST_SHIFT - 1, -1),
        lambda shift: candidate(real, 1.0 / lsb, (*still, shift), operands),
    )
    return lsb, chosen


def row_steps(real: RealRows, reach: Doubles, largest: int) -> Doubles:
    """What a row's result must step by for integers up to `largest` to hold `reach`, [rows].

    Raises UserError where all are zero.
    """
    most = float(reach.max())
    if most == 0.0:
        raise UserError(
            f"calibration: {real.layer} is zero on all of it, which says nothing about its range; "
            "calibrate with more varied observations"
        )
    return _rounded_up(np.maximum(reach, _LEAST_SHARE * most)) / largest


def output(real: RealRows, operands: Operands) -> tuple[int, Candidate]:
    """The largest exponent at which the rows fit unshifted, and the rows."""
    still = (0,) * len(real.sources)
    return first_fitting(
        _OUTPUT_EXPONENTS, lambda exponent: candidate(real, 2.0**exponent, still, operands)
    )


def gated(op: Gru, x: str, operands: Operands, scale: float, scheme: Scheme) -> FixedGru:
    """A gated recurrent unit that reads x as the int16 vector of that name, with a table of so
    many units in 1.0."""
    input_r, input_z, input_n = np.split(op.w_input.astype(np.float64), 3)
    hidden_r, hidden_z, hidden_n = np.split(op.w_hidden.astype(np.float64), 3)
    bias = np.split(op.b_input.astype(np.float64) + op.b_hidden, 3)

    def gate(part: str, sign: float, bias: Doubles, *weights: Doubles) -> Candidate:
        sources = zip((op.h, x), weights, strict=True)
        real = RealRows(op.h_next, part, sign * bias, tuple((v, sign * w) for v, w in sources))
        return scheme.tabulated(real, 0.5 * scale, operands)

    b_input, b_hidden = (np.split(b.astype(np.float64), 3)[2] for b in (op.b_input, op.b_hidden))
    real_hidden = RealRows(op.h_next, "hidden", b_hidden, ((op.h, hidden_n),))
    real_input = RealRows(op.h_next, "candidate", b_input, ((x, input_n),))
    hidden, new = scheme.candidate_rows(real_hidden, real_input, scale, operands)
    return FixedGru(
        x=x,
        h=op.h,
        h_next=op.h_next,
        reset=gate("reset", 1.0, bias[0], hidden_r, input_r).rows,
        update=gate("update", -1.0, bias[1], hidden_z, input_z).rows,
        hidden=hidden.rows,
        candidate=new.rows,
    )


def candidate_rows(
    real_hidden: RealRows, real_input: RealRows, unit: float, operands: Operands
) -> tuple[Candidate, Candidate]:
    """The hidden part of a new state at twice the scale of the accumulator that it is added to,
    and the input part, whose result is of `unit`; each as fine as it can be."""

    def hidden_at(shift: int, finer: int) -> Candidate:
        return candidate(real_hidden, unit * 2.0 ** (shift + 1), (finer,), operands)

    def input_after(hidden: Candidate, shift: int) -> Candidate:
        def start(bias: Integers) -> Range:
            return reset_applied(bias, hidden.result)

        return candidate(real_input, unit, (shift,), operands, start)

    def both(shift: int, finer: int) -> Candidate:
        hidden = hidden_at(shift, finer)
        return input_after(hidden, shift) if hidden.fits.all() else hidden

    shift, _ = first_fitting(_SHIFTS, lambda shift: both(shift, 0))
    finer, chosen = first_fitting(_SHIFTS, lambda finer: both(shift, finer))
    return hidden_at(shift, finer), chosen


def cell_exponent(cell: str, reach: float) -> int:
    """The fraction of a cell of 30 bits that is to hold `reach`.

    Raises UserError where it is too large.
    """
    for exponent in _CELL_EXPONENTS:
        if reach * 2.0**exponent < 1 << 29:
            return exponent
    raise UserError(
        f"{cell}: the cell reaches {reach:.3g} with its margin and integers hold "
        f"{2 ** (29 - _CELL_EXPONENTS[-1])}; calibrate with shorter sequences, or train a bounded "
        "cell"
    )


def _cell_factor(exponent: int, scale: float) -> tuple[int, int]:
    """From a cell's units to the table's, over 2^32, as a factor below 2^31 and a lift."""
    real = scale * 2.0 ** (32 - exponent)
    lift = max(0, math.frexp(real)[1] - 31)
    return round(real * 2.0**-lift), lift


def remembered(
    op: Lstm, x: str, exponent: int, operands: Operands, scale: float, scheme: Scheme
) -> FixedLstm:
    """A long short-term memory that reads x as the int16 vector of that name, with a cell of
    this exponent."""
    inputs = np.split(op.w_input.astype(np.float64), 4)
    hiddens = np.split(op.w_hidden.astype(np.float64), 4)
    biases = np.split(op.bias.astype(np.float64), 4)

    def gate(number: int, part: str, share: float) -> Rows:
        sources = ((op.h, hiddens[number]), (x, inputs[number]))
        real = RealRows(op.h_next, part, biases[number], sources)
        return scheme.tabulated(real, share * scale, operands).rows

    factor, lift = _cell_factor(exponent, scale)
    return FixedLstm(
        x=x,
        h=op.h,
        c=op.c,
        h_next=op.h_next,
        c_next=op.c_next,
        input=gate(0, "input", 0.5),
        forget=gate(1, "forget", 0.5),
        new=gate(2, "new", 1.0),
        output=gate(3, "output", 0.5),
        shift=STATE_FRACTION - exponent,
        factor=factor,
        lift=lift,
    )


def _rounded_up(x: npt.ArrayLike) -> Doubles:
    """x > 0 with so many significant bits, no smaller."""
    fraction, exponent = np.frexp(np.asarray(x, np.float64))
    rounded: Doubles = np.ldexp(np.ceil(np.ldexp(fraction, _RANGE_BITS)), exponent - _RANGE_BITS)
    return rounded


SCHEME = Scheme(
    arithmetic=HALVES,
    margin=1.5,
    index_bits=7,
    table=tanh_table,
    tabulated=tabulated,
    per_row=per_row,
    output=output,
    candidate_rows=candidate_rows,
)
