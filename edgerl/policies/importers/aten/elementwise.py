"""Torch's element-wise operators as ONNX nodes: arithmetic, limits, activations.

Every function takes its operands in the order and under the names of torch's own schema
(aten/src/ATen/native/native_functions.yaml).
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from edgerl.policies.importers.aten.symbolic import (
    Array,
    Mismatch,
    Refused,
    Tensor,
    Tracer,
    common_shape,
)

Number = float | int | bool
Operand = Tensor | Number

# torch.nn.functional.softplus is the identity from `threshold` on; here ln(1 + e^x) - x < 3e-7.
_LOWEST_THRESHOLD = 15.0

_FOLDED: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.true_divide,
    "Max": np.maximum,
    "Min": np.minimum,
    "Pow": np.power,
}


def tensor(t: Tracer, x: Operand) -> Tensor:
    """A tensor; a number becomes one without axes."""
    if isinstance(x, Tensor):
        return x
    if isinstance(x, bool | int | float):
        return t.constant(np.asarray(x))
    raise Refused(f"gets a {type(x).__name__} in place of a tensor")


def binary(t: Tracer, operator: str, a: Operand, b: Operand) -> Tensor:
    """An ONNX operator of two operands, broadcast; computed at once where both are known."""
    x, y = tensor(t, a), tensor(t, b)
    shape = common_shape(x.shape, y.shape)
    t.check(shape)
    if x.known and y.known:
        return t.constant(_FOLDED[operator](x.values, y.values))
    rows = [t.row(z if z.size == 1 else t.broadcast(z, shape)) for z in (x, y)]
    return t.computed(t.graph.add(operator, rows), shape)


def node(t: Tracer, operator: str, x: Tensor, **attributes: Any) -> Tensor:
    """An ONNX operator of one operand that keeps its shape."""
    return t.computed(t.graph.add(operator, [t.row(x)], **attributes), x.shape)


def _unary(operator: str, fold: Callable[[Array], Array] | None = None) -> Callable[..., Tensor]:
    def apply(t: Tracer, self: Operand, **_: object) -> Tensor:
        x = tensor(t, self)
        return t.constant(fold(x.values)) if fold and x.known else node(t, operator, x)

    return apply


def _known(fold: Callable[..., Array]) -> Callable[..., Tensor]:
    """An operator that is only supported on known numbers."""

    def apply(t: Tracer, *operands: Operand, **_: object) -> Tensor:
        tensors = [tensor(t, x) for x in operands]
        t.check(common_shape(*(x.shape for x in tensors)))
        if not all(x.known for x in tensors):
            raise Refused("is not supported on values that are only known at run time")
        return t.constant(fold(*(x.values for x in tensors)))

    return apply


def _add(t: Tracer, self: Operand, other: Operand, alpha: Number = 1) -> Tensor:
    return binary(t, "Add", self, other if alpha == 1 else binary(t, "Mul", other, alpha))


def _sub(t: Tracer, self: Operand, other: Operand, alpha: Number = 1) -> Tensor:
    return binary(t, "Sub", self, other if alpha == 1 else binary(t, "Mul", other, alpha))


def _rsub(t: Tracer, self: Operand, other: Operand, alpha: Number = 1) -> Tensor:
    return _sub(t, other, self, alpha)


def _div(t: Tracer, self: Operand, other: Operand, rounding_mode: str | None = None) -> Tensor:
    if rounding_mode is None:
        return binary(t, "Div", self, other)
    return _known(np.floor_divide if rounding_mode == "floor" else _truncated)(t, self, other)


def _truncated(a: Array, b: Array) -> Array:
    return np.trunc(a / b).astype(a.dtype)


def _pow(t: Tracer, self: Operand, exponent: Operand) -> Tensor:
    if not isinstance(exponent, Tensor) and exponent == 2:
        return binary(t, "Mul", self, self)
    return binary(t, "Pow", self, exponent)


def _extreme(operator: str) -> Callable[..., Tensor]:
    def apply(t: Tracer, self: Operand, other: Operand | None = None, *_: object) -> Tensor:
        if other is None:
            raise Refused("over all elements is not supported; of two tensors it is")
        return binary(t, operator, self, other)

    return apply


def _clamp(
    t: Tracer, self: Tensor, min: Operand | None = None, max: Operand | None = None
) -> Tensor:
    def limits(limit: Operand | None) -> bool:
        return limit is not None and (isinstance(limit, Tensor) or math.isfinite(limit))

    above = binary(t, "Max", self, min) if min is not None and limits(min) else self
    return binary(t, "Min", above, max) if max is not None and limits(max) else above


def _hardtanh(t: Tracer, self: Tensor, min_val: Number = -1.0, max_val: Number = 1.0) -> Tensor:
    return _clamp(t, self, min_val, max_val)


def _elu(
    t: Tracer, self: Tensor, alpha: Number = 1.0, scale: Number = 1.0, input_scale: Number = 1.0,
    *_: object,
) -> Tensor:  # fmt: skip
    if input_scale != 1:
        raise Refused("has an input scale other than 1")
    y = node(t, "Elu", self, alpha=float(alpha))
    return y if scale == 1 else binary(t, "Mul", y, scale)


def _gelu(t: Tracer, self: Tensor, approximate: str = "none") -> Tensor:
    return node(t, "Gelu", self, approximate="tanh" if approximate == "tanh" else "none")


def _softplus(t: Tracer, self: Tensor, beta: Number = 1, threshold: Number = 20) -> Tensor:
    if threshold < _LOWEST_THRESHOLD or beta == 0:
        raise Refused(f"has threshold {threshold:g} and beta {beta:g}")
    y = node(t, "Softplus", self if beta == 1 else binary(t, "Mul", self, beta))
    return y if beta == 1 else binary(t, "Div", y, beta)


def _log_sigmoid(t: Tracer, self: Tensor) -> Tensor:
    return _neg(t, node(t, "Softplus", _neg(t, self)))


def _leaky_relu(t: Tracer, self: Tensor, negative_slope: Number = 0.01) -> Tensor:
    return node(t, "LeakyRelu", self, alpha=float(negative_slope))


def _rrelu(
    t: Tracer, self: Tensor, lower: Number = 0.125, upper: Number = 1 / 3, training: bool = False,
    *_: object,
) -> Tensor:  # fmt: skip
    if training:
        raise Refused("is random in training mode; call model.eval() before exporting")
    return _leaky_relu(t, self, (lower + upper) / 2)


def _prelu(t: Tracer, self: Tensor, weight: Tensor) -> Tensor:
    if weight.size > 1 and (len(self.shape) < 2 or self.shape[1] != weight.size):
        size = self.shape[1] if len(self.shape) > 1 else self.size
        raise Mismatch(f"has {weight.size} slopes for {size} elements", size, weight.size)
    slopes = weight.values.reshape(weight.size, *[1] * max(0, len(self.shape) - 2))
    rows = [t.row(self), t.row(t.constant(np.broadcast_to(slopes, self.shape)))]
    return t.computed(t.graph.add("PRelu", rows), self.shape)


def _silu(t: Tracer, self: Tensor) -> Tensor:
    return binary(t, "Mul", self, _sigmoid(t, self))


def _square(t: Tracer, self: Tensor) -> Tensor:
    return binary(t, "Mul", self, self)


def _rsqrt(t: Tracer, self: Tensor) -> Tensor:
    return _reciprocal(t, _sqrt(t, self))


def _addcmul(t: Tracer, self: Tensor, a: Tensor, b: Tensor, value: Number = 1) -> Tensor:
    return _add(t, self, binary(t, "Mul", a, b), value)


def _addcdiv(t: Tracer, self: Tensor, a: Tensor, b: Tensor, value: Number = 1) -> Tensor:
    return _add(t, self, binary(t, "Div", a, b), value)


def _lerp(t: Tracer, self: Tensor, end: Tensor, weight: Operand) -> Tensor:
    return binary(t, "Add", self, binary(t, "Mul", weight, binary(t, "Sub", end, self)))


def sigmoid_of(x: Array) -> Array:
    """1 / (1 + e^-x) of known numbers."""
    return 1.0 / (1.0 + np.exp(-x.astype(np.float64)))


_neg = _unary("Neg", np.negative)
_sqrt = _unary("Sqrt", np.sqrt)
_reciprocal = _unary("Reciprocal", lambda x: 1.0 / x)
_sigmoid = _unary("Sigmoid", sigmoid_of)

ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "abs": _unary("Abs", np.abs),
    "add": _add,
    "addcdiv": _addcdiv,
    "addcmul": _addcmul,
    "celu": lambda t, self, alpha=1.0: node(t, "Celu", self, alpha=float(alpha)),
    "clamp": _clamp,
    "clamp_max": lambda t, self, max: _clamp(t, self, None, max),
    "clamp_min": lambda t, self, min: _clamp(t, self, min),
    "clip": _clamp,
    "cos": _unary("Cos", np.cos),
    "div": _div,
    "divide": _div,
    "elu": _elu,
    "erf": _unary("Erf"),
    "exp": _unary("Exp", np.exp),
    "floor_divide": _known(np.floor_divide),
    "gelu": _gelu,
    "hardsigmoid": lambda t, self: node(t, "HardSigmoid", self, alpha=1 / 6, beta=0.5),
    "hardswish": _unary("HardSwish"),
    "hardtanh": _hardtanh,
    "leaky_relu": _leaky_relu,
    "lerp": _lerp,
    "log_sigmoid": _log_sigmoid,
    "maximum": _extreme("Max"),
    "max": _extreme("Max"),
    "minimum": _extreme("Min"),
    "min": _extreme("Min"),
    "mish": _unary("Mish"),
    "mul": lambda t, self, other: binary(t, "Mul", self, other),
    "multiply": lambda t, self, other: binary(t, "Mul", self, other),
    "neg": _neg,
    "negative": _neg,
    "pow": _pow,
    "prelu": _prelu,
    "_prelu_kernel": _prelu,
    "reciprocal": _reciprocal,
    "relu": _unary("Relu", lambda x: np.maximum(x, 0)),
    "relu6": lambda t, self: _clamp(t, self, 0.0, 6.0),
    "remainder": _known(np.remainder),
    "rrelu": _rrelu,
    "rsqrt": _rsqrt,
    "rsub": _rsub,
    "selu": _unary("Selu"),
    "sigmoid": _sigmoid,
    "silu": _silu,
    "sin": _unary("Sin", np.sin),
    "softplus": _softplus,
    "sqrt": _sqrt,
    "square": _square,
    "sub": _sub,
    "subtract": _sub,
    "tanh": _unary("Tanh", np.tanh),
    "true_divide": _div,
    **{
        name: _known(fold)
        for name, fold in (
            ("ceil", np.ceil),
            ("eq", np.equal),
            ("expm1", np.expm1),
            ("floor", np.floor),
            ("fmod", np.fmod),
            ("ge", np.greater_equal),
            ("gt", np.greater),
            ("le", np.less_equal),
            ("log", np.log),
            ("log1p", np.log1p),
            ("logical_and", np.logical_and),
            ("logical_not", np.logical_not),
            ("logical_or", np.logical_or),
            ("lt", np.less),
            ("ne", np.not_equal),
            ("round", np.round),
            ("sign", np.sign),
        )
    },
}
