"""Shapes: what the exact activations do to intervals, and how steep they are there."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgerl.toolchain import interpreter
from edgerl.toolchain.bounds.enclosure import SLACK, Doubles
from edgerl.toolchain.ir import Activation

Slope = Callable[[Doubles, Doubles, float], Doubles]

# Beyond it every activation is at its limit or far beyond float32.
_FAR = 1e100
_CANCELLED = 1e-14


def _nearest(low: Doubles, high: Doubles) -> Doubles:
    """The smallest |x| in an interval."""
    return np.maximum(np.maximum(low, -high), 0.0)


def _constant(value: float) -> Slope:
    return lambda low, high, alpha: np.full(np.shape(low), value)


def _tanh(low: Doubles, high: Doubles, alpha: float) -> Doubles:
    return np.cosh(np.minimum(_nearest(low, high), 300.0)) ** -2.0


def _sigmoid(low: Doubles, high: Doubles, alpha: float) -> Doubles:
    return 0.25 * _tanh(0.5 * low, 0.5 * high, alpha)


def _linear_parts(low: Doubles, high: Doubles, alpha: float) -> Doubles:
    return np.full(np.shape(low), max(1.0, abs(alpha)))


def _softsign(low: Doubles, high: Doubles, alpha: float) -> Doubles:
    return (1.0 + _nearest(low, high)) ** -2.0


def _square(low: Doubles, high: Doubles, alpha: float) -> Doubles:
    return 2.0 * np.maximum(np.abs(low), np.abs(high))


def _root(low: Doubles, high: Doubles, alpha: float) -> Doubles:
    return 0.5 / np.sqrt(np.maximum(low, 0.0))


def _reciprocal(low: Doubles, high: Doubles, alpha: float) -> Doubles:
    return _nearest(low, high) ** -2.0


@dataclass(frozen=True)
class _Shape:
    """A bound on the size of a function's derivative over an interval (a Lipschitz constant),
    the range of its values, and the arguments at which it turns from falling to rising."""

    slope: Slope
    low: float = -math.inf
    high: float = math.inf
    turns: tuple[float, ...] = ()


# Where a slope is a number, it is the largest derivative anywhere, rounded up. Turning points
# are only ever evaluated, so that their last digits do not matter.
_SHAPES: dict[Activation, _Shape] = {
    "tanh": _Shape(_tanh, -1.0, 1.0),
    "sigmoid": _Shape(_sigmoid, 0.0, 1.0),
    "relu": _Shape(_constant(1.0), 0.0),
    "elu": _Shape(_linear_parts, turns=(0.0,)),
    "leaky_relu": _Shape(_linear_parts, turns=(0.0,)),
    "selu": _Shape(_constant(1.7581)),
    "silu": _Shape(_constant(1.09984), turns=(-1.2784645427610738,)),
    "gelu": _Shape(_constant(1.12891), turns=(-0.7517915246935645,)),
    "mish": _Shape(_constant(1.08851), turns=(-1.1924311938325228,)),
    "softplus": _Shape(_constant(1.0), 0.0),
    "hard_sigmoid": _Shape(_constant(0.16667), 0.0, 1.0),
    "hard_swish": _Shape(_constant(1.5), turns=(-1.5,)),
    "softsign": _Shape(_softsign, -1.0, 1.0),
    "exp": _Shape(lambda low, high, alpha: np.exp(high), 0.0),
    "abs": _Shape(_constant(1.0), 0.0, turns=(0.0,)),
    "square": _Shape(_square, 0.0, turns=(0.0,)),
    "sqrt": _Shape(_root, 0.0),
    "reciprocal": _Shape(_reciprocal),
    "sin": _Shape(_constant(1.0), -1.0, 1.0),
    "cos": _Shape(_constant(1.0), -1.0, 1.0),
}


def slope(activation: Activation, low: Doubles, high: Doubles, alpha: float) -> Doubles:
    """A Lipschitz constant of the activation on [low, high]."""
    return _SHAPES[activation].slope(low, high, alpha) * (1.0 + SLACK)


def image(
    activation: Activation, low: Doubles, high: Doubles, alpha: float
) -> tuple[Doubles, Doubles]:
    """Bounds of the activation on [low, high]; NaN where it is not defined on all of that."""
    shape = _SHAPES[activation]
    if activation in ("sin", "cos"):
        return np.full_like(low, shape.low), np.full_like(high, shape.high)
    ends = (np.clip(low, -_FAR, _FAR), np.clip(high, -_FAR, _FAR))
    inside = (np.clip(turn, *ends) for turn in shape.turns)
    values = [interpreter.activate(activation, x, alpha) for x in (*ends, *inside)]
    lowest, highest = np.minimum.reduce(values), np.maximum.reduce(values)
    # float64 cancels where a gate closes, by parts of the argument, not of the result.
    margin = SLACK * np.maximum(np.abs(lowest), np.abs(highest)) + _CANCELLED
    if activation == "reciprocal":
        margin = np.where((low <= 0.0) & (high >= 0.0), math.nan, margin)
    return (
        np.maximum(lowest - margin, shape.low),
        np.minimum(highest + margin, shape.high),
    )
