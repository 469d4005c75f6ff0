"""Propagation: enclosures through the operations of a Program, and the states that it keeps."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgerl.toolchain.bounds.arithmetic import Arithmetic
from edgerl.toolchain.bounds.emitted import Emitted
from edgerl.toolchain.bounds.enclosure import (
    LARGEST,
    SLACK,
    TINY,
    UNIT,
    Bounds,
    Doubles,
    Enclosure,
    divided,
    exactly,
    gamma,
    multiplied,
    rounded,
    settled,
    side_by_side,
)
from edgerl.toolchain.ir import (
    Activate,
    ArgMax,
    Binary,
    Clip,
    Dense,
    Gather,
    Gru,
    LayerNorm,
    Linear,
    Lstm,
    Operation,
    Program,
    Softmax,
)

# Roundings of 1 / sqrt(variance) and of the product with it, in all: a Newton step on a root that
# is already good spends three.
_ROOT_ROUNDINGS = 6
# The root of the smallest normal float32: below, a first guess from the exponent is none.
_LEAST_SPREAD = 2.0**-63


def propagate(
    program: Program, observation: Enclosure, states: Sequence[Enclosure], arithmetic: Arithmetic
) -> dict[str, Enclosure]:
    """Every tensor of one step from these observations and states."""
    tensors = {program.observation: observation}
    tensors.update(zip((before for before, _ in program.states), states, strict=True))
    with np.errstate(all="ignore"):
        for operation in program.operations:
            _perform(operation, tensors, arithmetic)
    return tensors


def kept_states(program: Program, observation: Enclosure, emitted: Emitted) -> list[Enclosure]:
    """What the states of the emitted program can be after any number of steps from a reset.

    The sizes grow from zero, from power of two to power of two, until no step leaves them.
    Where they never stop the state is unbounded.
    """
    limits = [np.zeros(program.size(before)) for before, _ in program.states]
    while True:
        states = [exactly(-limit, limit) for limit in limits]
        tensors = propagate(program, observation, states, emitted)
        after = [tensors[name].reach for _, name in program.states]
        # The worst of a batch of observations may come at any step.
        reaches = [r.reshape(-1, r.shape[-1]).max(axis=0) for r in after]
        grown = [np.maximum(x, _grown(r, x)) for x, r in zip(limits, reaches, strict=True)]
        if all(np.array_equal(x, y) for x, y in zip(limits, grown, strict=True)):
            return states
        limits = grown


def _grown(reach: Doubles, limit: Doubles) -> Doubles:
    """The least power of two that holds what goes beyond the limit; infinity for overflow."""
    beyond = reach > limit
    power = np.exp2(np.ceil(np.log2(np.where(beyond, reach, 1.0))))
    return np.where(beyond, np.where(power <= LARGEST, power, np.inf), limit)


def _perform(operation: Operation, tensors: dict[str, Enclosure], arithmetic: Arithmetic) -> None:
    """Enclose what one operation writes."""
    match operation:
        case Dense(sources, bias, y, activation, alpha):
            total = arithmetic.total([bias], [(w, tensors[x]) for x, w in sources])
            if activation is not None:
                total = arithmetic.activated(activation, total, alpha)
            tensors[y] = total
        case Gru(x, h, h_next):
            tensors[h_next] = arithmetic.gru(operation, tensors[x], tensors[h])
        case Lstm(x, h, c, h_next, c_next):
            operands = (tensors[name] for name in (x, h, c))
            tensors[h_next], tensors[c_next] = arithmetic.lstm(operation, *operands)
        case Linear(terms, bias, y):
            tensors[y] = arithmetic.weighted(bias, [(scale, tensors[x]) for x, scale in terms])
        case Activate(activation, x, y, alpha):
            tensors[y] = arithmetic.activated(activation, tensors[x], alpha)
        case Binary(kind, a, b, y):
            tensors[y] = _binary(kind, tensors[a], tensors[b])
        case Clip(x, low, high, y):
            tensors[y] = _clipped(tensors[x], low.astype(np.float64), high.astype(np.float64))
        case Gather(names, picks, y):
            parts = [tensors[name] for name in names]
            starts = np.cumsum([0, *(part.low.shape[-1] for part in parts)])
            tensors[y] = side_by_side(parts).take([int(starts[k]) + j for k, j in picks])
        case Softmax(x, y):
            tensors[y] = _softmax(tensors[x], arithmetic)
        case ArgMax(x, y):
            tensors[y] = _first_largest(tensors[x])
        case LayerNorm(x, scale, bias, epsilon, y):
            normal = _normalised(tensors[x], epsilon, arithmetic)
            factor = exactly(scale, scale)
            tensors[y] = arithmetic.multiply_add(exactly(bias, bias), normal, factor)


def _binary(kind: str, a: Enclosure, b: Enclosure) -> Enclosure:
    if kind == "mul":
        return multiplied(a, b)
    if kind == "div":
        return divided(a, b)
    pick = np.minimum if kind == "min" else np.maximum
    return settled(
        pick(a.low, b.low),
        pick(a.high, b.high),
        np.maximum(a.error, b.error),
        pick(a.least, b.least),
        pick(a.most, b.most),
    )


def _clipped(x: Enclosure, low: Doubles, high: Doubles) -> Enclosure:
    """Limits never lengthen a distance. They are no help to what may have overflown."""
    below, above, least, most = (
        np.minimum(np.maximum(v, low), high) for v in (x.low, x.high, x.least, x.most)
    )
    limited = settled(below, above, np.minimum(x.error, high - low), least, most)
    return replace(limited, error=np.where(np.isfinite(x.reach), limited.error, np.inf))


def _softmax(x: Enclosure, arithmetic: Arithmetic) -> Enclosure:
    """p_i = e^(x_i - max) / sum.

    Exponents that are off by d make every p_i off by a factor of e^(2 d) at most. The rounded
    difference x_i - max, the function, the sum and the division add their relative errors.
    """
    columns = x.low.shape[-1]

    def share(own: Doubles, others: Doubles) -> Doubles:
        """e^own / (e^own + sum of the other e^others), from differences that cannot overflow."""
        distance = others[..., np.newaxis, :] - own[..., :, np.newaxis]
        distance[..., np.arange(columns), np.arange(columns)] = 0.0
        total: Doubles = np.exp(distance).sum(axis=-1)
        return 1.0 / total

    low, high = share(x.low, x.high), share(x.high, x.low)
    exponential = arithmetic.exponential
    # Below -100 a difference no longer counts: what is left there is the absolute error.
    spread = np.minimum(x.high.max(axis=-1) - x.low.min(axis=-1), 100.0)[..., np.newaxis]
    exponents = x.error.max(axis=-1)[..., np.newaxis] + UNIT * (spread + 1.0)
    relative = np.expm1(2.0 * exponents + 2.1 * exponential.value + gamma(columns + 2))
    error = high * relative + 2.0 * columns * exponential.absolute + TINY
    # No share, exact or computed, is negative or more than the whole.
    fits = np.isfinite(x.reach.max(axis=-1))[..., np.newaxis]
    none, whole = np.zeros_like(low), np.ones_like(high)
    return settled(
        low * (1.0 - SLACK),
        np.minimum(high * (1.0 + SLACK), 1.0),
        np.where(fits, np.fmin(error, 1.0), np.inf),
        np.where(fits, none, -np.inf),
        np.where(fits, whole, np.inf),
    )


def _first_largest(x: Enclosure) -> Enclosure:
    """The index is exact where the ranges of exact and of computed values leave but one."""
    low, high = _indices(x.low, x.high)
    least, most = _indices(x.least, x.most)
    error = np.maximum(high - least, most - low)
    return Enclosure(low, high, error, least, most)


def _indices(low: Doubles, high: Doubles) -> Bounds:
    """The first and the last index that a first largest element between these bounds can have:
    where it can be larger than all before it, and no less than all after it."""
    columns = low.shape[-1]
    before = np.maximum.accumulate(low, axis=-1)[..., :-1]
    after = np.maximum.accumulate(low[..., ::-1], axis=-1)[..., ::-1][..., 1:]
    possible = np.ones(low.shape, bool)
    possible[..., 1:] &= (high[..., 1:] > before) | (high[..., 1:] == np.inf)
    possible[..., :-1] &= high[..., :-1] >= after
    first = possible.argmax(axis=-1, keepdims=True)
    last = columns - 1 - possible[..., ::-1].argmax(axis=-1, keepdims=True)
    return first.astype(np.float64), last.astype(np.float64)


def _normalised(x: Enclosure, epsilon: float, arithmetic: Arithmetic) -> Enclosure:
    """(x - mean) / s with s = sqrt(variance + epsilon), over n elements.

    With d = x - mean, an error of d changes s by its root mean square at most, and a quotient
    |d_i| / s is at most sqrt(n), so the quotient changes by (error of d_i + sqrt(n) times that
    root mean square) / s. A relative error e of the variance changes it by sqrt(n) e / 2.
    """
    n = x.low.shape[-1]
    sizes = np.maximum(x.reach, x.size).mean(axis=-1, keepdims=True)
    inherited = x.error + x.error.mean(axis=-1, keepdims=True) + gamma(n) * sizes
    own = gamma(n) * sizes
    low, high = _centred(x.low, x.high)
    least, most = _centred(x.least, x.most)
    lost = SLACK * sizes
    centred = rounded((low - lost, high + lost), inherited, (least - own - lost, most + own + lost))
    nearest = np.maximum(np.maximum(centred.low, -centred.high), 0.0)
    squares = epsilon + (nearest**2).mean(axis=-1, keepdims=True)
    spread = np.sqrt(squares * (1.0 - SLACK))
    drift = np.sqrt((centred.error**2).mean(axis=-1, keepdims=True))
    largest = np.minimum(np.sqrt(n), centred.size / spread)
    error = (centred.error + np.sqrt(n) * drift) * (1.0 + SLACK) / spread
    error = error + np.sqrt(n) * gamma(n + _ROOT_ROUNDINGS)
    fits = (n * (centred.reach**2).max(axis=-1, keepdims=True) <= LARGEST) & (
        spread >= _LEAST_SPREAD
    )
    # Computed quotients share a computed spread that is the root mean square of their dividends.
    limit = np.where(fits, np.sqrt(n) * (1.0 + gamma(n + _ROOT_ROUNDINGS)), np.inf)
    if arithmetic.variance_cancels:
        # A mean square minus a squared mean, either of them rounded, may eat up the variance.
        eaten = 2.0 * gamma(n + 3) * (x.reach**2).mean(axis=-1, keepdims=True) / spread**2
        error = np.where(eaten < 0.5, error + np.sqrt(2.0 * n) * eaten, np.inf)
        limit = np.full_like(limit, np.inf)
    return settled(
        np.maximum(np.where(centred.low < 0.0, centred.low / spread, 0.0), -largest),
        np.minimum(np.where(centred.high > 0.0, centred.high / spread, 0.0), largest),
        np.fmin(error, largest + limit),
        np.broadcast_to(-limit, error.shape),
        np.broadcast_to(limit, error.shape),
    )


def _centred(low: Doubles, high: Doubles) -> Bounds:
    """Bounds of every element minus the mean of all."""
    n = low.shape[-1]
    return (
        low - (high.sum(axis=-1, keepdims=True) - high + low) / n,
        high - (low.sum(axis=-1, keepdims=True) - low + high) / n,
    )
