"""Torch's recurrent layers and cells as ONNX nodes, one step at a time.

Every function takes its operands in the order and under the names of torch's own schema
(aten/src/ATen/native/native_functions.yaml).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgerl.policies import graph
from edgerl.policies.importers.aten.elementwise import binary, node
from edgerl.policies.importers.aten.layers import fits, linear, numbers
from edgerl.policies.importers.aten.layout import joined, reshaped
from edgerl.policies.importers.aten.symbolic import Mismatch, Refused, Tensor, Tracer, at


def _step(x: Tensor) -> None:
    """A sequence must be one step of one row."""
    if len(x.shape) != 3 or x.shape[:2] != (1, 1):
        why = f"gets a sequence of sizes {list(x.shape)}; a policy sees one step, [1, 1, size]"
        rows = math.prod(x.shape[:-1])
        raise Mismatch(why, rows, 1) if rows > 1 else Refused(why)


def _layers(
    input: Tensor, params: Any, has_biases: Any, num_layers: Any, rest: Sequence[Any]
) -> list[list[Tensor]]:
    """The weights of each layer: input, hidden, and both biases where it has them."""
    if not isinstance(params, list | tuple) or not isinstance(num_layers, int):
        raise Refused("gets packed sequences, which a policy's single step has no use for")
    dropout, train, bidirectional = rest[0], rest[1], rest[2]
    each = 4 if has_biases else 2
    if bidirectional:
        raise Refused("runs in both directions; a controller can only run forward")
    if train and dropout > 0:
        raise Refused("drops values out in training mode; call model.eval() before exporting")
    if len(params) != each * num_layers or num_layers < 1:
        raise Refused("has projections, which are not supported")
    _step(input)
    return [list(params[k : k + each]) for k in range(0, len(params), each)]


def _cell_weights(x: Tensor, h: Tensor, weights: Sequence[Any], gates: int) -> list[graph.Array]:
    """Weights of a cell as numbers, zero biases where there are none, sizes checked."""
    w_input, w_hidden = (numbers(w, "weights") for w in weights[:2])
    if w_input.ndim != 2 or w_hidden.ndim != 2:
        raise Refused("has weights that are no matrices")
    hidden = w_hidden.shape[1]
    fits(x.size, w_input.shape[1], "weight takes")
    fits(h.size, hidden, "state has")
    biases = [
        np.zeros(gates * hidden, np.float32) if b is None else numbers(b, "biases").reshape(-1)
        for b in (*weights[2:], None, None)[:2]
    ]
    for rows in (len(w_input), len(w_hidden), *(b.size for b in biases)):
        fits(rows, gates * hidden, "gates have")
    return [w_input, w_hidden, *biases]


def _gru_cell(
    t: Tracer, input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor,
    b_ih: Tensor | None = None, b_hh: Tensor | None = None,
) -> Tensor:  # fmt: skip
    weights = _cell_weights(input, hx, (w_ih, w_hh, b_ih, b_hh), 3)
    return t.computed(t.graph.gru(t.row(input), t.row(hx), *weights), hx.shape)


def _lstm_cell(
    t: Tracer, input: Tensor, hx: Sequence[Tensor], w_ih: Tensor, w_hh: Tensor,
    b_ih: Tensor | None = None, b_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    h, c = hx
    weights = _cell_weights(input, h, (w_ih, w_hh, b_ih, b_hh), 4)
    fits(c.size, h.size, "state has")
    after = t.graph.lstm(t.row(input), t.row(h), t.row(c), *weights)
    return t.computed(after[0], h.shape), t.computed(after[1], c.shape)


def _simple_cell(activation: str) -> Callable[..., Tensor]:
    def apply(
        t: Tracer, input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor,
        b_ih: Tensor | None = None, b_hh: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        _cell_weights(input, hx, (w_ih, w_hh, b_ih, b_hh), 1)
        total = binary(t, "Add", linear(t, input, w_ih, b_ih), linear(t, hx, w_hh, b_hh))
        return node(t, activation, total)

    return apply


def _stacked(cell: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """A recurrent layer with one state, from its cell."""

    def apply(
        t: Tracer, input: Tensor, hx: Tensor, params: Any, has_biases: Any, num_layers: Any,
        *rest: Any,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        x, after = input, []
        for k, weights in enumerate(_layers(input, params, has_biases, num_layers, rest)):
            h = t.view(hx, at(k))
            after.append(cell(t, reshaped(t, x, (1, x.size)), h, *weights))
            x = after[-1]
        return reshaped(t, x, (1, 1, x.size)), _states(t, after)

    return apply


def _states(t: Tracer, states: Sequence[Tensor]) -> Tensor:
    return joined(t, [reshaped(t, x, (1, 1, x.size)) for x in states])


def _lstm(
    t: Tracer, input: Tensor, hx: Any, params: Any, has_biases: Any, num_layers: Any,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    if isinstance(hx, Tensor):
        raise Refused("gets packed sequences, which a policy's single step has no use for")
    x, hidden, cell = input, [], []
    for k, weights in enumerate(_layers(input, params, has_biases, num_layers, rest)):
        before = [t.view(state, at(k)) for state in hx]
        h, c = _lstm_cell(t, reshaped(t, x, (1, x.size)), before, *weights)
        hidden.append(h)
        cell.append(c)
        x = h
    return reshaped(t, x, (1, 1, x.size)), _states(t, hidden), _states(t, cell)


RECURRENT: dict[str, Callable[..., Any]] = {
    "gru": _stacked(_gru_cell),
    "gru_cell": _gru_cell,
    "lstm": _lstm,
    "lstm_cell": _lstm_cell,
    "rnn_relu": _stacked(_simple_cell("Relu")),
    "rnn_relu_cell": _simple_cell("Relu"),
    "rnn_tanh": _stacked(_simple_cell("Tanh")),
    "rnn_tanh_cell": _simple_cell("Tanh"),
}
