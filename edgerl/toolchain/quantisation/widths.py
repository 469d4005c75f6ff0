"""Widths: how many of its 16 bits an int16 vector uses.

What a sum can reach is the product of what weights and operands can: a bit that a vector gives up
is one that all weights on it gain, at no cost at run time. It pays as long as rounding the weights
costs more than rounding the vector, which is so where many columns share an accumulator, and
where weights have few bits anyway. Each vector takes the width at which both together cost its
readers least, by the mean squares that a calibration showed.
"""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from edgerl.toolchain.ir import Activate, Clip, Dense, Gather, Gru, Lstm, Program, reads, writes
from edgerl.toolchain.quantisation.program import WIDTH, Doubles, Stored
from edgerl.toolchain.quantisation.rounding import Moments, read_by

LEAST_BITS = 8
# Against divisions by zero.
_LEAST = 2.0**-40
_NARROWER = np.arange(WIDTH - LEAST_BITS + 1)


def widths(
    program: Program,
    stored: Mapping[str, Stored],
    reach: Mapping[str, Doubles],
    moments: Mapping[str, Moments],
    wider: int = 0,
) -> dict[str, int]:
    """The bits of every tensor that layers read, by name.

    `stored` are the bits of a layer's weights and `moments` those of what it reads, both by the
    first tensor that it writes; `reach` [size] is what a vector's integers must hold. An
    observation at 16-bit weights stays at 16 bits: to saturate it lower takes an instruction. With
    `wider`, whatever gives up bits gives up so many fewer.
    """
    free = _free(program)
    cost: dict[str, Doubles] = {}
    for operation in reversed(program.operations):
        if isinstance(operation, Gather | Clip):
            # What it takes from elsewhere is as wide as there.
            for x in reads(operation):
                _add(cost, x, cost.get(operation.y, np.zeros(len(_NARROWER))))
        start, layer = 0, writes(operation)[0]
        for x, w in read_by(operation):
            part = slice(start, start + w.shape[1])
            start = part.stop
            square = _squares(moments[layer], part)
            held = np.ones(w.shape[1]) if free.get(x) else np.maximum(reach[x], _LEAST)
            spent = np.array(
                [
                    _cost(w, held * 2.0**fewer, square, stored[layer], WIDTH - fewer)
                    for fewer in _NARROWER.tolist()
                ]
            )
            if x == program.observation and stored[layer] == WIDTH:
                spent = np.where(_NARROWER > 0, np.inf, spent)
            _add(cost, x, spent)
    for before, after in program.states:
        both = cost.get(before, 0.0) + cost.get(after, np.zeros(len(_NARROWER)))
        cost[before] = cost[after] = both
    best = {x: int(spent.argmin()) for x, spent in cost.items() if x in free}
    return {x: WIDTH - (max(given - wider, 0) if given else 0) for x, given in best.items()}


def balanced(
    program: Program,
    stored: Mapping[str, Stored],
    moments: Mapping[str, Moments],
    parts: Sequence[slice],
    exponents: Sequence[int],
    bits: int,
) -> list[int]:
    """The exponents of the observation's signals, which stand in `parts`, each no larger than the
    one given, the finest that `bits` allow.

    Weights of few bits share a row's scale, so that a signal of far smaller weights than others
    has none left; one that is read more coarsely has larger weights. Each exponent is changed by
    one as long as that makes rounding weights and observation together cost less. 16-bit weights
    that read it, and vectors that are picked from it, leave all as they are.
    """
    x, found = program.observation, list(exponents)
    reading = [op for op in program.operations if x in reads(op)]
    if not all(read_by(op) and stored[writes(op)[0]] < WIDTH for op in reading):
        return found
    read = []
    for operation in reading:
        layer, start = writes(operation)[0], 0
        for vector, w in read_by(operation):
            part = slice(start, start + w.shape[1])
            start = part.stop
            if vector == x:
                read.append((w, _squares(moments[layer], part), stored[layer]))

    def cost(tried: Sequence[int]) -> float:
        steps = np.ones(sum(part.stop - part.start for part in parts))
        for part, exponent in zip(parts, tried, strict=True):
            steps[part] = 2.0**-exponent
        # Rounded towards zero, it is off by four times what rounding to nearest would be.
        return sum(float(_cost(w, steps * 2.0**15, s, b, bits, 4.0)) for w, s, b in read)

    least, better = cost(found), True
    while better:
        better = False
        for place, by in product(range(len(found)), (-1, 1)):
            tried = [*found[:place], found[place] + by, *found[place + 1 :]]
            if tried[place] <= exponents[place] and cost(tried) < least:
                found, least, better = tried, cost(tried), True
    return found


def _free(program: Program) -> dict[str, bool]:
    """The tensors whose width is free, and whether they are numbers of [-1, 1] as they are."""
    free = {program.observation: False}
    for operation in program.operations:
        match operation:
            case Dense(y=y, activation=activation):
                free[y] = activation in ("tanh", "sigmoid")
            case Activate(y=y):
                free[y] = False
            case Gru(h=h, h_next=h_next):
                free[h] = free[h_next] = True
            case Lstm(h=h, h_next=h_next, c=c, c_next=c_next):
                free[h] = free[h_next] = True
                free[c] = free[c_next] = False
    return free


def _add(cost: dict[str, Doubles], x: str, spent: Doubles) -> None:
    cost[x] = cost.get(x, np.zeros(len(_NARROWER))) + spent


def _squares(moments: Moments, part: slice) -> Doubles:
    """The mean squares of some of the elements."""
    squares: Doubles = moments.mean[part] ** 2 + np.diag(moments.covariance)[part]
    return squares


def _cost(
    w: Doubles, reach: Doubles, square: Doubles, stored: Stored, bits: int, coarser: float = 1.0
) -> float:
    """What rounding weights and an operand of `bits` bits costs, over what they give; the mean
    over rows. `reach` is what 16 bits of its elements' steps would hold, and `coarser` how many
    times the mean square of its rounding is that of rounding to nearest."""
    step = reach * 2.0**-15
    sized = np.abs(w) * step
    given = np.maximum((w**2) @ square, _LEAST**2)
    largest, total = sized.max(axis=1, initial=0.0), sized.sum(axis=1)
    # Of an effective weight, units in 1.0 of weight times step.
    units = np.minimum(
        2.0**15 / np.maximum(largest, _LEAST), 2.0 ** (32 - bits) / np.maximum(total, _LEAST)
    )
    weights = (2.0 ** (16 - stored) / units) ** 2 * (square / step**2).sum()
    operand = coarser * (sized**2).sum(axis=1)
    return float(((weights + operand) / 12.0 / given).mean())
