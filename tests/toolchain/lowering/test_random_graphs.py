"""Random policies: the program computes what onnxruntime does, and no product twice."""

import graphs
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from parity import difference

from edgerl.policies.onnx_file import parse
from edgerl.toolchain.ir import Gru, Lstm, Program, reads, writes
from edgerl.toolchain.lowering import lower


def products(model: onnx.ModelProto) -> int:
    """Multiply-accumulates of the graph's matrix products as they are written."""
    sizes = {t.name: numpy_helper.to_array(t).size for t in model.graph.initializer}
    operands = {"Gemm": (1,), "MatMul": (1,), "GRU": (1, 2), "LSTM": (1, 2)}
    return sum(
        sizes[node.input[k]] for node in model.graph.node for k in operands.get(node.op_type, ())
    )


def assert_sound(program: Program) -> None:
    """Every tensor is written once before it is read, has its size, and is needed."""
    inputs = [program.observation, *(before for before, _ in program.states)]
    outputs = [program.action, *(after for _, after in program.states)]
    there, read = set(inputs), set(outputs)
    for operation in program.operations:
        assert there.issuperset(reads(operation))
        assert there.isdisjoint(writes(operation))
        there.update(writes(operation))
        read.update(reads(operation))
    assert there == set(program.tensors)
    assert there - set(inputs) <= read
    assert len(set(outputs)) == len(outputs) and not set(outputs) & set(inputs)


@settings(max_examples=120, deadline=None)
@given(graphs.models())
def test_random_policy(model: onnx.ModelProto) -> None:
    policy = parse(model.SerializeToString(), "random.onnx")
    program = lower(policy)
    assert_sound(program)
    assert program.macs <= products(model)
    assert difference(policy, program, steps=4) < 1e-5
    assert parse(policy.serialized(), "again.onnx").serialized() == policy.serialized()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 24), st.integers(1, 24),
    st.booleans(), st.integers(0, 3), st.integers(0, 3),
)  # fmt: skip
def test_written_out_cells_are_recognised(
    seed: int, inputs: int, size: int, joined: bool, first: int, second: int
) -> None:
    """Two cells in series, each a GRU in one of three forms or an LSTM."""
    g = graphs.Graph(seed)
    observation = ("observation", inputs)
    x = observation
    for form in (first, second):
        if form == 3:
            x = graphs.lstm_cell(g, x, size, joined)
        else:
            x = graphs.gru_cell(g, x, size, joined, form)
    model = g.model(observation, g.dense(x, 3))
    policy = parse(model.SerializeToString(), "cells.onnx")
    program = lower(policy)
    cells = [op for op in program.operations if isinstance(op, Gru | Lstm)]
    assert [isinstance(op, Lstm) for op in cells] == [first == 3, second == 3]
    assert len(program.operations) == 3
    assert program.macs <= products(model)
    assert difference(policy, program, steps=4) < 1e-5
