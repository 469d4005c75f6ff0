"""Policies from `.onnx` files: boundary, spec, defaults, what is refused of honest files."""

from dataclasses import replace
from pathlib import Path

import exports
import numpy as np
import onnx
import pytest
import torch
from graphs import Graph, gru_cell
from onnx import TensorProto, helper
from parity import difference
from torch import nn

from edgerl.errors import UserError
from edgerl.policies import load
from edgerl.policies.onnx_file import parse
from edgerl.policies.spec import PolicySpec, Signal, StateSignal
from edgerl.toolchain.lowering import lower


def spec_of(observation: int, action: int, **more) -> PolicySpec:
    return PolicySpec(
        name="given",
        observation=(Signal(name="sensors", size=observation),),
        action=(Signal(name="motor", size=action),),
        **more,
    )


def two_states() -> onnx.ModelProto:
    g = Graph(0)
    x = ("observation", 5)
    y = gru_cell(g, gru_cell(g, x, 4, False, 0), 3, False, 0)
    return g.model(x, y)


def test_defaults_are_said() -> None:
    policy = parse(exports.exported("gru_cell", True), "Pendulum-v1 (best).onnx")
    assert policy.name == "Pendulum_v1_best"
    assert [(s.name, s.size, s.range) for s in policy.spec.observation] == [
        ("observation", 7, (-1e6, 1e6))
    ]
    assert [(s.name, s.size, s.range) for s in policy.spec.action] == [("action", 3, (-1.0, 1.0))]
    assert [(s.name, s.size) for s in policy.spec.state] == [("h", 6)]
    said = " | ".join(policy.assumed)
    for word in ("Pendulum_v1_best", "7 values", "3 values", "h (6)", "100 Hz", "[-1, 1]"):
        assert word in said


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("3dof.onnx", "policy_3dof"),
        ("double.onnx", "policy_double"),
        ("..onnx", "policy"),
        ("ünïcode.onnx", "unicode"),
        ("a" * 80 + ".onnx", "a" * 40),
        ('"; system("reboot.onnx', "system_reboot"),
        ("<script>.onnx", "script"),
    ],
)
def test_names_become_identifiers(file: str, name: str) -> None:
    assert parse(exports.exported("scaled", False), file).name == name


def test_every_policy_has_the_same_boundary() -> None:
    """Sequence, layer and batch axes of the export end up as [1, size]."""
    graph = parse(exports.exported("lstm2", False), "x.onnx").graph.graph
    shapes = {
        port.name: [d.dim_value for d in port.type.tensor_type.shape.dim]
        for port in (*graph.input, *graph.output)
    }
    assert shapes == {
        "observation": [1, 7],
        "state": [1, 12],
        "state_1": [1, 12],
        "action": [1, 3],
        "state_next": [1, 12],
        "state_1_next": [1, 12],
    }


def test_nothing_but_the_graph_is_kept() -> None:
    """Exporters write paths and source lines into the file; a policy carries none."""
    content = exports.exported("gru_cell", True)
    assert b"exports.py" in content
    saved = parse(content, "x.onnx").serialized()
    assert b"exports.py" not in saved and b"forward" not in saved


@pytest.mark.parametrize("name", ["normalised", "gru2", "lstm_cell"])
def test_saving_and_loading_changes_nothing(name: str, tmp_path: Path) -> None:
    first = parse(exports.exported(name, False), "x.onnx")
    first.save(tmp_path / "a.onnx")
    second = load(tmp_path / "a.onnx")
    second.save(tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert second.spec == first.spec and second.assumed == ()


def test_a_policy_without_provenance_stays_without() -> None:
    first = parse(exports.exported("scaled", False), "x.onnx")
    bare = replace(first, provenance={})
    assert parse(bare.serialized(), "y.onnx").serialized() == bare.serialized()


@pytest.mark.parametrize("dynamo", [False, True])
def test_symbolic_batch_becomes_one(dynamo: bool) -> None:
    axes = (
        {"dynamic_shapes": {"x": {0: torch.export.Dim("batch")}}}
        if dynamo
        else {
            "input_names": ["x"],
            "output_names": ["y"],
            "dynamic_axes": {"x": {0: "b"}, "y": {0: "b"}},
        }
    )
    content = exports.export(exports.module("normalised"), (torch.zeros(2, 7),), dynamo, **axes)
    policy = parse(content, "x.onnx")
    assert difference(policy, lower(policy)) < 2e-6


def test_other_dynamic_sizes_are_refused() -> None:
    model = Graph(0).model(("observation", 6), ("observation", 6))
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    sizes[0].dim_param, sizes[1].dim_param = "batch", "features"
    with pytest.raises(UserError, match=r"input 'observation', axis 1: dynamic size 'features'"):
        parse(model.SerializeToString(), "x.onnx")


def test_dynamic_sequence_beside_a_dynamic_batch_is_refused() -> None:
    port = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["time", "batch", 4])
    graph = helper.make_graph([helper.make_node("Tanh", ["x"], ["y"])], "g", [port], [port])
    graph.output[0].name = "y"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    with pytest.raises(UserError, match=r"input 'x', axis 1: dynamic size 'batch'"):
        parse(model.SerializeToString(), "x.onnx")


def test_export_for_a_larger_batch_is_refused() -> None:
    content = exports.export(exports.module("scaled"), (torch.zeros(4, 7),), False)
    with pytest.raises(UserError, match="has 4 rows; export the model for a batch of 1"):
        parse(content, "x.onnx")


def test_double_precision_model_is_refused() -> None:
    model = nn.Linear(3, 2).double()
    content = exports.export(model, (torch.zeros(1, 3, dtype=torch.float64),), False)
    with pytest.raises(UserError, match="is of type double; export the model in float32"):
        parse(content, "x.onnx")


def test_states_pair_in_order_and_must_fit() -> None:
    model = two_states()
    policy = parse(model.SerializeToString(), "x.onnx")
    assert [(s.name, s.size) for s in policy.spec.state] == [("s0", 4), ("s1", 3)]
    outputs = list(model.graph.output)
    del model.graph.output[:]
    model.graph.output.extend([outputs[0], outputs[2], outputs[1]])
    with pytest.raises(UserError, match="'s0' has 4 elements, its output 's1_next' has 3"):
        parse(model.SerializeToString(), "x.onnx")


def test_states_pair_by_the_names_of_the_spec() -> None:
    states = (StateSignal(name="s1", size=3), StateSignal(name="s0", size=4))
    policy = parse(two_states().SerializeToString(), "x.onnx", spec_of(5, 3, state=states))
    assert [port.name for port in policy.graph.graph.input] == ["observation", "s1", "s0"]
    assert difference(policy, lower(policy)) < 1e-6


def test_state_without_output_is_refused() -> None:
    model = two_states()
    del model.graph.output[2]
    with pytest.raises(UserError, match="3 inputs and 2 outputs"):
        parse(model.SerializeToString(), "x.onnx")


class Forgetful(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.cell = kind(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cell(x.unsqueeze(0))[0][0]


@pytest.mark.parametrize(("kind", "operator"), [(nn.GRU, "GRU"), (nn.LSTM, "LSTM")])
def test_recurrence_without_its_state_outside_is_refused(
    kind: type[nn.Module], operator: str
) -> None:
    content = exports.export(Forgetful(kind), (torch.zeros(1, 4),), False)
    with pytest.raises(UserError, match=f"operator {operator} .*hidden state as an input"):
        parse(content, "x.onnx")


def test_spec_from_toml(tmp_path: Path) -> None:
    (tmp_path / "pendulum.onnx").write_bytes(exports.exported("gru_cell", False))
    spec = tmp_path / "pendulum.toml"
    spec.write_text(
        'name = "pendulum"\nrate_hz = 50\n'
        'observation = [{name = "angle", size = 4, range = [-3, 3]}, {name = "torque", size = 3}]\n'
        'action = [{name = "motor", size = 3}]\n'
    )
    policy = load(tmp_path / "pendulum.onnx", spec)
    assert (policy.name, policy.spec.rate_hz) == ("pendulum", 50.0)
    assert policy.assumed == ("state: state (6), from the graph",)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (spec_of(8, 3), "the spec's observation has 8 values (sensors 8), the graph's 7"),
        (spec_of(7, 2), "the spec's action has 2 values (motor 2), the graph's 3"),
        (
            spec_of(7, 3, state=(StateSignal(name="memory", size=5),)),
            "state memory has 5 values in the spec, 6 in the graph",
        ),
        (
            spec_of(7, 3, state=tuple(StateSignal(name=n, size=6) for n in "ab")),
            "the spec has 2 states, the graph 1",
        ),
    ],
)
def test_spec_that_disagrees(spec: PolicySpec, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(exports.exported("gru_cell", False), "x.onnx", spec)
    assert words in str(caught.value)


def test_state_names_never_clash_with_other_tensors() -> None:
    names = ("observation", "action", "a", "a_next")
    g = Graph(0)
    x = ("observation", 5)
    for _ in names:
        x = gru_cell(g, x, 4, False, 0)
    model = g.model(("observation", 5), x)
    states = tuple(StateSignal(name=name, size=4) for name in names)
    policy = parse(model.SerializeToString(), "x.onnx", spec_of(5, 4, state=states))
    program = lower(policy)
    assert len({program.observation, *(name for pair in program.states for name in pair)}) == 9
    assert difference(policy, program) < 1e-5
    assert parse(policy.serialized(), "x.onnx").serialized() == policy.serialized()


def test_outputs_that_no_node_computes() -> None:
    """An observation that leaves as it is, and a weight that is the action."""
    g = Graph(0)
    weight = g.constant(np.array([[1.0, 2.0]], dtype=np.float32))
    model = g.model(("observation", 3), (g.one("Tanh", "observation"), 3))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info(weight, 1, [1, 2]))
    policy = parse(model.SerializeToString(), "x.onnx")
    assert difference(policy, lower(policy)) == 0.0


@pytest.mark.parametrize("source", ["nothing", "policy.xyz", "../x", "<b>"])
def test_unknown_source(source: str) -> None:
    known = r"is no policy: give raptor, an \.onnx file, or a checkpoint"
    with pytest.raises(UserError, match=known):
        load(source)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "none.onnx")
