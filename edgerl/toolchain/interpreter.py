"""Interpreter: one step of a Program in NumPy, for tests and error bounds.

It follows the definitions of `ir.py`, not the arithmetic of any generated code.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.toolchain.ir import (
    Activate,
    Activation,
    ArgMax,
    Binary,
    Clip,
    Dense,
    FakeQuantise,
    Gather,
    Gru,
    LayerNorm,
    Linear,
    Lstm,
    Operation,
    Program,
    Softmax,
)

Array = npt.NDArray[Any]

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805
_erf = np.vectorize(math.erf, otypes=[np.float64])


def run(
    program: Program,
    observation: npt.ArrayLike,
    states: Sequence[npt.ArrayLike],
    dtype: npt.DTypeLike = np.float64,
) -> tuple[Array, tuple[Array, ...]]:
    """The action [..., m] and next states [..., k] for an observation [..., n] and states.

    `states` follow `program.states`; leading axes are a batch. All arithmetic is in `dtype`.
    """
    tensors = trace(program, observation, states, dtype)
    return tensors[program.action], tuple(tensors[after] for _, after in program.states)


def trace(
    program: Program,
    observation: npt.ArrayLike,
    states: Sequence[npt.ArrayLike],
    dtype: npt.DTypeLike = np.float64,
) -> dict[str, Array]:
    """Every tensor of one step by name, as `run` computes it."""
    tensors: dict[str, Array] = {program.observation: np.asarray(observation, dtype=dtype)}
    for (before, _), state in zip(program.states, states, strict=True):
        tensors[before] = np.asarray(state, dtype=dtype)
    batch = np.broadcast_shapes(*(tensor.shape[:-1] for tensor in tensors.values()))
    with np.errstate(over="ignore"):
        for operation in program.operations:
            _perform(operation, tensors, batch, np.dtype(dtype))
    return tensors


def reset(program: Program, batch: tuple[int, ...] = ()) -> tuple[Array, ...]:
    """The states after a reset: zeros."""
    return tuple(np.zeros((*batch, program.size(before))) for before, _ in program.states)


def _perform(
    operation: Operation, tensors: dict[str, Array], batch: tuple[int, ...], dtype: np.dtype[Any]
) -> None:
    """Write what one operation makes into `tensors`."""
    match operation:
        case Dense(sources, bias, y, activation, alpha):
            total = np.broadcast_to(bias.astype(dtype), (*batch, len(bias)))
            for x, weights in sources:
                total = total + tensors[x] @ weights.T.astype(dtype)
            tensors[y] = total if activation is None else activate(activation, total, alpha)
        case Gru():
            tensors[operation.h_next] = _gru(operation, tensors[operation.x], tensors[operation.h])
        case Lstm():
            h, c = _lstm(operation, *(tensors[x] for x in (operation.x, operation.h, operation.c)))
            tensors[operation.h_next], tensors[operation.c_next] = h, c
        case Linear(terms, bias, y):
            total = np.broadcast_to(bias.astype(dtype), (*batch, len(bias)))
            for x, scale in terms:
                total = total + scale.astype(dtype) * tensors[x]
            tensors[y] = total
        case Activate(activation, x, y, alpha):
            tensors[y] = activate(activation, tensors[x], alpha)
        case Binary(operation=kind, a=a, b=b, y=y):
            tensors[y] = _BINARY[kind](tensors[a], tensors[b])
        case Clip(x, low, high, y):
            lower, upper = low.astype(dtype), high.astype(dtype)
            tensors[y] = np.minimum(np.maximum(tensors[x], lower), upper)
        case Gather(names, picks, y):
            parts = [np.broadcast_to(tensors[x], (*batch, tensors[x].shape[-1])) for x in names]
            starts = np.cumsum([0, *(part.shape[-1] for part in parts)])
            chosen = [int(starts[k]) + j for k, j in picks]
            tensors[y] = np.concatenate(parts, axis=-1)[..., chosen]
        case Softmax(x, y):
            rising = np.exp(tensors[x] - tensors[x].max(axis=-1, keepdims=True))
            tensors[y] = rising / rising.sum(axis=-1, keepdims=True)
        case ArgMax(x, y):
            tensors[y] = tensors[x].argmax(axis=-1, keepdims=True).astype(dtype)
        case FakeQuantise(x, scale, zero_point, low, high, y):
            step = dtype.type(scale)
            whole = np.clip(np.rint(tensors[x] / step) + zero_point, low, high)
            tensors[y] = (whole - zero_point) * step
        case LayerNorm(x, scale, bias, epsilon, y):
            centred = tensors[x] - tensors[x].mean(axis=-1, keepdims=True)
            spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + dtype.type(epsilon))
            tensors[y] = centred / spread * scale.astype(dtype) + bias.astype(dtype)


def _gru(gru: Gru, x: Array, h: Array) -> Array:
    gates_x = np.split(x @ gru.w_input.T + gru.b_input, 3, axis=-1)
    gates_h = np.split(h @ gru.w_hidden.T + gru.b_hidden, 3, axis=-1)
    r = activate("sigmoid", gates_x[0] + gates_h[0])
    z = activate("sigmoid", gates_x[1] + gates_h[1])
    n = np.tanh(gates_x[2] + r * gates_h[2])
    return np.asarray(n + z * (h - n))


def _lstm(lstm: Lstm, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    gates = np.split(x @ lstm.w_input.T + h @ lstm.w_hidden.T + lstm.bias, 4, axis=-1)
    i, f, o = (activate("sigmoid", gates[k]) for k in (0, 1, 3))
    c_next = f * c + i * np.tanh(gates[2])
    return o * np.tanh(c_next), c_next


def activate(activation: Activation, x: Array, alpha: float = 1.0) -> Array:
    """An activation of `ir.Activation`, element by element, in the precision of `x`."""
    if activation in ("elu", "leaky_relu"):
        falling = np.expm1(np.minimum(x, 0.0)) if activation == "elu" else x
        return np.where(x >= 0.0, x, np.asarray(alpha, dtype=x.dtype) * falling)
    return np.asarray(_ACTIVATIONS[activation](x), dtype=x.dtype)


def _sigmoid(x: Array) -> Array:
    falling = np.exp(-np.abs(x))
    return np.where(x >= 0.0, 1.0, falling) / (1.0 + falling)


def _softplus(x: Array) -> Array:
    return np.asarray(np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x))))


def _selu(x: Array) -> Array:
    return _SELU_SCALE * np.where(x >= 0.0, x, _SELU_ALPHA * np.expm1(np.minimum(x, 0.0)))


def _hard_sigmoid(x: Array) -> Array:
    return np.asarray(np.clip(x / 6.0 + 0.5, 0.0, 1.0))


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "relu": lambda x: np.maximum(x, 0.0),
    "selu": _selu,
    "silu": lambda x: x * _sigmoid(x),
    "gelu": lambda x: 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0))),
    "softplus": _softplus,
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": lambda x: x * _hard_sigmoid(x),
    "softsign": lambda x: x / (1.0 + np.abs(x)),
    "exp": np.exp,
    "abs": np.abs,
    "square": np.square,
    "sqrt": np.sqrt,
    "reciprocal": np.reciprocal,
    "sin": np.sin,
    "cos": np.cos,
}

_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "mul": np.multiply,
    "div": np.divide,
    "min": np.minimum,
    "max": np.maximum,
}
