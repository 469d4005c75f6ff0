"""Torch's layers as ONNX nodes: products with weights, norms, reductions.

Every function takes its operands in the order and under the names of torch's own schema
(aten/src/ATen/native/native_functions.yaml).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgerl.policies import graph
from edgerl.policies.importers.aten.elementwise import Operand, binary, node
from edgerl.policies.importers.aten.layout import joined, reshaped
from edgerl.policies.importers.aten.symbolic import (
    EXPRESSION,
    Mismatch,
    Refused,
    Tensor,
    Tracer,
    at,
    between,
)

MOST_ROWS = 256

_CONVOLUTION = "is a convolution; networks of dense, recurrent and normalisation layers compile"


def numbers(x: Tensor, what: str) -> graph.Array:
    """The numbers of weights; Refused where they are computed at run time."""
    if not x.known:
        raise Refused(f"has {what} that are computed at run time")
    return np.ascontiguousarray(x.values, dtype=np.float32)


def fits(got: int, wanted: int, what: str) -> None:
    """Mismatch where two sizes differ; `what` says whose the second one is."""
    if got != wanted:
        raise Mismatch(f"gets {got} values, its {what} {wanted}", got, wanted)


def along(
    t: Tracer, x: Tensor, axis: int, apply: Callable[[str], str], size: int | None = None
) -> Tensor:
    """`apply`, from one row of the graph to another, on every vector along an axis; it makes
    vectors of `size` elements (None: as many as they had)."""
    length = x.shape[axis]
    rows = x.size // max(length, 1)
    if rows > MOST_ROWS or not length:
        raise Refused(f"works on {rows} rows; {MOST_ROWS} are possible")
    t.spend(0, rows)
    last = t.view(x, lambda k: np.moveaxis(k, axis, -1))
    lead = last.shape[:-1]
    table = reshaped(t, last, (rows, length))
    length = size or length
    done = []
    for k in range(rows):
        row = t.row(t.view(table, at(k)))
        done.append(t.computed(apply(row), (length,)))
    result = reshaped(t, joined(t, done) if len(done) > 1 else done[0], (*lead, length))
    return t.view(result, lambda k: np.moveaxis(k, -1, axis))


def linear(t: Tracer, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input @ weight.T + bias over the last axis; weight [out, in] is known."""
    if len(weight.shape) != 2 or not input.shape:
        raise Refused(f"has a weight of sizes {list(weight.shape)}")
    fits(input.shape[-1], weight.shape[1], "weight takes")
    matrix = numbers(weight, "weights")
    offset = None if bias is None else numbers(bias, "biases").reshape(-1)
    if offset is not None:
        fits(offset.size, weight.shape[0], "bias has")
    rows = input.size // max(input.shape[-1], 1)
    if input.known:
        t.check((rows, weight.shape[0]))
        t.spend(rows * matrix.size // EXPRESSION)
        y = input.values.astype(np.float32) @ matrix.T
        return t.constant(y if offset is None else y + offset)
    # Every row gets the weights anew.
    t.spend(rows * matrix.size)
    return along(t, input, -1, lambda row: t.graph.dense(row, matrix, offset), weight.shape[0])


def _transposed(t: Tracer, x: Tensor) -> Tensor:
    return t.view(x, np.transpose)


def _matmul(t: Tracer, self: Tensor, other: Tensor) -> Tensor:
    if not self.shape or not other.shape:
        raise Refused("multiplies a number as a matrix")
    if len(self.shape) == 1 == len(other.shape):
        fits(self.size, other.size, "other operand has")
        return _total(t, binary(t, "Mul", self, other), [0], False, "ReduceSum")
    if other.known:
        if len(other.shape) == 1:
            column = linear(t, self, reshaped(t, other, (1, -1)))
            return reshaped(t, column, self.shape[:-1])
        if len(other.shape) > 2 and other.size == math.prod(other.shape[-2:]):
            lead = other.shape[:-2] if len(other.shape) > len(self.shape) else ()
            product = linear(t, self, _transposed(t, reshaped(t, other, other.shape[-2:])))
            return reshaped(t, product, (*[1] * len(lead), *product.shape)) if lead else product
        return linear(t, self, _transposed(t, other))
    if self.known and len(self.shape) == 2 and len(other.shape) == 1:
        return linear(t, other, self)
    if self.known and len(self.shape) == 2 == len(other.shape):
        return _transposed(t, linear(t, _transposed(t, other), self))
    raise Refused("multiplies two matrices that are only known at run time")


def _addmm(
    t: Tracer, self: Tensor, mat1: Tensor, mat2: Tensor, beta: float = 1, alpha: float = 1
) -> Tensor:
    if alpha == beta == 1 and self.known and mat2.known and self.shape == mat2.shape[-1:]:
        return linear(t, mat1, _transposed(t, mat2), self)
    product = _matmul(t, mat1, mat2)
    if alpha != 1:
        product = binary(t, "Mul", product, alpha)
    return binary(t, "Add", product, self if beta == 1 else binary(t, "Mul", self, beta))


def layer_norm(
    t: Tracer, input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None,
    bias: Tensor | None = None, eps: float = 1e-5, *_: object,
) -> Tensor:  # fmt: skip
    """Normalisation over the last axes, then scale and offset."""
    axes = len(normalized_shape)
    size = math.prod(normalized_shape)
    got = math.prod(input.shape[len(input.shape) - axes :])
    fits(got, size, "scale has")
    scale = np.ones(size, np.float32) if weight is None else numbers(weight, "scales")
    offset = np.zeros(size, np.float32) if bias is None else numbers(bias, "offsets")
    rows = reshaped(t, input, (-1, size))
    done = along(t, rows, -1, lambda row: t.graph.layer_norm(row, scale, offset, float(eps)))
    return reshaped(t, done, input.shape)


def _native_layer_norm(
    t: Tracer, input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None,
    bias: Tensor | None, eps: float,
) -> tuple[Tensor, None, None]:  # fmt: skip
    return layer_norm(t, input, normalized_shape, weight, bias, eps), None, None


def _rms_norm(
    t: Tracer, input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:  # fmt: skip
    axes = list(range(-len(normalized_shape), 0))
    mean = _total(t, binary(t, "Mul", input, input), axes, True, "ReduceMean")
    small = float(np.finfo(np.float32).eps) if eps is None else eps
    y = binary(t, "Div", input, node(t, "Sqrt", binary(t, "Add", mean, small)))
    return y if weight is None else binary(t, "Mul", y, weight)


def _batch_norm(
    t: Tracer, input: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor,
    running_var: Tensor, training: bool, momentum: float, eps: float, *_: object,
) -> Tensor:  # fmt: skip
    if training:
        raise Refused("is in training mode; call model.eval() before exporting")
    mean, variance = (numbers(x, "statistics").astype(float) for x in (running_mean, running_var))
    channels = mean.size
    fits(input.shape[1] if len(input.shape) > 1 else input.size, channels, "statistics have")
    scale = 1.0 / np.sqrt(variance + eps)
    if weight is not None:
        scale = scale * numbers(weight, "scales")
    offset = -mean * scale
    if bias is not None:
        offset = offset + numbers(bias, "offsets")
    shape = (channels, *[1] * (len(input.shape) - 2))
    scaled = binary(t, "Mul", input, t.constant(scale.reshape(shape)))
    return binary(t, "Add", scaled, t.constant(offset.reshape(shape)))


def _axes(x: Tensor, dim: Any) -> list[int]:
    if dim is None or dim == []:
        return list(range(len(x.shape)))
    given = [dim] if isinstance(dim, int) else list(dim)
    return sorted({axis % len(x.shape) for axis in given})


def _total(t: Tracer, x: Tensor, axes: Sequence[int], keepdim: bool, operator: str) -> Tensor:
    """The sum (ReduceSum) or mean (ReduceMean) over axes."""
    axes = _axes(x, list(axes))
    if x.known:
        fold = np.sum if operator == "ReduceSum" else np.mean
        return t.constant(fold(x.values, axis=tuple(axes), keepdims=keepdim))
    kept = [n for axis, n in enumerate(x.shape) if axis not in axes]
    order = [axis for axis in range(len(x.shape)) if axis not in axes] + axes
    table = t.view(x, lambda k: np.transpose(k, order))
    table = reshaped(t, table, (math.prod(kept), -1))

    def reduced(row: str) -> str:
        return t.graph.add(operator, [row, t.graph.integers([1])], keepdims=1)

    sums = along(t, table, -1, reduced, 1)
    shape = [1 if axis in axes else n for axis, n in enumerate(x.shape)] if keepdim else kept
    return reshaped(t, sums, shape)


def _reduction(operator: str) -> Callable[..., Tensor]:
    def apply(
        t: Tracer, self: Tensor, dim: Any = None, keepdim: bool = False, **_: object
    ) -> Tensor:
        return _total(t, self, _axes(self, dim), keepdim, operator)

    return apply


def _norm(
    t: Tracer, self: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, **_: object
) -> Tensor:
    axes = _axes(self, dim)
    if ord == 1:
        return _total(t, node(t, "Abs", self), axes, keepdim, "ReduceSum")
    if ord not in (2, None, "fro"):
        raise Refused(f"of order {ord} is not supported; 1 and 2 are")
    squares = _total(t, binary(t, "Mul", self, self), axes, keepdim, "ReduceSum")
    if squares.known:
        return t.constant(np.sqrt(squares.values))
    return node(t, "Sqrt", squares)


def _variance(
    t: Tracer, self: Tensor, dim: Any = None, correction: Any = 1, keepdim: bool = False,
    **named: Any,
) -> Tensor:  # fmt: skip
    # `correction` is `unbiased` (1 or 0) in older overloads.
    less = int(named.get("unbiased", 1 if correction is None else correction))
    axes = _axes(self, dim)
    mean = _total(t, self, axes, True, "ReduceMean")
    away = binary(t, "Sub", self, mean)
    count = math.prod(self.shape[axis] for axis in axes)
    squares = _total(t, binary(t, "Mul", away, away), axes, keepdim, "ReduceSum")
    return binary(t, "Div", squares, float(count - less))


def _deviation(t: Tracer, *arguments: Any, **named: Any) -> Tensor:
    return node(t, "Sqrt", _variance(t, *arguments, **named))


def _softmax(t: Tracer, self: Tensor, dim: int, *_: object, **__: object) -> Tensor:
    return along(t, self, dim, lambda row: t.graph.add("Softmax", [row], axis=1))


def _argmax(t: Tracer, self: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    x = reshaped(t, self, (-1,)) if dim is None else self
    axis = 0 if dim is None else dim
    best = along(t, x, axis, t.graph.argmax, 1)
    row = t.computed(t.row(best), best.shape, "int")
    if keepdim:
        return row
    return reshaped(t, row, [n for k, n in enumerate(x.shape) if k != axis % len(x.shape)])


def _glu(t: Tracer, self: Tensor, dim: int = -1) -> Tensor:
    half = self.shape[dim] // 2
    fits(2 * half, self.shape[dim], "halves have")
    a, b = (t.view(self, between(start, start + half, dim)) for start in (0, half))
    return binary(t, "Mul", a, node(t, "Sigmoid", b))


def _convolution(t: Tracer, *_: Any, **__: Any) -> Operand:
    raise Refused(_CONVOLUTION)


def _one_hot(t: Tracer, *_: Any, **__: Any) -> Operand:
    raise Refused("takes whole numbers; give the policy its one-hot observation")


LAYERS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(
        [
            "_convolution",
            "conv1d",
            "conv2d",
            "conv3d",
            "convolution",
            "conv_transpose1d",
            "conv_transpose2d",
            "max_pool1d",
            "max_pool2d",
            "avg_pool1d",
            "avg_pool2d",
            "adaptive_avg_pool1d",
            "adaptive_avg_pool2d",
            "max_pool2d_with_indices",
        ],
        _convolution,
    ),
    **dict.fromkeys(["embedding", "one_hot"], _one_hot),
    "_native_batch_norm_legit_no_training": lambda t, x, w, b, mean, var, momentum, eps: (
        _batch_norm(t, x, w, b, mean, var, False, momentum, eps),
        None,
        None,
    ),
    "_softmax": _softmax,
    "addmm": _addmm,
    "addmv": _addmm,
    "argmax": _argmax,
    "batch_norm": _batch_norm,
    "bmm": _matmul,
    "dot": _matmul,
    "glu": _glu,
    "layer_norm": layer_norm,
    "linalg_vector_norm": _norm,
    "linear": linear,
    "matmul": _matmul,
    "mean": _reduction("ReduceMean"),
    "mm": _matmul,
    "mv": _matmul,
    "native_layer_norm": _native_layer_norm,
    "norm": _norm,
    "rms_norm": _rms_norm,
    "softmax": _softmax,
    "std": _deviation,
    "sum": _reduction("ReduceSum"),
    "var": _variance,
}
