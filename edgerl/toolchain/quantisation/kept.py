"""Kept states: past observations, the previous action, carried from step to step as int16.

An element of a kept state is what some tensor was steps ago. It keeps the scale of where it comes
from, so that the gather that moves it along is all there is to do: an observation's own, or that
of a gated unit's state. For what a layer made, whose scales are chosen later, it is a power of two
over the range that the calibration reached.
"""

from collections.abc import Callable, Mapping

import numpy as np

from edgerl.toolchain.ir import Clip, Gather, Gru, Lstm, Program, reads, writes
from edgerl.toolchain.quantisation.limiting import Extents
from edgerl.toolchain.quantisation.program import Halfword

Element = tuple[str, int]


def kept_halfwords(
    program: Program,
    known: Mapping[str, Halfword],
    extents: Extents,
    exponent: Callable[[str, float], int],
) -> dict[str, Halfword]:
    """How each kept state is read, before and after. `known` are the vectors that have a scale
    already, `exponent` gives for a name and a range the power of two that holds it."""
    made = {name: op for op in program.operations for name in writes(op)}
    units = (op for op in program.operations if isinstance(op, Gru | Lstm))
    recurrent = {name for unit in units for name in reads(unit)}
    kept = [pair for pair in program.states if pair[0] not in recurrent]
    after = dict(kept)
    fixed = known.keys() - {name for pair in kept for name in pair}

    def origin(element: Element) -> Element:
        """What an element was in the end; itself where states only hand it round."""
        seen = set()
        while element not in seen:
            seen.add(element)
            name, k = element
            operation = made.get(after.get(name, name))
            match operation:
                case Gather(sources, picks):
                    source, k = picks[k]
                    element = sources[source], k
                case Clip(x=x):
                    element = x, k
        return element

    found = {}
    for before, following in kept:
        lsb, offset = np.zeros(program.size(before)), np.zeros(program.size(before))
        for k in range(len(lsb)):
            name, j = origin((following, k))
            if name in fixed:
                lsb[k], offset[k] = known[name].lsb[j], known[name].offset[j]
            else:
                lsb[k] = 2.0 ** -exponent(name, float(extents[name].size.max()))
        found[before] = found[following] = Halfword(lsb, offset)
    return found
