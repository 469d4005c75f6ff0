"""Scales of 8-bit programs: each row as fine as int8 weights are, and a multiplier to what its
readers expect.

Sums of int8 products stay far below int32; what costs accuracy is that weights and operands have
8 bits, which `fitting` makes the most of. Vectors use all of theirs: what is never negative is
stored 128 less than it is, so that both signs count.
"""

from dataclasses import replace

from edgerl.toolchain.quantisation import fitting
from edgerl.toolchain.quantisation.arithmetic import BYTES
from edgerl.toolchain.quantisation.layers import row_steps
from edgerl.toolchain.quantisation.program import Doubles
from edgerl.toolchain.quantisation.scaling import Candidate, Operands, RealRows
from edgerl.toolchain.quantisation.scheme import Scheme


def per_row(real: RealRows, reach: Doubles, operands: Operands) -> tuple[Doubles, Candidate]:
    """The step of each row's int8 result, which is to hold `reach` [rows], and the rows."""
    lsb = row_steps(real, reach, operands.arithmetic.largest)
    return lsb, fitting.tabulated(real, 1.0 / lsb, operands)


SCHEME: Scheme = replace(
    fitting.SCHEME,
    arithmetic=BYTES,
    per_row=per_row,
    margin=1.25,
    # What saturates by so much is off by two steps, and half the range is worth a bit.
    signal_margin=0.98,
    widening=0.0,
    centred=True,
)
