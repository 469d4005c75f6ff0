"""Files that mean harm or are damaged: one line for each, never anything else."""

from collections.abc import Callable
from pathlib import Path

import exports
import numpy as np
import onnx
import pytest
from graphs import Graph
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgerl.errors import UserError
from edgerl.policies import load
from edgerl.policies.limits import MOST_BYTES
from edgerl.policies.onnx_file import parse
from edgerl.policies.policy import Policy
from edgerl.toolchain.lowering import lower


def accepted_or_refused(content: bytes) -> Policy | None:
    """Load and lower; nothing but a UserError of one line may come out."""
    try:
        policy = parse(content, "hostile.onnx")
        lower(policy)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 600
        return None
    return policy


def dense_model() -> onnx.ModelProto:
    g = Graph(0)
    return g.model(("observation", 6), g.dense(("observation", 6), 4))


SEEDS: list[Callable[[], bytes]] = [
    lambda: dense_model().SerializeToString(),
    lambda: exports.exported("lstm2", False),
    lambda: exports.exported("activations", False),
    lambda: load("raptor").serialized(),
]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SEEDS), st.data())
def test_flipped_bytes(seed: Callable[[], bytes], data: st.DataObject) -> None:
    content = bytearray(seed())
    for _ in range(data.draw(st.integers(1, 8))):
        where = data.draw(st.integers(0, len(content) - 1))
        content[where] ^= data.draw(st.integers(1, 255))
    accepted_or_refused(bytes(content))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SEEDS), st.floats(0.0, 1.0, exclude_max=True))
def test_truncated(seed: Callable[[], bytes], part: float) -> None:
    content = seed()
    accepted_or_refused(content[: int(part * len(content))])


_NUMBERS = st.sampled_from([0, 1, -1, 2, 3, -2, 7, 100, 2**31, 2**62, -(2**62)])
_OPERATORS = [
    "Add", "Clip", "Concat", "ConstantOfShape", "Div", "Expand", "Flatten", "GRU", "Gather", "Gemm",
    "LSTM", "LayerNormalization", "MatMul", "Mul", "Pow", "Range", "ReduceMean", "Relu", "Reshape",
    "Shape", "Slice", "Softmax", "Split", "Squeeze", "Tanh", "Tile", "Transpose", "Unsqueeze",
    "Where",
]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SEEDS), st.data())
def test_changed_structure(seed: Callable[[], bytes], data: st.DataObject) -> None:
    """Valid messages with wrong operators, operands, attributes and constants."""
    model = onnx.ModelProto.FromString(seed())
    graph = model.graph
    tensors = [name for node in graph.node for name in node.output]
    tensors += [tensor.name for tensor in graph.initializer]
    for _ in range(data.draw(st.integers(1, 4))):
        node = graph.node[data.draw(st.integers(0, len(graph.node) - 1))]
        integers = [a for a in node.attribute if a.type == onnx.AttributeProto.INT]
        match data.draw(st.integers(0, 3)):
            case 0:
                node.op_type = data.draw(st.sampled_from(_OPERATORS))
            case 1 if node.input:
                k = data.draw(st.integers(0, len(node.input) - 1))
                node.input[k] = data.draw(st.sampled_from(tensors))
            case 2 if integers:
                data.draw(st.sampled_from(integers)).i = data.draw(_NUMBERS)
            case _ if node.input:
                values = np.array(data.draw(st.lists(_NUMBERS, min_size=1, max_size=3)))
                name = f"new{len(graph.initializer)}"
                graph.initializer.append(numpy_helper.from_array(values, name))
                node.input[data.draw(st.integers(0, len(node.input) - 1))] = name
    accepted_or_refused(model.SerializeToString())


def with_tensor(edit: Callable[[TensorProto], None]) -> bytes:
    model = dense_model()
    edit(model.graph.initializer[0])
    return model.SerializeToString()


def external(tensor: TensorProto) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../etc/passwd")


def external_in_a_node() -> bytes:
    model = dense_model()
    constant = helper.make_node("Constant", [], ["c"], value=model.graph.initializer[0])
    external(constant.attribute[0].t)
    model.graph.node.insert(0, constant)
    return model.SerializeToString()


def declared(*sizes: int) -> Callable[[TensorProto], None]:
    def edit(tensor: TensorProto) -> None:
        del tensor.dims[:]
        tensor.dims.extend(sizes)

    return edit


def filled(value: float) -> Callable[[TensorProto], None]:
    def edit(tensor: TensorProto) -> None:
        values = numpy_helper.to_array(tensor).copy()
        values.reshape(-1)[1] = value
        tensor.raw_data = values.tobytes()

    return edit


def with_node(operator: str, domain: str = "", **attributes: object) -> bytes:
    model = dense_model()
    node = helper.make_node(operator, ["observation"], ["extra"], name="culprit", domain=domain)
    node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
    model.graph.node.append(node)
    model.opset_import.add(domain=domain or "other", version=1)
    return model.SerializeToString()


def with_typed_input() -> bytes:
    model = dense_model()
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [1, 6]))
    model.graph.input.append(helper.make_value_info("many", kind))
    return model.SerializeToString()


def with_opset(version: int) -> bytes:
    model = dense_model()
    model.opset_import[0].version = version
    return model.SerializeToString()


def with_size(size: int) -> bytes:
    model = dense_model()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = size
    return model.SerializeToString()


def with_lost_output() -> bytes:
    model = dense_model()
    model.graph.output[0].name = "nowhere"
    return model.SerializeToString()


def with_function() -> bytes:
    model = dense_model()
    model.functions.add(name="evil", domain="local")
    return model.SerializeToString()


_BRANCH = dense_model().graph
BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "external": (lambda: with_tensor(external), "tensor 'w0' lies in another file"),
    "external_node": (external_in_a_node, "lies in another file"),
    "nan": (lambda: with_tensor(filled(np.nan)), "tensor 'w0' holds values that are not finite"),
    "inf": (lambda: with_tensor(filled(-np.inf)), "tensor 'w0' holds values that are not finite"),
    "huge": (lambda: with_tensor(declared(10_000, 10_000)), "100000000 numbers"),
    "overflow": (lambda: with_tensor(declared(2**62, 2**62)), "numbers; 20000000 are possible"),
    "short": (lambda: with_tensor(declared(7, 4)), "tensor 'w0' declares 28 numbers and holds 4"),
    "empty": (lambda: with_tensor(declared(0, 6)), "tensor 'w0' is empty"),
    "negative": (lambda: with_tensor(declared(-4, 6)), "tensor 'w0' has a negative size"),
    "axes": (lambda: with_tensor(declared(*[1] * 50)), "tensor 'w0' has 50 axes"),
    "text": (
        lambda: with_tensor(lambda t: setattr(t, "data_type", TensorProto.STRING)),
        "element type 8",
    ),
    "if": (
        lambda: with_node("If", then_branch=_BRANCH, else_branch=_BRANCH),
        "operator 'If' (node 'culprit'): holds a subgraph",
    ),
    "loop": (lambda: with_node("Loop", body=_BRANCH), "operator 'Loop' (node 'culprit')"),
    "scan": (lambda: with_node("Scan", body=_BRANCH), "operator 'Scan' (node 'culprit')"),
    "foreign": (lambda: with_node("Evil", "com.evil"), "domain 'com.evil'"),
    "unknown": (lambda: with_node("Evil"), "not valid ONNX"),
    "sequence": (lambda: with_node("SequenceEmpty"), "sequences and optional values"),
    "sequence_input": (with_typed_input, "input 'many' is no tensor"),
    "lost_output": (with_lost_output, "output 'nowhere' is "),
    "function": (with_function, "function 'evil' is model-local"),
    "old": (lambda: with_opset(3), "opset 3; export with opset 11 to"),
    "future": (lambda: with_opset(1000), "opset 1000"),
    "zero_input": (lambda: with_size(0), "input 'observation' has sizes [1, 0]"),
    "long_input": (lambda: with_size(1 << 40), "1 to 65536 elements are possible"),
    "nothing": (lambda: b"", "holds no graph"),
    "text_file": (lambda: b"not a model at all", "no ONNX model"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_refused(name: str) -> None:
    make, words = BAD[name]
    content = make()
    with pytest.raises(UserError) as caught:
        parse(content, "hostile.onnx")
    assert words in str(caught.value)
    assert str(caught.value).startswith("hostile.onnx: ") and "\n" not in str(caught.value)


EVIL = [
    '"; system("reboot',
    "<script>alert(1)</script>",
    "../../x",
    "a\nb",
    "int",
    "x" * 5000,
    "%s",
]


@pytest.mark.parametrize("evil", EVIL)
def test_hostile_names_go_no_further_than_the_graph(evil: str) -> None:
    """Names of tensors, nodes and states never become identifiers, and never break a message."""
    g = Graph(0)
    h = g.state(6)
    y = g.one("Tanh", g.one("Add", g.dense(("observation", 6), 6)[0], h[0]))
    g.follow(h, y)
    model = g.model(("observation", 6), (y, 6))

    def renamed(name: str) -> str:
        return f"{evil}{name}" if name else name

    for port in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        port.name = renamed(port.name)
    for node in model.graph.node:
        node.name = renamed(node.name)
        node.input[:] = [renamed(name) for name in node.input]
        node.output[:] = [renamed(name) for name in node.output]
    policy = parse(model.SerializeToString(), f"{evil[:50].replace('/', '_')}.onnx")
    program = lower(policy)
    words = [policy.name, *program.tensors, *(state.name for state in policy.spec.state)]
    assert all(word.isidentifier() and len(word) < 60 for word in words)
    assert all("\n" not in line and line.isprintable() for line in policy.assumed)
    model.graph.node[0].op_type = "Round"
    del model.graph.node[0].input[1:], model.graph.node[0].attribute[:]
    assert accepted_or_refused(model.SerializeToString()) is None


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("edgerl.schema", "2", "saved with schema '2'"),
        ("edgerl.spec", "{}", "edgerl.spec: name"),
        ("edgerl.spec", '{"name": "../../x"}', "is not a usable name"),
        ("edgerl.spec", "[" * 100_000, "edgerl.spec"),
        ("edgerl.provenance", "[" * 100_000, "edgerl.provenance"),
        ("edgerl.provenance", '{"a": 1}', "not an object of short texts"),
        ("edgerl.formats", '{"a": "' + "x" * 1000 + '"}', "not an object of short texts"),
    ],
)
def test_hostile_metadata(key: str, value: str, words: str) -> None:
    model = onnx.ModelProto.FromString(load("raptor").serialized())
    for entry in model.metadata_props:
        if entry.key == key:
            entry.value = value
    with pytest.raises(UserError) as caught:
        parse(model.SerializeToString(), "x.onnx")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_large_files_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(UserError, match="larger than 256 MiB"):
        load(path)


def test_unrolling_is_bounded() -> None:
    """A file of a few kilobytes that would spread to gigabytes, none of its steps too large."""
    g = Graph(0)
    filler = g.one("ConstantOfShape", g.axis(1, 1 << 24))
    for _ in range(200):
        filler = g.one("Add", filler, g.scalar(1.0))
    model = g.model(("observation", 6), (g.one("Tanh", "observation"), 6))
    policy = parse(model.SerializeToString(), "x.onnx")
    with pytest.raises(UserError, match="unrolls to more than"):
        lower(policy)
