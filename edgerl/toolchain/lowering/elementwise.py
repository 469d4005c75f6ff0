"""Non-linear operators: activations, limits, softmax, layer normalisation."""

from collections.abc import Callable

import numpy as np

from edgerl.toolchain.ir import Activation, ArgMax, BinaryOperation, LayerNorm, Softmax
from edgerl.toolchain.lowering.flow import Flow
from edgerl.toolchain.lowering.forms import Doubles, Form, joined
from edgerl.toolchain.lowering.linear import MOST_ROWS, aligned, common_shape
from edgerl.toolchain.lowering.node import Node, Operand, Value

Handler = Callable[[Flow, Node], list[Operand]]

_SELU = (1.67326319217681884765625, 1.05070102214813232421875)


def _scale(value: float) -> Doubles:
    return np.array([value])


def _map(function: Callable[[Flow, Node, Form], Form]) -> Handler:
    """A handler for an element-wise function of the first operand."""

    def handler(flow: Flow, node: Node) -> list[Operand]:
        x = node.value(0)
        return [Value(function(flow, node, x.form), x.shape)]

    return handler


def _plain(activation: Activation) -> Handler:
    return _map(lambda flow, node, x: flow.activate(activation, x))


def _leaky(flow: Flow, node: Node, x: Form) -> Form:
    return flow.activate("leaky_relu", x, node.number("alpha", 0.01))


def _elu(flow: Flow, node: Node, x: Form) -> Form:
    return flow.activate("elu", x, node.number("alpha", 1.0))


def _celu(flow: Flow, node: Node, x: Form) -> Form:
    alpha = node.number("alpha", 1.0)
    if alpha == 0.0:
        raise node.fail("attribute alpha is zero")
    return flow.activate("elu", x.scaled(_scale(1.0 / alpha))).scaled(_scale(alpha))


def _selu(flow: Flow, node: Node, x: Form) -> Form:
    alpha, gamma = node.number("alpha", _SELU[0]), node.number("gamma", _SELU[1])
    if np.allclose((alpha, gamma), _SELU, rtol=1e-6):
        return flow.activate("selu", x)
    return flow.activate("elu", x, alpha).scaled(_scale(gamma))


def _prelu(flow: Flow, node: Node) -> list[Operand]:
    """x or slope * x, as relu(x) - slope * relu(-x); one slope for all is a leaky ReLU."""
    slope = node.numbers(1)
    x = node.value(0)
    if slope.size == 1:
        return [Value(flow.activate("leaky_relu", x.form, float(slope.reshape(()))), x.shape)]
    (form, slopes), shape = aligned(node, [x, node.value(1)])
    falling = flow.activate("relu", form.scaled(_scale(-1.0)))
    return [Value(flow.add(flow.activate("relu", form), falling.scaled(-slopes.bias)), shape)]


def _hard_sigmoid(flow: Flow, node: Node, x: Form) -> Form:
    alpha, beta = node.number("alpha", 0.2), node.number("beta", 0.5)
    inner = x.scaled(_scale(alpha)).shifted(_scale(beta))
    return flow.clip(inner, np.zeros(x.size), np.ones(x.size))


def _gelu(flow: Flow, node: Node, x: Form) -> Form:
    """x Phi(x); the tanh approximation is written out as ONNX defines it."""
    if node.attributes.get("approximate", "none") != "tanh":
        return flow.activate("gelu", x)
    cube = flow.multiply(flow.activate("square", x), x)
    inner = x.plus(cube.scaled(_scale(0.044715))).scaled(_scale(np.sqrt(2.0 / np.pi)))
    gate = flow.activate("tanh", inner).shifted(_scale(1.0)).scaled(_scale(0.5))
    return flow.multiply(x, gate)


def _swish(flow: Flow, node: Node, x: Form) -> Form:
    alpha = node.number("alpha", 1.0)
    return flow.multiply(x, flow.activate("sigmoid", x.scaled(_scale(alpha))))


def _power(flow: Flow, node: Node) -> list[Operand]:
    """Powers with one of the exponents that need no general power function."""
    x, exponent = node.value(0), node.numbers(1)
    if exponent.size != 1:
        raise node.fail("needs one exponent for all elements")
    if common_shape(node, x.shape, exponent.shape) != x.shape:
        raise node.fail("has an exponent with more axes than its operand")
    form = x.form
    match float(exponent.reshape(())):
        case 1.0:
            result = form
        case 2.0:
            result = flow.activate("square", form)
        case 3.0:
            result = flow.multiply(flow.activate("square", form), form)
        case 0.5:
            result = flow.activate("sqrt", form)
        case -1.0:
            result = flow.activate("reciprocal", form)
        case other:
            raise node.fail(f"exponent {other:g} is not supported; 1, 2, 3, 0.5 and -1 are")
    return [Value(result, x.shape)]


def _clip(flow: Flow, node: Node) -> list[Operand]:
    """Limits that are constants; an absent one does not limit."""
    x = node.value(0)
    low, high = node.scalar(1, -np.inf), node.scalar(2, np.inf)
    return [Value(flow.clip(x.form, np.full(x.size, low), np.full(x.size, high)), x.shape)]


def _extreme(operation: BinaryOperation) -> Handler:
    """The lesser or greater of run-time tensors and constants (which become limits)."""
    below, above = (-np.inf, np.inf)

    def pair(flow: Flow, a: Form, b: Form) -> Form:
        if a.terms and b.terms:
            return flow.binary(operation, a, b)
        x, limit = (a, b.bias) if a.terms else (b, a.bias)
        if operation == "min":
            return flow.clip(x, np.full(x.size, below), limit)
        return flow.clip(x, limit, np.full(x.size, above))

    def handler(flow: Flow, node: Node) -> list[Operand]:
        forms, shape = aligned(node, [node.value(k) for k in range(len(node.inputs))])
        total = forms[0]
        for form in forms[1:]:
            total = pair(flow, total, form)
        return [Value(total, shape)]

    return handler


def _greater(flow: Flow, node: Node) -> list[Operand]:
    """a > b, of use only in a Where that `Flow.choose` knows."""
    (a, b), shape = aligned(node, [node.value(0), node.value(1)])
    difference = flow.add(a, b.scaled(_scale(-1.0)))
    return [Value(flow.part("positive", difference, node.label), shape)]


def _where(flow: Flow, node: Node) -> list[Operand]:
    """A choice by a constant mask, or one that makes no difference."""
    condition = node.input(0)
    (a, b), shape = aligned(node, [node.value(1), node.value(2)])
    if isinstance(condition, Value):
        chosen = flow.choose(condition.form, a, b) if condition.shape == shape else None
        if chosen is None:
            raise node.fail("chooses by a run-time condition, which is not supported")
        return [Value(chosen, shape)]
    if common_shape(node, condition.shape, shape) != shape:
        raise node.fail(f"has a mask of shape {condition.shape} for tensors of shape {shape}")
    mask = np.broadcast_to(condition.astype(bool), shape).reshape(-1)
    rows = np.arange(a.size) + np.where(mask, 0, a.size)
    return [Value(joined([a, b]).take(rows), shape)]


def _along_last(node: Node, x: Value, axis: int, function: Callable[[Form], Form]) -> Value:
    """`function` of every vector along `axis`, which only axes of length 1 may follow."""
    rank = len(x.shape)
    if not -rank <= axis < rank:
        raise node.fail(f"axis {axis} does not fit {rank} axes")
    axis %= rank
    length = x.shape[axis]
    if any(n != 1 for n in x.shape[axis + 1 :]):
        raise node.fail("works along an axis that is not the last")
    rows = [x.form.take(np.arange(k, k + length)) for k in range(0, x.size, length)]
    return Value(joined([function(row) for row in rows]), x.shape)


def _softmax(flow: Flow, node: Node) -> list[Operand]:
    x = node.value(0)

    def apply(row: Form) -> Form:
        return flow.step(Softmax("", ""), {"x": row}, {"y": row.size})[0]

    axis = node.integer("axis", -1 if node.opset >= 13 else 1)
    if node.opset < 13 and any(n != 1 for n in x.shape[axis + 1 :]):
        raise node.fail("flattens several axes, as before opset 13; export a newer opset")
    return [_along_last(node, x, axis, apply)]


def _arg_max(flow: Flow, node: Node) -> list[Operand]:
    """The first largest element along any axis, one step for each vector there is."""
    if node.integer("select_last_index", 0):
        raise node.fail("selects the last of equal maxima; only select_last_index=0 is supported")
    x = node.value(0)
    axis, rank = node.integer("axis", 0), len(x.shape)
    if not -rank <= axis < rank:
        raise node.fail(f"axis {axis} does not fit {rank} axes")
    numbers = np.moveaxis(np.arange(x.size).reshape(x.shape), axis, -1)
    rows = numbers.reshape(-1, numbers.shape[-1])
    if len(rows) > MOST_ROWS:
        raise node.fail(f"looks through {len(rows)} vectors; {MOST_ROWS} are possible")
    found = [flow.step(ArgMax("", ""), {"x": x.form.take(row)}, {"y": 1})[0] for row in rows]
    one = np.ones(numbers.shape[:-1])
    shape = np.expand_dims(one, axis).shape if node.integer("keepdims", 1) else one.shape
    return [Value(joined(found), shape, integer=True)]


def _layer_normalization(flow: Flow, node: Node) -> list[Operand]:
    """Normalisation over the last axis (ir.LayerNorm)."""
    x = node.value(0)
    axis = node.integer("axis", -1)
    epsilon = node.number("epsilon", 1e-5)
    if not 0.0 <= epsilon < 1.0:
        raise node.fail(f"epsilon {epsilon:g} is not between 0 and 1")
    scale = node.numbers(1).reshape(-1)
    bias = node.numbers(2).reshape(-1) if node.has(2) else np.zeros(scale.size)

    def apply(row: Form) -> Form:
        if row.size != scale.size or row.size != bias.size:
            raise node.fail(f"normalises {row.size} elements with {scale.size} scales")
        template = LayerNorm("", scale.astype(np.float32), bias.astype(np.float32), epsilon, "")
        return flow.step(template, {"x": row}, {"y": row.size})[0]

    return [_along_last(node, x, axis, apply)]


ELEMENTWISE: dict[str, Handler] = {
    "Abs": _plain("abs"),
    "ArgMax": _arg_max,
    "Celu": _map(_celu),
    "Clip": _clip,
    "Cos": _plain("cos"),
    "Elu": _map(_elu),
    "Erf": _map(lambda flow, node, x: flow.part("erf", x, node.label)),
    "Exp": _plain("exp"),
    "Gelu": _map(_gelu),
    "Greater": _greater,
    "HardSigmoid": _map(_hard_sigmoid),
    "HardSwish": _plain("hard_swish"),
    "LayerNormalization": _layer_normalization,
    "LeakyRelu": _map(_leaky),
    "Max": _extreme("max"),
    "Min": _extreme("min"),
    "Mish": _plain("mish"),
    "PRelu": _prelu,
    "Pow": _power,
    "Reciprocal": _plain("reciprocal"),
    "Relu": _plain("relu"),
    "Selu": _map(_selu),
    "Sigmoid": _plain("sigmoid"),
    "Sin": _plain("sin"),
    "Softmax": _softmax,
    "Softplus": _plain("softplus"),
    "Softsign": _plain("softsign"),
    "Sqrt": _plain("sqrt"),
    "Swish": _map(_swish),
    "Tanh": _plain("tanh"),
    "Where": _where,
}
