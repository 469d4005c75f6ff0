"""Single operators: what each becomes, that it keeps its values, and what is refused."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from graphs import Graph, gru_cell
from onnx import TensorProto, helper, numpy_helper
from parity import difference

from edgerl.errors import UserError
from edgerl.policies.onnx_file import parse
from edgerl.policies.policy import Policy
from edgerl.toolchain.interpreter import run
from edgerl.toolchain.ir import Program
from edgerl.toolchain.lowering import lower

N = 6
Build = Callable[[Graph, str], str]


def made(build: Build, size: int = N, n: int = N) -> Policy:
    """A policy whose action [1, size] is built from its observation [1, n]."""
    g = Graph(0)
    model = g.model(("observation", n), (build(g, "observation"), size))
    return parse(model.SerializeToString(), "case.onnx")


def kinds(program: Program) -> list[str]:
    return [
        str(getattr(op, "activation", None) or getattr(op, "operation", "") or type(op).__name__)
        for op in program.operations
    ]


def dense(g: Graph, x: str, size: int = N) -> str:
    return g.dense((x, N), size)[0]


def row(g: Graph, *values: float) -> str:
    return g.constant(np.array([values], dtype=np.float32))


def first(g: Graph, x: str, size: int) -> str:
    return g.one("Slice", x, g.axis(0), g.axis(size), g.axis(1))


def erf_gelu(g: Graph, x: str) -> str:
    """GELU as torch writes it out before opset 20."""
    gate = g.one("Add", g.one("Erf", g.one("Div", x, g.scalar(np.sqrt(2)))), g.scalar(1.0))
    return g.one("Mul", g.one("Mul", x, gate), g.scalar(0.5))


def half_first_gelu(g: Graph, x: str) -> str:
    gate = g.one("Add", g.scalar(1.0), g.one("Erf", g.one("Mul", x, g.scalar(np.sqrt(0.5)))))
    return g.one("Mul", g.one("Mul", g.scalar(0.5), x), gate)


def guarded_softplus(g: Graph, x: str) -> str:
    """Softplus as torch's dynamo exporter writes it, with its asymptote beyond 20."""
    above = g.one("Greater", x, g.scalar(20.0))
    return g.one("Where", above, x, g.one("Softplus", x))


def stacked(g: Graph, x: str) -> str:
    """One matrix applied to both rows of the observation seen as [2, 3]."""
    rows = g.one("Reshape", x, g.axis(2, 3))
    product = g.one("MatMul", rows, g.weight(3, 2))
    return g.one("Reshape", product, g.axis(1, -1))


def from_left(g: Graph, x: str) -> str:
    column = g.one("Transpose", x, perm=[1, 0])
    return g.one("Transpose", g.one("MatMul", g.weight(4, N), column), perm=[1, 0])


def gemm_from_left(g: Graph, x: str) -> str:
    product = g.one(
        "Gemm", g.weight(N, 4), x, g.weight(4, 1), transA=1, transB=1, alpha=0.5, beta=2.0
    )
    return g.one("Transpose", product)


def strided(g: Graph, x: str) -> str:
    return g.one("Slice", x, g.axis(-1), g.axis(-100), g.axis(1), g.axis(-2))


def prepared(g: Graph, x: str) -> str:
    """Shapes computed from shapes, as exporters leave them."""
    rows = g.one("Gather", g.one("Shape", x), g.axis(0))
    target = g.one("Concat", rows, g.axis(3), g.axis(2), axis=0)
    return g.one("Flatten", g.one("Transpose", g.one("Reshape", x, target), perm=[0, 2, 1]))


def batch_norm(g: Graph, x: str) -> str:
    variance = g.constant(np.linspace(0.5, 2.0, N, dtype=np.float32))
    return g.one("BatchNormalization", x, g.weight(N), g.weight(N), g.weight(N), variance)


def choice(g: Graph, x: str, **attributes: int) -> str:
    """The index of the largest element of x, as a float [1, 1]."""
    index = g.one("ArgMax", x, **{"axis": 1, **attributes})
    return g.one("Cast", index, to=TensorProto.FLOAT)


def choices(g: Graph, x: str) -> str:
    """One choice of two and one of four, side by side before they become floats."""
    parts = g.node("Split", x, g.axis(2, 4), outputs=2, axis=1)
    indices = [g.one("ArgMax", part, axis=-1, keepdims=0) for part in parts]
    stacked = g.one("Concat", *(g.one("Unsqueeze", i, g.axis(1)) for i in indices), axis=1)
    return g.one("Cast", g.one("Cast", stacked, to=TensorProto.INT32), to=TensorProto.FLOAT)


def choices_by_column(g: Graph, x: str) -> str:
    """Along the axis that is not the last: [1, 2, 3] to [1, 3]."""
    table = g.one("Reshape", x, g.axis(1, 2, 3))
    return choice(g, table, keepdims=0)


def rnn(g: Graph, x: str) -> str:
    h = g.state(N)
    sequence, past = (g.one("Unsqueeze", name, g.axis(0)) for name in (x, h[0]))
    _, last = g.node(
        "RNN", sequence, g.weight(1, N, N), g.weight(1, N, N), g.weight(1, 2 * N), "", past,
        outputs=2, hidden_size=N,
    )  # fmt: skip
    y = g.one("Squeeze", last, g.axis(0))
    g.follow(h, y)
    return y


CASES: dict[str, tuple[Build, int, list[str]]] = {
    "leaky": (lambda g, x: g.one("LeakyRelu", dense(g, x), alpha=0.2), N, ["leaky_relu"]),
    "prelu": (
        lambda g, x: g.one("PRelu", x, g.weight(1, N)), N,
        ["Linear", "relu", "relu", "Linear"],
    ),
    "selu": (lambda g, x: g.one("Selu", x, alpha=1.5, gamma=2.0), N, ["elu", "Linear"]),
    "thresholds": (
        lambda g, x: g.one("Max", g.one("Min", x, g.scalar(0.5)), g.scalar(-0.25)), N, ["Clip"],
    ),
    "relu_from_clip": (lambda g, x: g.one("Clip", dense(g, x), g.scalar(0.0)), N, ["relu"]),
    "two_extremes": (lambda g, x: g.one("Min", x, dense(g, x)), N, ["Dense", "min"]),
    "silu": (lambda g, x: g.one("Mul", g.one("Sigmoid", x), x), N, ["silu"]),
    "quick_gelu": (
        lambda g, x: g.one("Mul", x, g.one("Sigmoid", g.one("Mul", x, g.scalar(1.702)))),
        N, ["Linear", "silu", "Linear"],
    ),
    "erf_gelu": (lambda g, x: erf_gelu(g, dense(g, x)), N, ["gelu"]),
    "half_first_gelu": (half_first_gelu, N, ["gelu"]),
    "gelu_tanh": (
        lambda g, x: g.one("Gelu", x, approximate="tanh"), N,
        ["square", "mul", "Linear", "tanh", "Linear", "mul"],
    ),
    "softsign": (
        lambda g, x: g.one("Div", x, g.one("Add", g.one("Abs", x), g.scalar(1.0))), N, ["softsign"],
    ),
    "mish": (lambda g, x: g.one("Mul", x, g.one("Tanh", g.one("Softplus", x))), N, ["mish"]),
    "guarded_softplus": (guarded_softplus, N, ["softplus"]),
    "exp": (lambda g, x: g.one("Exp", x), N, ["exp"]),
    "abs_sqrt": (lambda g, x: g.one("Sqrt", g.one("Abs", x)), N, ["abs", "sqrt"]),
    "reciprocal": (
        lambda g, x: g.one("Reciprocal", g.one("Exp", x)), N, ["exp", "reciprocal"],
    ),
    "constant_over": (
        lambda g, x: g.one("Div", g.scalar(3.0), g.one("Exp", x)), N,
        ["exp", "reciprocal", "Linear"],
    ),
    "square": (lambda g, x: g.one("Pow", x, g.scalar(2.0)), N, ["square"]),
    "cube": (lambda g, x: g.one("Pow", x, g.scalar(3.0)), N, ["square", "mul"]),
    "product_with_itself": (lambda g, x: g.one("Mul", x, x), N, ["square"]),
    "divide": (
        lambda g, x: g.one("Div", x, g.one("Exp", first(g, x, 1))),
        N, ["Gather", "exp", "Gather", "div"],
    ),
    "sum": (lambda g, x: g.one("Sum", x, g.weight(1, N), x), N, ["Linear"]),
    "negative": (lambda g, x: g.one("Neg", dense(g, x)), N, ["Dense"]),
    "softmax": (lambda g, x: g.one("Softmax", x, axis=1), N, ["Softmax"]),
    "norm": (
        lambda g, x: g.one("LayerNormalization", x, g.weight(N), axis=-1, epsilon=0.1), N,
        ["LayerNorm"],
    ),
    "batch_norm": (lambda g, x: batch_norm(g, dense(g, x)), N, ["Dense"]),
    "mean": (lambda g, x: g.one("ReduceMean", x, g.axis(1)), 1, ["Dense"]),
    "norm_of_all": (lambda g, x: g.one("ReduceL2", x, g.axis(-1)), 1, ["square", "sqrt"]),
    "stacked": (stacked, 4, ["Gather", "Gather", "Dense", "Dense", "Gather"]),
    "from_left": (from_left, 4, ["Dense"]),
    "gemm_from_left": (gemm_from_left, 4, ["Dense"]),
    "strided": (strided, 3, ["Gather"]),
    "prepared": (prepared, N, ["Gather"]),
    "masked": (
        lambda g, x: g.one(
            "Where", g.constant(np.array([[True, False, True, True, False, False]])),
            x, g.one("Tanh", x),
        ),
        N, ["tanh", "Gather"],
    ),
    "expanded": (
        lambda g, x: g.one("Expand", g.one("ReduceSum", x, g.axis(1)), g.axis(1, 3)), 3,
        ["Dense", "Gather"],
    ),
    "rnn": (rnn, N, ["tanh", "Gather"]),
    "cast": (lambda g, x: g.one("Tanh", g.one("Cast", x, to=TensorProto.FLOAT)), N, ["tanh"]),
    "dropout": (lambda g, x: g.one("Tanh", g.one("Dropout", x)), N, ["tanh"]),
    "merged_clips": (
        lambda g, x: g.one(
            "Clip", g.one("Clip", x, g.scalar(-2.0), g.scalar(1.0)), g.scalar(-1.0), g.scalar(2.0)
        ),
        N, ["Clip"],
    ),
    "copied": (lambda g, x: g.one("Identity", x), N, ["Gather"]),
    "shared_product": (
        # Both gates read the same pre-activation, and a slice of it leaves too.
        lambda g, x: (lambda p: g.one("Mul", g.one("Tanh", p), g.one("Cos", p)))(dense(g, x)),
        N, ["Dense", "tanh", "cos", "mul"],
    ),
    "same_product_twice": (
        lambda g, x: (lambda w: g.one(
            "Mul", g.one("Tanh", g.one("MatMul", x, w)), g.one("Cos", g.one("MatMul", x, w))
        ))(g.weight(N, 4)),
        4, ["Dense", "tanh", "cos", "mul"],
    ),
    "free_residual": (lambda g, x: g.one("Add", dense(g, x), x), N, ["Dense"]),
    "choice": (lambda g, x: choice(g, dense(g, x)), 1, ["Dense", "ArgMax"]),
    "choice_scaled": (
        lambda g, x: g.one("Sub", g.one("Mul", choice(g, x), g.scalar(0.5)), g.scalar(1.0)), 1,
        ["ArgMax", "Linear"],
    ),
    "choices": (
        lambda g, x: choices(g, dense(g, x)), 2, ["Dense", "ArgMax", "Dense", "ArgMax", "Gather"],
    ),
    "choices_by_column": (
        choices_by_column, 3,
        ["Gather", "ArgMax", "Gather", "ArgMax", "Gather", "ArgMax", "Gather"],
    ),
    "half_precision": (
        lambda g, x: g.one(
            "MatMul", x, g.one("Cast", g.constant(np.full((N, 2), 0.3, np.float16)), to=1)
        ),
        2, ["Dense"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_operator(name: str) -> None:
    build, size, expected = CASES[name]
    policy = made(build, size)
    program = lower(policy)
    assert difference(policy, program, steps=3) < 1e-6
    assert kinds(program) == expected


def test_observation_scaling_joins_the_concatenated_state() -> None:
    """[scaled observation, state] is two sources of one Dense, no copy and no scaling left."""
    g = Graph(1)
    h = g.state(4)
    scaled = g.one("Div", g.one("Sub", "observation", g.weight(1, N)), row(g, *range(1, N + 1)))
    y = g.one("Tanh", g.dense((g.one("Concat", scaled, h[0], axis=1), N + 4), 4)[0])
    g.follow(h, y)
    policy = parse(g.model(("observation", N), g.dense((y, 4), 2)).SerializeToString(), "x.onnx")
    program = lower(policy)
    first, second = program.operations
    assert [x for x, _ in first.sources] == ["observation", "s0"]
    assert first.activation == "tanh" and second.y == "action"
    assert difference(policy, program) < 1e-6


def test_a_slice_is_not_widened_to_the_whole_vector() -> None:
    """Three of 30 observations feed a layer of 20: 60 products, not 600."""
    program = lower(
        made(
            lambda g, x: g.dense((g.one("Slice", x, g.axis(4), g.axis(7), g.axis(1)), 3), 20)[0],
            20,
            30,
        )
    )
    assert program.macs == 60


def test_cell_used_elsewhere_stays_written_out() -> None:
    """Fusing a GRU whose update gate also leaves would compute that gate's product twice."""
    g = Graph(0)
    y = gru_cell(g, ("observation", N), 4, False, 0)
    z = next(n.output[0] for n in g.nodes[::-1] if n.op_type == "Sigmoid")
    action = g.one("Add", y[0], z)
    policy = parse(g.model(("observation", N), (action, 4)).SerializeToString(), "x.onnx")
    program = lower(policy)
    assert "Gru" not in kinds(program)
    assert program.macs == 3 * 4 * (N + 4)
    assert difference(policy, program) < 1e-6


def test_learned_initial_values_and_unused_parts_vanish() -> None:
    """An addition of zeros costs nothing; what the action does not need is not computed."""

    def build(g: Graph, x: str) -> str:
        g.one("Tanh", g.dense((x, N), 30)[0])
        return g.one("Tanh", g.one("Add", x, row(g, *np.zeros(N))))

    assert kinds(lower(made(build))) == ["tanh"]


def test_constant_action() -> None:
    """An action that no observation reaches is still an action."""
    policy = made(lambda g, x: g.one("Add", row(g, 1.0, 2.0), row(g, 0.5, 0.5)), 2)
    action, _ = run(lower(policy), np.zeros(N), ())
    np.testing.assert_array_equal(action, [1.5, 2.5])


def double(g: Graph, *values: float) -> str:
    return g.one("Cast", g.constant(np.array([values])), to=TensorProto.DOUBLE)


REFUSED: dict[str, tuple[Build, str]] = {
    "last_of_equals": (
        lambda g, x: choice(g, x, select_last_index=1), "only select_last_index=0 is supported",
    ),
    "integer_arithmetic": (
        lambda g, x: g.one(
            "Cast", g.one("Add", g.one("ArgMax", x, axis=1), g.axis(1)), to=TensorProto.FLOAT
        ),
        "operator Add (node 'n1', tensor 't1_0'): computes with the integer of an ArgMax",
    ),
    "integer_as_index": (
        lambda g, x: g.one("Gather", g.weight(N), g.one("ArgMax", x, axis=1)),
        "must be a constant",
    ),
    "choice_along_nothing": (lambda g, x: choice(g, x, axis=2), "axis 2 does not fit 2 axes"),
    "too_many_choices": (
        lambda g, x: choice(g, g.one("Expand", x, g.axis(1, 2000, N)), axis=2),
        "looks through 2000 vectors",
    ),
    "unknown": (lambda g, x: g.one("Round", x), "operator Round (node 'n0', tensor 't0_0')"),
    "sort": (lambda g, x: g.node("TopK", x, g.axis(2), outputs=2)[0], "operator TopK"),
    "attention": (
        lambda g, x: g.one("MatMul", x, g.one("Transpose", x)), "two run-time matrices",
    ),
    "power": (lambda g, x: g.one("Pow", x, g.scalar(2.5)), "exponent 2.5"),
    "run_time_exponent": (lambda g, x: g.one("Pow", x, x), "must be a constant"),
    "run_time_index": (
        lambda g, x: g.one("Gather", g.weight(1, N), g.one("Cast", x, to=TensorProto.INT64)),
        "converts a run-time tensor",
    ),
    "erf": (lambda g, x: g.one("Erf", x), "only within a GELU"),
    "comparison": (
        lambda g, x: g.one("Where", g.one("Greater", x, g.scalar(0.0)), x, g.one("Exp", x)),
        "run-time condition",
    ),
    "by_zero": (lambda g, x: g.one("Div", x, g.scalar(0.0)), "divides by zero"),
    "infinite": (
        lambda g, x: g.one("Mul", x, g.one("Div", g.scalar(1.0), g.scalar(0.0))), "not finite",
    ),
    "training": (
        lambda g, x: g.one("Dropout", x, g.scalar(0.5), g.constant(np.array(True))), "eval mode",
    ),
    "huge_fill": (
        lambda g, x: g.one("ConstantOfShape", g.axis(1 << 20, 1 << 20)), "1099511627776 elements",
    ),
    "huge_expand": (
        lambda g, x: g.one("Expand", x, g.axis(1 << 40, N)), "elements",
    ),
    "huge_tile": (lambda g, x: g.one("Tile", x, g.axis(1, 1 << 30)), "elements"),
    "huge_range": (
        lambda g, x: g.one("Range", *(g.constant(np.array(v)) for v in (0, 1 << 40, 1))),
        "elements",
    ),
    "huge_product": (
        lambda g, x: g.one("MatMul", g.one("Expand", g.scalar(1.0), g.axis(1 << 14, 1)),
                           g.one("Expand", g.scalar(1.0), g.axis(1, 1 << 14))), "elements",
    ),
    "long_vector": (
        lambda g, x: g.one("Expand", g.one("ReduceSum", x, g.axis(1)), g.axis(1, 1 << 17)),
        "131072 elements",
    ),
    "many_parts": (
        lambda g, x: g.node("Split", x, outputs=2, axis=1, num_outputs=1 << 31)[0], "num_outputs",
    ),
    "wrong_product": (lambda g, x: g.one("MatMul", x, g.weight(N + 1, 2)), "do not multiply"),
    "wrong_sum": (lambda g, x: g.one("Add", x, g.weight(1, N + 1)), "do not broadcast"),
    "sequence": (
        lambda g, x: g.node(
            "GRU",
            g.one("Reshape", x, g.axis(2, 1, 3)), g.weight(1, 6, 3), g.weight(1, 6, 2), "", "",
            g.one("Reshape", first(g, x, 2), g.axis(1, 1, 2)),
            outputs=2, hidden_size=2,
        )[1],
        "single step is [1, 1, size]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    build, words = REFUSED[name]
    with pytest.raises(UserError) as caught:
        lower(made(build))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_single_precision_would_change_are_refused() -> None:
    """A double-precision model: exact values pass, others are named."""
    observation = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])
    action = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])
    for value, accepted in ((0.5, True), (0.1, False)):
        weights = numpy_helper.from_array(np.full((2, 2), value), "weights")
        nodes = [
            helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.DOUBLE),
            helper.make_node("MatMul", ["wide", "weights"], ["product"]),
            helper.make_node("Cast", ["product"], ["y"], to=TensorProto.FLOAT),
        ]
        graph = helper.make_graph(nodes, "g", [observation], [action], [weights])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        policy = parse(model.SerializeToString(), "double.onnx")
        if accepted:
            assert difference(policy, lower(policy)) < 1e-6
        else:
            with pytest.raises(UserError, match="tensor 'weights' is float64"):
                lower(policy)


def test_declared_and_computed_sizes_must_agree() -> None:
    model = Graph(0).model(("observation", N), ("observation", N))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4
    policy = parse(model.SerializeToString(), "x.onnx")
    with pytest.raises(UserError, match=r"output 'action' is computed as \[1, 6\].*\[1, 4\]"):
        lower(policy)


def test_deep_graphs_do_not_exhaust_the_stack() -> None:
    """Five thousand layers, and as many products of run-time vectors."""

    def build(g: Graph, x: str) -> str:
        for _ in range(2500):
            x = g.one("Mul", g.one("Tanh", x), g.one("Cos", x))
        return x

    program = lower(made(build, 2, 2))
    assert len(program.operations) == 7500


def test_old_opset_attributes() -> None:
    """Opset 11 gives Squeeze and Split their operands as attributes."""
    nodes = [
        helper.make_node("Unsqueeze", ["x"], ["u"], axes=[0]),
        helper.make_node("Squeeze", ["u"], ["s"], axes=[0]),
        helper.make_node("Split", ["s"], ["a", "b"], axis=1, split=[1, 2]),
        helper.make_node("Concat", ["b", "a"], ["y"], axis=1),
    ]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3]) for n in "xy"]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    onnx.checker.check_model(model)
    policy = parse(model.SerializeToString(), "old.onnx")
    assert difference(policy, lower(policy)) == 0.0
