"""Operators that are affine in their run-time operand, and products of two run-time ones."""

from collections.abc import Callable, Sequence

import numpy as np

from edgerl.toolchain.lowering.flow import Flow
from edgerl.toolchain.lowering.forms import Doubles, Form, joined
from edgerl.toolchain.lowering.node import Node, Operand, Shape, Value

MOST_ROWS = 1024


def common_shape(node: Node, *shapes: Shape) -> Shape:
    """The shape that all of `shapes` broadcast to."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError as error:
        raise node.fail(f"shapes {list(shapes)} do not broadcast") from error


def aligned(node: Node, values: Sequence[Value]) -> tuple[list[Form], Shape]:
    """The operands broadcast to their common shape, and that shape."""
    shape = common_shape(node, *(value.shape for value in values))
    node.check_size(int(np.prod(shape, dtype=object)))
    forms = []
    for value in values:
        numbers = np.arange(value.size).reshape(value.shape)
        forms.append(value.form.take(np.broadcast_to(numbers, shape).reshape(-1)))
    return forms, shape


def _folded(combine: Callable[[Flow, Form, Form], Form]) -> Callable[[Flow, Node], list[Operand]]:
    def handler(flow: Flow, node: Node) -> list[Operand]:
        forms, shape = aligned(node, [node.value(k) for k in range(len(node.inputs))])
        total = forms[0]
        for form in forms[1:]:
            total = combine(flow, total, form)
        return [Value(total, shape)]

    return handler


def _minus(x: Form) -> Form:
    return x.scaled(np.array([-1.0]))


def divide(flow: Flow, node: Node) -> list[Operand]:
    """Division by constants, by a run-time tensor, or of constants by one."""
    (a, b), shape = aligned(node, [node.value(0), node.value(1)])
    if not b.terms and not b.bias.all():
        raise node.fail("divides by zero")
    return [Value(flow.divide(a, b), shape)]


def negate(flow: Flow, node: Node) -> list[Operand]:
    """The negative of a run-time tensor."""
    x = node.value(0)
    return [Value(_minus(x.form), x.shape)]


def matmul(flow: Flow, node: Node) -> list[Operand]:
    """A run-time tensor times a constant matrix, from either side."""
    a, b = node.input(0), node.input(1)
    if isinstance(a, Value) and isinstance(b, Value):
        raise node.fail("multiplies two run-time matrices, which is not supported")
    if isinstance(a, Value):
        weights = node.numbers(1)
        if weights.ndim not in (1, 2):
            raise node.fail(f"the constant operand has {weights.ndim} axes; 1 or 2 are possible")
        columns = weights.reshape(len(weights), -1)
        if not a.shape or a.shape[-1] != len(columns):
            raise node.fail(f"shapes {a.shape} and {weights.shape} do not multiply")
        shape = a.shape[:-1] + weights.shape[1:]
        return [Value(_row_products(flow, node, a.form, columns.T), shape)]
    return [_from_left(flow, node, node.value(1))]


def _from_left(flow: Flow, node: Node, b: Value) -> Value:
    """Constant matrix @ run-time vector or matrix."""
    weights = node.numbers(0)
    if weights.ndim not in (1, 2) or len(b.shape) not in (1, 2):
        raise node.fail("multiplies stacks of matrices, which is not supported")
    rows = weights.reshape(-1, weights.shape[-1])
    if b.shape[0] != rows.shape[1]:
        raise node.fail(f"shapes {weights.shape} and {b.shape} do not multiply")
    width = b.size // b.shape[0]
    transposed = np.arange(b.size).reshape(b.shape[0], width).T.reshape(-1)
    product = _row_products(flow, node, b.form.take(transposed), rows)
    back = np.arange(product.size).reshape(width, len(rows)).T.reshape(-1)
    return Value(product.take(back), weights.shape[:-1] + b.shape[1:])


def _row_products(flow: Flow, node: Node, form: Form, matrix: Doubles) -> Form:
    """matrix @ each row of a row-major stack of vectors, one after the other."""
    rows, columns = matrix.shape
    count = form.size // columns
    node.check_size(rows * count)
    if count > MOST_ROWS:
        raise node.fail(f"applies one matrix to {count} vectors; {MOST_ROWS} are possible")
    if count == 1:
        return flow.product(matrix, form)
    starts = np.arange(columns)
    return joined([flow.product(matrix, form.take(k * columns + starts)) for k in range(count)])


def gemm(flow: Flow, node: Node) -> list[Operand]:
    """alpha * A' @ B' + beta * C with one of A and B constant (' is an optional transpose)."""
    alpha, beta = (node.number(name, 1.0) for name in ("alpha", "beta"))
    flip_a, flip_b = (bool(node.integer(name, 0)) for name in ("transA", "transB"))
    a, b = node.input(0), node.input(1)
    from_left = isinstance(b, Value)
    if from_left and isinstance(a, Value):
        raise node.fail("multiplies two run-time matrices, which is not supported")
    # A constant A is the same product with both sides transposed.
    data, weights = node.value(int(from_left)), node.numbers(int(not from_left))
    turn_data, turn_weights = (not flip_b, flip_a) if from_left else (flip_a, not flip_b)
    if len(data.shape) != 2 or weights.ndim != 2:
        raise node.fail("needs operands with two axes")
    numbers = np.arange(data.size).reshape(data.shape)
    stack = numbers.T if turn_data else numbers
    matrix = alpha * (weights.T if turn_weights else weights)
    if stack.shape[1] != matrix.shape[1]:
        raise node.fail(f"shapes {data.shape} and {weights.shape} do not multiply")
    form = _row_products(flow, node, data.form.take(stack.reshape(-1)), matrix)
    shape = (stack.shape[0], matrix.shape[0])
    if from_left:
        form = form.take(np.arange(form.size).reshape(shape).T.reshape(-1))
        shape = (shape[1], shape[0])
    if node.has(2):
        bias = node.value(2)
        forms, broadcast = aligned(node, [Value(form, shape), bias])
        if broadcast != shape:
            raise node.fail(f"bias of shape {bias.shape} does not fit {shape}")
        form = flow.add(forms[0], forms[1].scaled(np.array([beta])))
    return [Value(form, shape)]


def _reduction(weight: Callable[[int], float]) -> Callable[[Flow, Node, Value], Value]:
    """A sum over axes, each element times weight(number of elements summed)."""

    def reduce(flow: Flow, node: Node, x: Value) -> Value:
        axes = _axes(node, len(x.shape))
        kept = [k for k in range(len(x.shape)) if k not in axes]
        order = [*kept, *axes]
        numbers = np.arange(x.size).reshape(x.shape).transpose(order).reshape(-1)
        count = int(np.prod([x.shape[k] for k in axes], dtype=np.int64))
        row = np.full((1, count), weight(count))
        form = _row_products(flow, node, x.form.take(numbers), row)
        if node.integer("keepdims", 1):
            return Value(form, tuple(1 if k in axes else n for k, n in enumerate(x.shape)))
        return Value(form, tuple(x.shape[k] for k in kept))

    return reduce


_sum_over = _reduction(lambda count: 1.0)
_mean_over = _reduction(lambda count: 1.0 / count)


def _axes(node: Node, rank: int) -> list[int]:
    given = node.attributes.get("axes")
    if node.has(1):
        given = [int(k) for k in node.constant(1).reshape(-1)]
    if not given:
        return [] if node.integer("noop_with_empty_axes", 0) else list(range(rank))
    if any(not -rank <= k < rank for k in given):
        raise node.fail(f"axes {given[:8]} do not fit {rank} axes")
    return sorted({k % rank for k in given})


def reduce_sum(flow: Flow, node: Node) -> list[Operand]:
    """Sum over axes."""
    return [_sum_over(flow, node, node.value(0))]


def reduce_mean(flow: Flow, node: Node) -> list[Operand]:
    """Mean over axes."""
    return [_mean_over(flow, node, node.value(0))]


def reduce_l2(flow: Flow, node: Node) -> list[Operand]:
    """Euclidean norm over axes."""
    x = node.value(0)
    total = _sum_over(flow, node, Value(flow.activate("square", x.form), x.shape))
    return [Value(flow.activate("sqrt", total.form), total.shape)]


def batch_normalization(flow: Flow, node: Node) -> list[Operand]:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, by channel, outside training."""
    if node.integer("training_mode", 0):
        raise node.fail("is in training mode; export the model in eval mode")
    x = node.value(0)
    scale, bias, mean, variance = (node.numbers(k) for k in range(1, 5))
    if len(x.shape) < 2:
        raise node.fail("needs an operand with a batch and a channel axis")
    channels = x.shape[1]
    if any(v.shape != (channels,) for v in (scale, bias, mean, variance)):
        raise node.fail(f"its constants do not have the {channels} channels of its operand")
    spread = variance + node.number("epsilon", 1e-5)
    if (spread <= 0.0).any():
        raise node.fail("has a variance that is not positive")
    factor = scale / np.sqrt(spread)
    inner = x.size // x.shape[0] // channels
    per_element = np.tile(np.repeat(np.arange(channels), inner), x.shape[0])
    form = x.form.scaled(factor[per_element]).shifted((bias - mean * factor)[per_element])
    return [Value(form, x.shape)]


LINEAR = {
    "Add": _folded(lambda flow, a, b: flow.add(a, b)),
    "BatchNormalization": batch_normalization,
    "Div": divide,
    "Gemm": gemm,
    "MatMul": matmul,
    "Mul": _folded(lambda flow, a, b: flow.multiply(a, b)),
    "Neg": negate,
    "ReduceL2": reduce_l2,
    "ReduceMean": reduce_mean,
    "ReduceSum": reduce_sum,
    "Sub": _folded(lambda flow, a, b: flow.add(a, _minus(b))),
    "Sum": _folded(lambda flow, a, b: flow.add(a, b)),
}
