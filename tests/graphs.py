"""Random policies as ONNX graphs: dense stacks, recurrent operators and written-out cells.

`models()` is a Hypothesis strategy of ModelProtos with the boundary that every policy has
(`observation`, states; `action`, next states). Topology and sizes are drawn, so failures
shrink; weights come from a drawn seed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 20, 9
MOST = 40

Draw = Callable[[st.SearchStrategy], object]
Signal = tuple[str, int]  # a tensor [1, size]: its name and size

ACTIVATIONS: dict[str, dict[str, float]] = {
    "Relu": {},
    "Tanh": {},
    "Sigmoid": {},
    "Elu": {"alpha": 1.0},
    "LeakyRelu": {"alpha": 0.1},
    "Selu": {},
    "Softplus": {},
    "Softsign": {},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "HardSwish": {},
    "Gelu": {},
    "Mish": {},
}


@dataclass
class Graph:
    """A graph under construction."""

    seed: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)
    states: list[tuple[Signal, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def weight(self, *shape: int, scale: float = 1.0) -> str:
        values = self.rng.normal(scale=scale, size=shape).astype(np.float32)
        return self.constant(values)

    def constant(self, values: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def scalar(self, value: float) -> str:
        return self.constant(np.array(value, dtype=np.float32))

    def axis(self, *axes: int) -> str:
        return self.constant(np.array(axes, dtype=np.int64))

    def node(self, op: str, *inputs: str, outputs: int = 1, **attributes: object) -> list[str]:
        names = [f"t{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(
            helper.make_node(op, inputs, names, name=f"n{len(self.nodes)}", **attributes)
        )
        return names

    def one(self, op: str, *inputs: str, **attributes: object) -> str:
        return self.node(op, *inputs, **attributes)[0]

    def dense(self, x: Signal, size: int, gemm: bool = True) -> Signal:
        scale = 1.0 / np.sqrt(x[1])
        bias = self.weight(size, scale=0.3)
        if gemm:
            return self.one(
                "Gemm", x[0], self.weight(size, x[1], scale=scale), bias, transB=1
            ), size
        product = self.one("MatMul", x[0], self.weight(x[1], size, scale=scale))
        return self.one("Add", product, bias), size

    def state(self, size: int) -> Signal:
        self.states.append(((f"s{len(self.states)}", size), ""))
        return self.states[-1][0]

    def follow(self, state: Signal, after: str) -> None:
        """The tensor that replaces a state after the step."""
        where = [s for s, _ in self.states].index(state)
        self.states[where] = (state, after)

    def model(self, observation: Signal, action: Signal) -> onnx.ModelProto:
        def port(name: str, size: int) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])

        ends = [(action[0], "action")]
        ends += [(after, f"{state[0]}_next") for state, after in self.states]
        for inner, outer in ends:
            self.nodes.append(helper.make_node("Identity", [inner], [outer], name=f"end_{outer}"))
        graph = helper.make_graph(
            self.nodes,
            "step",
            [port(*observation), *(port(*state) for state, _ in self.states)],
            [port("action", action[1]), *(port(f"{s[0]}_next", s[1]) for s, _ in self.states)],
            self.weights,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        onnx.checker.check_model(model)
        return model


def _sequence(g: Graph, x: Signal) -> str:
    return g.one("Unsqueeze", x[0], g.axis(0))


def gru_operator(g: Graph, x: Signal, size: int, after: bool) -> Signal:
    """ONNX GRU; `after` resets after the matrix product."""
    h, (n, scale) = g.state(size), (x[1], 1.0 / np.sqrt(x[1] + size))
    w, r = g.weight(1, 3 * size, n, scale=scale), g.weight(1, 3 * size, size, scale=scale)
    b = g.weight(1, 6 * size, scale=0.3)
    _, last = g.node(
        "GRU", _sequence(g, x), w, r, b, "", _sequence(g, h),
        outputs=2, hidden_size=size, linear_before_reset=int(after),
    )  # fmt: skip
    y = g.one("Squeeze", last, g.axis(0))
    g.follow(h, y)
    return y, size


def lstm_operator(g: Graph, x: Signal, size: int) -> Signal:
    """ONNX LSTM."""
    h, c = g.state(size), g.state(size)
    scale = 1.0 / np.sqrt(x[1] + size)
    w, r = g.weight(1, 4 * size, x[1], scale=scale), g.weight(1, 4 * size, size, scale=scale)
    b = g.weight(1, 8 * size, scale=0.3)
    _, y, cell = g.node(
        "LSTM", _sequence(g, x), w, r, b, "", _sequence(g, h), _sequence(g, c),
        outputs=3, hidden_size=size,
    )  # fmt: skip
    y, cell = (g.one("Squeeze", name, g.axis(0)) for name in (y, cell))
    g.follow(h, y)
    g.follow(c, cell)
    return y, size


def _gates(g: Graph, x: Signal, h: Signal, count: int, joined: bool) -> list[str]:
    """`count` gate pre-activations from [x, h]: one product, or two that are added."""
    if joined:
        both = (g.one("Concat", x[0], h[0], axis=1), x[1] + h[1])
        total = g.dense(both, count * h[1])[0]
    else:
        total = g.one("Add", g.dense(x, count * h[1])[0], g.dense(h, count * h[1], False)[0])
    return g.node("Split", total, outputs=count, axis=1, num_outputs=count)


def gru_cell(g: Graph, x: Signal, size: int, joined: bool, form: int) -> Signal:
    """A GRU written out; `form` 0: n + z (h - n), 1: (1-z) n + z h, 2: (1-z) h + z n."""
    h = g.state(size)
    gates = _gates(g, x, h, 2, joined)
    r, z = (g.one("Sigmoid", gate) for gate in gates)
    past = g.one("Mul", r, g.dense(h, size)[0])
    n = g.one("Tanh", g.one("Add", g.dense(x, size, False)[0], past))
    if form == 0:
        y = g.one("Add", n, g.one("Mul", z, g.one("Sub", h[0], n)))
    else:
        rest = g.one("Sub", g.scalar(1.0), z)
        new, old = (rest, z) if form == 1 else (z, rest)
        y = g.one("Add", g.one("Mul", new, n), g.one("Mul", old, h[0]))
    g.follow(h, y)
    return y, size


def lstm_cell(g: Graph, x: Signal, size: int, joined: bool) -> Signal:
    """An LSTM written out."""
    h, c = g.state(size), g.state(size)
    i, f, o, n = _gates(g, x, h, 4, joined)
    i, f, o = (g.one("Sigmoid", gate) for gate in (i, f, o))
    cell = g.one("Add", g.one("Mul", f, c[0]), g.one("Mul", i, g.one("Tanh", n)))
    y = g.one("Mul", o, g.one("Tanh", cell))
    g.follow(h, y)
    g.follow(c, cell)
    return y, size


def _activated(g: Graph, draw: Draw, x: Signal) -> Signal:
    op = draw(st.sampled_from(sorted(ACTIVATIONS)))
    return g.one(op, x[0], **ACTIVATIONS[op]), x[1]


def _layer(g: Graph, draw: Draw, x: Signal) -> Signal:
    size = draw(st.integers(1, MOST))
    return _activated(g, draw, g.dense(x, size, draw(st.booleans())))


def _residual(g: Graph, draw: Draw, x: Signal) -> Signal:
    inner = _activated(g, draw, g.dense(x, x[1], draw(st.booleans())))
    return g.one("Add", x[0], inner[0]), x[1]


def _split(g: Graph, draw: Draw, x: Signal) -> Signal:
    """Two slices, treated differently and put together the other way round."""
    if x[1] < 2:
        return x
    cut = draw(st.integers(1, x[1] - 1))
    sizes = g.axis(cut, x[1] - cut)
    left, right = g.node("Split", x[0], sizes, outputs=2, axis=1)
    left = g.one(draw(st.sampled_from(["Tanh", "Identity", "Neg"])), left)
    return g.one("Concat", right, left, axis=1), x[1]


def _gated(g: Graph, draw: Draw, x: Signal) -> Signal:
    size = draw(st.integers(1, MOST))
    value = g.dense(x, size)
    if draw(st.booleans()):
        return g.one("Mul", value[0], g.one("Sigmoid", value[0])), size
    return g.one("Mul", value[0], g.one("Sigmoid", g.dense(x, size)[0])), size


def _norm(g: Graph, draw: Draw, x: Signal) -> Signal:
    scale, bias = g.weight(x[1], scale=0.5), g.weight(x[1], scale=0.3)
    return g.one("LayerNormalization", x[0], scale, bias, axis=-1, epsilon=1e-3), x[1]


def _scaled(g: Graph, draw: Draw, x: Signal) -> Signal:
    shifted = g.one("Sub", x[0], g.weight(1, x[1], scale=0.5))
    spread = g.constant(g.rng.uniform(0.5, 2.0, (1, x[1])).astype(np.float32))
    return g.one(draw(st.sampled_from(["Div", "Mul"])), shifted, spread), x[1]


def _clipped(g: Graph, draw: Draw, x: Signal) -> Signal:
    return g.one("Clip", x[0], g.scalar(-1.0), g.scalar(1.5)), x[1]


def _chosen(g: Graph, draw: Draw, x: Signal) -> Signal:
    """A discrete action, or one for each of two slices."""
    parts = [x[0]]
    if x[1] > 1:
        cut = draw(st.integers(0, x[1] - 1))
        if cut:
            parts = g.node("Split", x[0], g.axis(cut, x[1] - cut), outputs=2, axis=1)
    indices = [g.one("ArgMax", part, axis=1) for part in parts]
    index = g.one("Concat", *indices, axis=1) if len(indices) > 1 else indices[0]
    return g.one("Cast", index, to=TensorProto.FLOAT), len(indices)


def _recurrent(g: Graph, draw: Draw, x: Signal) -> Signal:
    size, joined = draw(st.integers(1, MOST)), draw(st.booleans())
    match draw(st.integers(0, 4)):
        case 0:
            return gru_operator(g, x, size, True)
        case 1:
            return gru_operator(g, x, size, False)
        case 2:
            return lstm_operator(g, x, size)
        case 3:
            return gru_cell(g, x, size, joined, draw(st.integers(0, 2)))
        case _:
            return lstm_cell(g, x, size, joined)


_BLOCKS = (_layer, _residual, _split, _gated, _norm, _scaled, _clipped, _recurrent)
_ENDS = (None, "Tanh", "Clip", "Softmax", "ArgMax")


@st.composite
def models(draw: Draw, most_blocks: int = 5) -> onnx.ModelProto:
    """A random policy: up to `most_blocks` blocks, sizes 1 to 40, then a dense output layer."""
    g = Graph(draw(st.integers(0, 2**32 - 1)))
    observation = ("observation", draw(st.integers(1, MOST)))
    x = observation
    for block in draw(st.lists(st.sampled_from(_BLOCKS), max_size=most_blocks)):
        x = block(g, draw, x)
        if draw(st.integers(0, 5)) == 0:
            x = (g.one("Concat", x[0], observation[0], axis=1), x[1] + observation[1])
    action = g.dense(x, draw(st.integers(1, MOST)))
    match draw(st.sampled_from(_ENDS)):
        case "Clip":
            action = _clipped(g, draw, action)
        case "ArgMax":
            action = _chosen(g, draw, action)
        case None:
            pass
        case end:
            action = (g.one(end, action[0]), action[1])
    return g.model(observation, action)
