"""Recurrent operators of one step: RNN, GRU and LSTM.

They become one operation each where the Program has one, else primitives (a GRU that resets
before the matrix, a plain RNN). Gate rows are brought from ONNX's order to the Program's.
"""

from dataclasses import dataclass

import numpy as np

from edgerl.toolchain.ir import Gru, Lstm
from edgerl.toolchain.lowering.flow import Flow
from edgerl.toolchain.lowering.forms import Doubles, Form
from edgerl.toolchain.lowering.node import Node, Operand, Value

# Positions of the Program's gates (r z n; i f g o) in ONNX's rows (z r h; i o f c).
_GRU_ORDER = (1, 0, 2)
_LSTM_ORDER = (0, 2, 3, 1)


@dataclass(frozen=True)
class _Cell:
    """The operands of a recurrent node, gate rows in the Program's order."""

    hidden: int
    x: Form
    h: Form
    w_input: Doubles
    w_hidden: Doubles
    b_input: Doubles
    b_hidden: Doubles


def _cell(node: Node, order: tuple[int, ...], activations: tuple[str, ...]) -> _Cell:
    """Check a recurrent node and read its operands."""
    attributes = node.attributes
    direction = attributes.get("direction", "forward")
    if direction != "forward":
        raise node.fail(f"runs {str(direction)[:20]!r}; a controller can only run forward")
    names = [n.decode() if isinstance(n, bytes) else n for n in attributes.get("activations", [])]
    if names and tuple(n.lower() for n in names) != activations:
        raise node.fail("has activations other than the default ones")
    if "clip" in attributes:
        raise node.fail("clips its gates, which is not supported")
    x, w, r = node.value(0), node.numbers(1), node.numbers(2)
    if len(x.shape) != 3 or x.shape[:2] != (1, 1):
        raise node.fail(f"reads a sequence of shape {x.shape}; a single step is [1, 1, size]")
    if w.ndim != 3 or r.ndim != 3:
        raise node.fail(f"weights of shapes {w.shape} and {r.shape} do not have three axes")
    hidden, rows = r.shape[-1], len(order) * r.shape[-1]
    given = node.integer("hidden_size", hidden)
    if (w.shape, r.shape, given) != ((1, rows, x.size), (1, rows, hidden), hidden):
        raise node.fail(f"weights of shapes {w.shape} and {r.shape} do not fit")
    bias = node.numbers(3) if node.has(3) else np.zeros((1, 2 * rows))
    if bias.shape != (1, 2 * rows):
        raise node.fail(f"bias of shape {bias.shape} does not fit {hidden} hidden elements")
    if node.has(4) and not np.array_equal(node.constant(4), [1]):
        raise node.fail("has sequence lengths other than 1")

    def ordered(values: Doubles) -> Doubles:
        gates = np.split(values, len(order))
        return np.concatenate([gates[k] for k in order])

    b_input, b_hidden = np.split(bias[0], 2)
    return _Cell(
        hidden=hidden,
        x=x.form,
        h=_state(node, 5, hidden),
        w_input=ordered(w[0]),
        w_hidden=ordered(r[0]),
        b_input=ordered(b_input),
        b_hidden=ordered(b_hidden),
    )


def _state(node: Node, k: int, hidden: int) -> Form:
    if not node.has(k):
        raise node.fail("starts every step from zeros; give it its state as an input")
    state = node.value(k)
    if state.size != hidden:
        raise node.fail(f"state {state.shape} does not fit {hidden} hidden elements")
    return state.form


def _folded_input(flow: Flow, cell: _Cell) -> tuple[Form, Doubles, Doubles]:
    """Input, its weights and bias, with arithmetic on the whole input folded into them."""
    factors, bias = flow.factors(cell.w_input, cell.x)
    if len(factors) == 1:
        ((x, weights),) = factors
        return x, weights, cell.b_input + bias
    return cell.x, cell.w_input, cell.b_input


def _results(node: Node, h: Form, *states: Form) -> list[Operand]:
    """Y (whole sequence) and the final states, as shaped by ONNX for one step."""
    sequence: list[Operand] = [Value(h, (1, 1, 1, h.size))]
    return [*sequence, *(Value(state, (1, 1, state.size)) for state in (h, *states))]


def gru(flow: Flow, node: Node) -> list[Operand]:
    """One step of a gated recurrent unit."""
    cell = _cell(node, _GRU_ORDER, ("sigmoid", "tanh"))
    if node.integer("linear_before_reset", 0):
        x, w_input, b_input = _folded_input(flow, cell)
        template = Gru(
            "", "", "",
            w_input.astype(np.float32), cell.w_hidden.astype(np.float32),
            b_input.astype(np.float32), cell.b_hidden.astype(np.float32),
        )  # fmt: skip
        operands = {"x": x, "h": cell.h}
        return _results(node, *flow.step(template, operands, {"h_next": cell.hidden}))
    gates = _gates(flow, cell, slice(0, 2 * cell.hidden))
    r, z = (flow.activate("sigmoid", gate) for gate in _split(gates, 2))
    new = slice(2 * cell.hidden, 3 * cell.hidden)
    past = flow.product(cell.w_hidden[new], flow.multiply(r, cell.h))
    present = flow.product(cell.w_input[new], cell.x)
    bias = cell.b_input[new] + cell.b_hidden[new]
    n = flow.activate("tanh", flow.add(present, past).shifted(bias))
    kept = flow.multiply(z, flow.add(cell.h, n.scaled(np.array([-1.0]))))
    return _results(node, flow.add(n, kept))


def lstm(flow: Flow, node: Node) -> list[Operand]:
    """One step of a long short-term memory without peepholes."""
    cell = _cell(node, _LSTM_ORDER, ("sigmoid", "tanh", "tanh"))
    if node.has(7) and node.numbers(7).any():
        raise node.fail("has peephole weights, which are not supported")
    if node.integer("input_forget", 0):
        raise node.fail("couples input and forget gate, which is not supported")
    x, w_input, b_input = _folded_input(flow, cell)
    template = Lstm(
        "", "", "", "", "",
        w_input.astype(np.float32), cell.w_hidden.astype(np.float32),
        (b_input + cell.b_hidden).astype(np.float32),
    )  # fmt: skip
    operands = {"x": x, "h": cell.h, "c": _state(node, 6, cell.hidden)}
    results = {"h_next": cell.hidden, "c_next": cell.hidden}
    return _results(node, *flow.step(template, operands, results))


def rnn(flow: Flow, node: Node) -> list[Operand]:
    """One step of a plain recurrent layer: tanh(W x + R h + b)."""
    cell = _cell(node, (0,), ("tanh",))
    return _results(node, flow.activate("tanh", _gates(flow, cell, slice(None))))


def _gates(flow: Flow, cell: _Cell, rows: slice) -> Form:
    present = flow.product(cell.w_input[rows], cell.x)
    past = flow.product(cell.w_hidden[rows], cell.h)
    return flow.add(present, past).shifted(cell.b_input[rows] + cell.b_hidden[rows])


def _split(form: Form, parts: int) -> list[Form]:
    return [form.take(rows) for rows in np.split(np.arange(form.size), parts)]


CELLS = {"GRU": gru, "LSTM": lstm, "RNN": rnn}
