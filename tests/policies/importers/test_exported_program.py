"""Exported programs and modules from Python against torch's own actions; bad and hostile files."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints_torch
import exports
import numpy as np
import pytest
import torch
from archives import damaged, packed, stored
from checkpoints_torch import M, N, mlp, remembering
from torch import Tensor, nn
from torch_answers import agrees, run, same

import edgerl
from edgerl.errors import UserError
from edgerl.policies import Policy, PolicySpec, Signal, load

EXPORTED = [name for name in checkpoints_torch.MAKERS if name.startswith("torch-export")]


@pytest.mark.parametrize("name", EXPORTED)
def test_actions_are_torch_s_own(name: str, tmp_path: Path) -> None:
    checkpoint = checkpoints_torch.MAKERS[name](tmp_path)
    assert len(checkpoint.observations) >= 1000 and checkpoint.resets.sum() > 1
    policy = load(checkpoint.path)
    assert same(run(policy, checkpoint.observations, checkpoint.resets), checkpoint.actions)
    assert np.ptp(checkpoint.actions) > 1e-3


@pytest.mark.parametrize(
    ("name", "decomposed"),
    # Decomposed activations are logarithms and choices at run time, which no core computes.
    [(n, d) for n in exports.CASES for d in (False, True) if not d or n != "activations"],
)
def test_layers(name: str, decomposed: bool, tmp_path: Path) -> None:
    model, case = exports.module(name), exports.CASES[name]
    program = torch.export.export(model, tuple(torch.zeros(shape) for shape in case.shapes))
    if decomposed:
        program = program.run_decompositions()
    path = tmp_path / "model.pt2"
    torch.export.save(program, path)
    policy = load(path)
    wider = Shaped(model, case.shapes[1:])
    assert [s.size for s in policy.spec.state] == [np.prod(s) for s in case.shapes[1:]]
    assert agrees(policy, wider, 200, len(case.shapes) - 1)


class Shaped(nn.Module):
    """A module whose states come as rows."""

    def __init__(self, model: nn.Module, shapes: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        self.model, self.shapes = model, shapes

    def forward(self, x: Tensor, *states: Tensor) -> Any:
        given = [state.reshape(shape) for state, shape in zip(states, self.shapes, strict=True)]
        return self.model(x, *given)


class Remembers(nn.Module):
    """Batch-first LSTM with its states as a nested input, a history in a buffer, a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.last = nn.LSTM(N, 5, 2, batch_first=True), nn.Linear(5, 2)
        self.scale = torch.tensor([1.0, 2.0])
        self.register_buffer("seen", torch.zeros(1, 3, N), persistent=False)

    def forward(self, x: Tensor, memory: tuple[Tensor, Tensor]) -> dict[str, Any]:
        with torch.no_grad():
            self.seen[:, :-1] = self.seen[:, 1:].clone()
            self.seen[:, -1] = x
        y, memory = self.lstm(x.unsqueeze(1), memory)
        seen = self.seen.flatten(1).sum(-1, keepdim=True)
        action = torch.clamp(self.last(y[:, 0]) * self.scale + seen, -float("inf"), 3.0)
        return {"action": action.to(torch.float32), "memory": memory}


class AsRows(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        result = self.model(x, (h.reshape(2, 1, 5), c.reshape(2, 1, 5)))
        return (result["action"], *(m.reshape(1, 10) for m in result["memory"]))


@pytest.mark.parametrize("decomposed", [False, True])
def test_buffers_and_explicit_states_together(decomposed: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Remembers().eval()
    memory = (torch.zeros(2, 1, 5), torch.zeros(2, 1, 5))
    program = torch.export.export(model, (torch.zeros(1, N), memory))
    if decomposed:
        program = program.run_decompositions()
    path = tmp_path / "model.pt2"
    torch.export.save(program, path)
    policy = load(path)
    assert [(s.name, s.size) for s in policy.spec.state] == [
        ("memory_0", 10), ("memory_1", 10), ("seen", 3 * N),
    ]  # fmt: skip
    model.seen = torch.zeros(1, 3, N)
    assert agrees(policy, AsRows(model), 300, 2)


def test_one_example_for_two_states(tmp_path: Path) -> None:
    model, state = exports.module("lstm_cell"), torch.zeros(1, exports.H)
    example = (torch.zeros(1, exports.N), state, state)
    assert agrees(load(model, example=example), model, 100, 2)
    torch.export.save(torch.export.export(model, example), tmp_path / "model.pt2")
    assert any("WARNING: state h is never read" in a for a in load(tmp_path / "model.pt2").assumed)


class Groups(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(5, 2)

    def forward(self, proprioception: Tensor, command: Tensor) -> Tensor:
        return torch.tanh(self.net(torch.cat([proprioception, command], -1)))


class Joined(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x[:, :3], x[:, 3:])


def test_inputs_beside_each_other_are_signals_of_the_observation() -> None:
    model = Groups()
    policy = load(model, example=(torch.zeros(1, 3), torch.zeros(1, 2)))
    assert [(s.name, s.size) for s in policy.spec.observation] == [
        ("proprioception", 3), ("command", 2),
    ]  # fmt: skip
    assert agrees(policy, Joined(model), 200)


@pytest.mark.parametrize("build", [mlp, remembering])
def test_a_module_from_python(build: Callable[[], nn.Module]) -> None:
    model = build().train()
    policy = edgerl.load(model, example=torch.zeros(1, N))
    assert model.training, "the user's module stays as it is"
    assert policy.provenance["source"] == "torch-export"
    assert agrees(policy, build())


def test_a_module_with_a_spec() -> None:
    spec = PolicySpec(
        name="pendulum",
        observation=(Signal(name="state", size=N, range=(-8.0, 8.0)),),
        action=(Signal(name="torque", size=M, range=(-2.0, 2.0)),),
    )
    assert edgerl.load(mlp(), example=torch.zeros(1, N), spec=spec).spec == spec


class Discrete(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(N, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.argmax(self.net(x), dim=-1, keepdim=True)


def test_the_largest_of_several() -> None:
    torch.manual_seed(0)
    model = Discrete()
    assert agrees(load(model, example=torch.zeros(1, N)), model)


class Operators(nn.Module):
    """Operators that no layer above uses."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.rms = nn.RMSNorm(6)
        self.norm.running_mean += 0.3
        self.norm.running_var += 0.7
        self.norm.weight.data += 0.2

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.norm(self.net(x)).split([4, 2], dim=-1)
        a = a / torch.linalg.vector_norm(a, dim=-1, keepdim=True).clamp_min(1e-6)
        b = torch.stack([b, 1 - b, b**2], dim=1).mean(1) - b.abs().sqrt()
        y = self.rms(torch.cat([a.flip(-1), b.roll(1, -1)], -1))
        y = torch.lerp(y, x, 0.25) + torch.nn.functional.glu(y.repeat(1, 2))
        y = y.reshape(1, 2, 3).transpose(1, 2).flatten(1) @ torch.eye(6)
        low, high = torch.full((6,), -2.0), torch.arange(6) + 1.0
        y = torch.maximum(torch.minimum(y, high), low)
        y = torch.where(torch.arange(6) > 2, y, -y).index_select(-1, torch.tensor([5, 0, 1, 2]))
        return torch.addcmul(y, y.sigmoid(), y.exp().neg(), value=0.1) - y.var(-1, keepdim=True)


@pytest.mark.parametrize("decomposed", [False, True])
def test_operators(decomposed: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Operators().eval()
    program = torch.export.export(model, (torch.zeros(1, 6),))
    if decomposed:
        program = program.run_decompositions()
    torch.export.save(program, tmp_path / "model.pt2")
    assert agrees(load(tmp_path / "model.pt2"), model, 200)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2.0 if x.sum() > 0 else x


class Conditional(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda y: y * 2.0, lambda y: y - 1.0, (x,))


class Choosing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, x * 0.5)


class Convolving(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.unsqueeze(1)).flatten(1)


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ones(1, 2) * 2.0


REFUSED: dict[str, tuple[Callable[[], nn.Module], Any, str]] = {
    "branch": (Branching, None, r"torch.export cannot trace it .*without branches or loops"),
    "cond": (Conditional, None, "module .top., node gt: operator gt: is not supported on values"),
    "where": (Choosing, None, "operator gt: is not supported on values that are only known at run"),
    "convolution": (Convolving, None, "module conv, node conv1d: operator conv1d: is a convol"),
    "constant": (Constant, None, "the action does not depend on the observation"),
    "half": (lambda: nn.Linear(N, M).half(), torch.zeros(1, N).half(), "in float16; export the"),
    "whole numbers": (Choosing, torch.zeros(1, N, dtype=torch.int64), "is not float32"),
    "batch": (mlp, torch.zeros(4, N), r"has 4 rows; export with an example of one row"),
    "size": (mlp, torch.zeros(1, N + 1), "torch.export cannot trace it"),
    "no tensor": (mlp, "zeros", "torch.export cannot trace it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name: str) -> None:
    build, example, message = REFUSED[name]
    logging.getLogger("torch").setLevel(logging.CRITICAL)
    with pytest.raises(UserError, match=message) as error:
        load(build(), example=torch.zeros(1, N) if example is None else example)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_module_needs_an_example() -> None:
    with pytest.raises(UserError, match=r"Sequential: a torch module needs example=torch.zeros"):
        load(mlp())


def test_what_is_no_module() -> None:
    with pytest.raises(UserError, match="a int is no policy: give a file"):
        load(3, example=torch.zeros(1, N))


def exported(folder: Path) -> Path:
    path = folder / "model.pt2"
    torch.export.save(torch.export.export(mlp(), (torch.zeros(1, N),)), path)
    return path


def with_json(path: Path, ending: str, change: Callable[[Any], None]) -> Path:
    """The archive with one of its JSON members changed."""
    members = []
    for name, content in stored(path):
        if name.endswith(ending):
            document = json.loads(content)
            change(document)
            content = json.dumps(document).encode()
        members.append((name, content))
    path.write_bytes(packed(members))
    return path


def _schema(document: Any) -> None:
    document["schema_version"]["major"] = 7


def _target(document: Any) -> None:
    document["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.mine.linear.default"


def _undefined(document: Any) -> None:
    document["graph_module"]["graph"]["nodes"][0]["inputs"][0]["arg"] = {
        "as_tensor": {"name": "nothing"}
    }


def _no_nodes(document: Any) -> None:
    document["graph_module"]["graph"]["nodes"] = 3


CHANGES = {
    "schema": (_schema, "exported with schema 7 by torch '2.*schema 8 is read; save it again"),
    "operator": (_target, r"'torch.ops.mine.linear.default' is not torch's own"),
    "undefined": (_undefined, "model.json is not what torch.export.save writes"),
    "nodes": (_no_nodes, "model.json is not what torch.export.save writes"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_programs_that_are_wrong(name: str, tmp_path: Path) -> None:
    change, message = CHANGES[name]
    with pytest.raises(UserError, match=message):
        load(with_json(exported(tmp_path), "models/model.json", change))


def test_a_weight_that_is_cut_short(tmp_path: Path) -> None:
    path = exported(tmp_path)
    members = [(n, c[:-4] if n.endswith("/weight_0") else c) for n, c in stored(path)]
    path.write_bytes(packed(members))
    with pytest.raises(UserError, match=r"tensor '0.weight' declares 48 numbers and holds 47"):
        load(path)


def test_a_pickled_weight_is_not_unpickled(tmp_path: Path) -> None:
    def change(document: Any) -> None:
        document["config"]["0.weight"]["use_pickle"] = True

    with pytest.raises(UserError, match=r"tensor '0.weight' is pickled"):
        load(with_json(exported(tmp_path), "weights_config.json", change))


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("serialized_exported_program.json", "in the format of torch before 2.8; save it again"),
        ("something.txt", "no file of torch.export.save"),
    ],
)
def test_other_archives(member: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(packed([(member, b"{}")]))
    with pytest.raises(UserError, match=message):
        load(path)


def test_reading_needs_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = exported(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    assert load(path).spec.observation_size == N


def mangled(value: Any, rng: np.random.Generator) -> Any:
    """A JSON document with one value in it replaced."""
    strange = [None, -1, 1 << 70, 0.5, "x", "Infinity", [], {}, True, [[]], {"as_int": 1 << 40}]
    if rng.random() < 0.15 or not isinstance(value, dict | list) or not value:
        return strange[rng.integers(len(strange))]
    if isinstance(value, dict):
        key = list(value)[rng.integers(len(value))]
        return {**value, key: mangled(value[key], rng)}
    k = rng.integers(len(value))
    return [*value[:k], mangled(value[k], rng), *value[k + 1 :]]


@pytest.mark.parametrize("seed", range(3))
def test_fuzzed_files(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(remembering(), (torch.zeros(1, N),)), path)
    content, members = path.read_bytes(), stored(path)
    documents = [k for k, (name, _) in enumerate(members) if name.endswith(".json")]
    for k in range(150):
        if k % 5 == 0:
            path.write_bytes(damaged(content, rng))
        else:
            changed = list(members)
            at = documents[rng.integers(len(documents))]
            name, text = members[at]
            changed[at] = (
                (name, damaged(text, rng))
                if k % 5 == 1
                else (name, json.dumps(mangled(json.loads(text), rng)).encode())
            )
            path.write_bytes(packed(changed))
        try:
            policy = load(path)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert isinstance(policy, Policy)
