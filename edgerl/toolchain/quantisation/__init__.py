"""Quantisation: a float Program to integers that are proved, defined and measured.

`quantise` turns a Program and calibration observations into a `FixedProgram` (`program.py`),
which says every integer that an emitted program computes. `interpretation.run` is the bit-exact
definition; `proof.stretches` bounds every accumulator from the quantised integers.

int16 weights and activations, int32 accumulators and states, or 32 or 8 bits of both
(`arithmetic.py`). A dense layer's rows have scales of
their own, which the next layer's columns absorb; sums that an activation table reads have the
table's scale times a power of two; the recurrent part of a gate is accumulated first, at a finer
scale, and shifted down to the scale of the input part.
"""

from edgerl.toolchain.quantisation.conversion import NUMBER_FORMATS, quantise
from edgerl.toolchain.quantisation.formats import NumberFormat, number_format_of
from edgerl.toolchain.quantisation.interpretation import reset, run, trace
from edgerl.toolchain.quantisation.program import FixedProgram
from edgerl.toolchain.quantisation.proof import Stretch, require_no_overflow, stretches

__all__ = [
    "NUMBER_FORMATS",
    "FixedProgram",
    "NumberFormat",
    "Stretch",
    "number_format_of",
    "quantise",
    "require_no_overflow",
    "reset",
    "run",
    "stretches",
    "trace",
]
