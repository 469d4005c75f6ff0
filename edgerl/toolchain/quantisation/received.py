"""Received: what a model that was quantised elsewhere said of its numbers, kept.

The ranges of its tensors stand in place of those that a calibration reached, as they are, without
a margin: what saturated there saturates here. The scales of its weights are kept where integers
can be the same, which takes weights with a word's bits to themselves (w8a8) on operands of one
scale; else its weights are numbers like others, which have the exactness of their format.
"""

import numpy as np

from edgerl.toolchain.ir import Dense, Program
from edgerl.toolchain.quantisation.limiting import Extent, Extents
from edgerl.toolchain.quantisation.program import Doubles
from edgerl.toolchain.quantisation.scheme import Scheme


def received_extents(program: Program, reached: Extents, scheme: Scheme) -> Extents:
    """The extents that a calibration reached, those of tensors with given ranges such that with
    the scheme's margin they become these ranges."""
    given = {}
    for name, ends in program.given.ranges.items():
        margin = scheme.signal_margin if name == program.observation else scheme.margin
        low, high = (np.asarray(end, np.float64) / margin for end in (ends.low, ends.high))
        given[name] = Extent(low, high)
    return {**reached, **given}


def received_steps(program: Program) -> dict[str, Doubles]:
    """By dense layer, what the weights of each row are whole multiples of, [rows], where they came
    quantised."""
    rows = program.given.rows
    found: dict[str, Doubles] = {}
    for operation in program.operations:
        match operation:
            case Dense(sources, _, y) if sources and all((y, x) in rows for x, _ in sources):
                scales = [rows[y, x].scale.astype(np.float64) for x, _ in sources]
                if all(np.array_equal(scale, scales[0]) for scale in scales):
                    found[y] = scales[0]
    return found
