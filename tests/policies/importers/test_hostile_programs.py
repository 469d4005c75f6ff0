"""Programs that would run, grow or nest without end: refused by a bound, in one line."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from archives import packed, stored
from onnx import TensorProto, helper
from torch import nn

from edgerl.errors import UserError
from edgerl.policies import load, onnx_file
from edgerl.policies.importers.aten.scalars import LONGEST_LIST, cost
from edgerl.policies.importers.aten.stateful import Module, traced
from edgerl.policies.importers.aten.symbolic import MOST_ELEMENTS, Refused, Tensor, Tracer
from edgerl.policies.importers.containers import archive, hdf5_scan
from edgerl.policies.importers.containers.records import Record, record
from edgerl.policies.importers.torchscript.interpreter import named_records
from edgerl.policies.names import distinct
from edgerl.policies.protobuf_scan import within_bounds


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "program.pt"
    torch.jit.save(torch.jit.script(nn.Sequential(nn.Linear(4, 2), nn.Tanh())), path)
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "exported.pt2"
    program = torch.export.export(nn.Sequential(nn.Linear(4, 2), nn.Tanh()), (torch.zeros(1, 4),))
    torch.export.save(program, path)
    return path


def with_code(path: Path, folder: Path, lines: str) -> Path:
    """The program with other code in the place of its call of tanh."""
    old = b"return torch.tanh(input)"
    assert any(old in content for _, content in stored(path))
    new = "\n    ".join((*lines.split("\n"), old.decode())).encode()
    changed = folder / "changed.pt"
    changed.write_bytes(packed([(n, c.replace(old, new)) for n, c in stored(path)]))
    return changed


NESTED = "a = [1, 1]\nb = [1, 1]\n" + "\n".join(["a = [a, a]\nb = [b, b]"] * 40)
# 900 x 900 turns.
LOOP = """i = 0
while torch.lt(i, 900):
  j = 0
  while torch.lt(j, 900):
    {}
    j = torch.add(j, 1)
  i = torch.add(i, 1)"""
TOO_LONG, TOO_MUCH = "makes a list or text that is too long", "asks for more memory or more steps"
PROGRAMS = {
    "lists compared": (f"{NESTED}\nc = torch.eq(a, b)", TOO_LONG),
    "lists searched": (f"{NESTED}\nc = torch.__contains__([a], b)", TOO_LONG),
    "lists ordered": (f"{NESTED}\nc = torch.max(a, b)", TOO_LONG),
    "lists written out": (f"{NESTED}\nc = torch.format('{{}}', a)", TOO_LONG),
    "lists as tensors": (f"{NESTED}\nc = torch.tensor(a)", TOO_LONG),
    "lists returned": (f"{NESTED}\nreturn a", TOO_LONG),
    "a list in itself": ("a = [1]\nb = torch.append(a, a)\nc = torch.eq(a, [a])", TOO_LONG),
    "lists in a message": (f"{NESTED}\nops.prim.RaiseException(a)", "its own check fails: no text"),
    "tuples as keys": (f"{NESTED}\nc = {{(a, a): 1}}", "a key that is neither text nor number"),
    "hexadecimals": (f"a = 0x{'f' * 5000}", "makes a number that is too large"),
    "lists of constants": (LOOP.format(f"x = [{'0, ' * 50_000}]"), TOO_MUCH),
    "lists of nothing": (
        "z = torch.mul([torch.zeros([0, 1])], 10000)\n" + LOOP.format("x = torch.cat(z)"), TOO_MUCH
    ),
    "an outer product": (
        "c = torch.linear(torch.zeros([60000, 1]), torch.zeros([60000, 1]))",
        r"makes a tensor of sizes \[60,000, 60,000\]",
    ),
    "long inner products": (
        "a = torch.zeros([1, 4000000])\n" + LOOP.format("x = torch.linear(a, a)"), TOO_MUCH
    ),
    "large products": (
        "a = torch.eye(2000)\n" + LOOP.format("x = torch.linear(a, a)"), TOO_MUCH
    ),
    "parts of one": ("x = torch.split(torch.zeros([8000000]), 1)", TOO_MUCH),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_without_end(name: str, program: Path, tmp_path: Path) -> None:
    lines, message = PROGRAMS[name]
    with pytest.raises(UserError, match=message) as refused:
        load(with_code(program, tmp_path, lines))
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 500


def test_trials_share_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A size that never fits is sought in hundreds of executions, not as long as each may take."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(k, k) for k in range(4, 14))
            self.tanh = nn.Tanh()

        def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            for layer in self.layers:
                x = layer(x)
            return self.tanh(x), h

    path = tmp_path / "two.pt"
    torch.jit.save(torch.jit.script(Two()), path)
    from edgerl.policies.importers import torchscript

    started: list[Tracer] = []

    def counted(*arguments: Any) -> Tracer:
        started.append(Tracer(*arguments))
        return started[-1]

    monkeypatch.setattr(torchscript, "Tracer", counted)
    text = "return torch.tanh(input)"
    lines = LOOP.format("x = 1") + "\n" + text
    members = [(n, c.replace(text.encode(), b"\n    ".join(lines.encode().split(b"\n"))))
               for n, c in stored(path)]  # fmt: skip
    path.write_bytes(packed(members))
    with pytest.raises(UserError):
        load(path)
    budgets = {id(tracer._budget) for tracer in started}
    assert len(budgets) == 1


class Gru(nn.Module):
    """A GRU whose state is given as torch has it, [layers, 1, hidden]."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.out = nn.GRU(6, 16, 2), nn.Linear(16, 2)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, h = self.gru(x.unsqueeze(0), h)
        return self.out(y.squeeze(0)), h


def test_sizes_pass_the_module_s_own_checks(tmp_path: Path) -> None:
    path = tmp_path / "gru.pt"
    torch.jit.save(torch.jit.script(Gru()), path)
    spec = load(path).spec
    assert (spec.observation_size, spec.state_size) == (6, 32)


def test_annotations_without_end(program: Path, tmp_path: Path) -> None:
    for deep in (f"a{'.a' * 1500}", f"a{'[0]' * 1500}"):
        path = tmp_path / "deep.pt"
        old, new = b"input: Tensor", f"input: {deep}".encode()
        path.write_bytes(packed([(n, c.replace(old, new)) for n, c in stored(program)]))
        with pytest.raises(UserError, match=r"deep\.pt: forward\(\) takes what is nested too deep"):
            load(path)


def test_code_is_bounded(program: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="more than 1 MiB of code"):
        load(with_code(program, tmp_path, "1\n" * 300_000))


def test_cost_counts_what_is_shared_and_ends() -> None:
    tracer = Tracer()
    x = tracer.full([5], 1.0)
    assert cost(x) == 5 and cost([x, (x, {"a": x})]) > 15
    endless: list[Any] = []
    endless.append(endless)
    for what in (endless, [0] * (LONGEST_LIST + 1), 1 << 65, "x" * (LONGEST_LIST + 1)):
        with pytest.raises(Refused):
            cost(what)
    tracer.spend(MOST_ELEMENTS // 2)
    with pytest.raises(Refused, match=TOO_MUCH):
        tracer.spend(MOST_ELEMENTS // 2)


def test_names_of_modules_are_bounded() -> None:
    top = inner = record("__torch__.A")()
    for _ in range(3):
        inner.attributes["n" * 400] = following = record("__torch__.A")()
        assert isinstance(following, Record)
        inner = following
    inner.attributes["w"] = np.zeros(2, np.float32)
    with pytest.raises(Refused, match="a name that is too long"):
        named_records(top)


def test_buffers_that_are_none(exported: Path, tmp_path: Path) -> None:
    def step(tracer: Tracer, given: Any, held: Any) -> tuple[list[Tensor], dict[str, Any]]:
        return list(given), {"nothing": given[0]}

    with pytest.raises(UserError, match=r"x\.pt2: writes to 'nothing', which is no buffer"):
        traced(Module({}, step), [("x", (1, 4))], "x.pt2")


def _version(model: Any) -> None:
    model["schema_version"]["major"] = "8\n8"


def _inputs(model: Any, count: int, size: int) -> None:
    graph = model["graph_module"]["graph"]
    specs = model["graph_module"]["signature"]["input_specs"]
    given = next(spec["user_input"]["arg"]["as_tensor"] for spec in specs if "user_input" in spec)
    for k in range(count):
        sizes = [{"as_int": size}]
        graph["tensor_values"][f"more_{k}"] = {
            **graph["tensor_values"][given["name"]], "sizes": sizes,
        }  # fmt: skip
        specs.append({"user_input": {"arg": {"as_tensor": {"name": f"more_{k}"}}}})


DOCUMENTS: dict[str, tuple[Callable[[Any], None], str]] = {
    "version": (_version, "exported with schema 8 8 by torch"),
    "empty inputs": (lambda model: _inputs(model, 1, 0), "input 'more_0' is empty"),
    "many inputs": (lambda model: _inputs(model, 64, 1), "more than 64 inputs"),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_exported_programs(name: str, exported: Path, tmp_path: Path) -> None:
    change, message = DOCUMENTS[name]
    members = []
    for member, content in stored(exported):
        if member.endswith("models/model.json"):
            model = json.loads(content)
            change(model)
            content = json.dumps(model).encode()
        members.append((member, content))
    path = tmp_path / "changed.pt2"
    path.write_bytes(packed(members))
    with pytest.raises(UserError, match=message) as refused:
        load(path)
    assert "\n" not in str(refused.value)


def test_a_member_of_many_weights_is_read_once(
    exported: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    members = []
    for name, content in stored(exported):
        if name.endswith("model_weights_config.json"):
            weights = json.loads(content)
            paths = {entry["path_name"] for entry in weights["config"].values()}
            first = sorted(paths)[0]
            for entry in weights["config"].values():
                entry["path_name"] = first
            content = json.dumps(weights).encode()
        members.append((name, content))
    path = tmp_path / "changed.pt2"
    path.write_bytes(packed(members))
    read: list[str] = []
    once = archive.Archive.read

    def counted(self: archive.Archive, name: str) -> bytes:
        read.append(name)
        return once(self, name)

    monkeypatch.setattr(archive.Archive, "read", counted)
    load(path)
    assert sum(name.endswith(f"weights/{first}") for name in read) == 1


def port(name: str, size: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])


def model(states: list[str], words: dict[str, str] | None = None) -> bytes:
    """A graph whose states pass through, and what stands beside it."""
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [port("x", 4), *(port(name, 1) for name in states)],
        [port("y", 4), *(port(name, 1) for name in states)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    for key, value in (words or {}).items():
        made.metadata_props.add(key=key, value=value)
    return bytes(made.SerializeToString())


def chain(name: str) -> Iterator[str]:
    """The names that a name with "state_" before it, cut to 36 characters, leads to."""
    seen: list[str] = []
    while name not in seen:
        seen.append(name)
        name = f"state_{name[:30]}"
    yield from seen


def test_states_whose_names_lead_to_each_other() -> None:
    # Two states without a usable name, each called by its number; whatever those lead to is there.
    plain = [name for k in (20, 21) for name in chain(f"state_{k}") if not name.endswith("_")]
    names = [*plain, *(f"filler_{k}" for k in range(20 - len(plain))), "%", "&"]
    assert len(names) == 22
    policy = onnx_file.parse(model(names), "x.onnx")
    given = [state.name for state in policy.spec.state]
    assert given[:20] == names[:20] and len(set(given)) == 22


def test_many_states_and_many_words() -> None:
    with pytest.raises(UserError, match=r"x\.onnx: 257 states; 256 are possible"):
        onnx_file.parse(model([f"s{k}" for k in range(257)]), "x.onnx")
    words = {"edgerl.schema": "1", "edgerl.formats": "[" * (1 << 20) + "]"}
    with pytest.raises(UserError, match=r"'edgerl\.formats' is longer than 1 MiB"):
        onnx_file.parse(model([], words), "x.onnx")


def test_messages_of_nothing_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty node is two bytes of a file: 256 MiB of them are more than any memory."""
    whole = model([])
    kind = onnx.ModelProto.DESCRIPTOR
    assert within_bounds(whole, kind)
    size = 3 * (1 << 20)
    tail = bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14 & 127 | 128, size >> 21])
    for inside in (b"\x0a\x00", b"\x2a\x00", b"\x0a\x01\x2a"[:2] + b"\x00\x0a\x00\x00"):
        content = b"\x3a" + tail + (inside * (size // len(inside)))[:size]
        monkeypatch.setattr("edgerl.policies.protobuf_scan.MOST_FIELDS", 200_000)
        with pytest.raises(UserError, match=r"x\.onnx: (has more nodes|no ONNX model)"):
            onnx_file.parse(content, "x.onnx")
    monkeypatch.setattr("edgerl.policies.protobuf_scan.MOST_PACKED", 1 << 10)
    packed_sizes = helper.make_tensor("n", TensorProto.INT64, [2000], [1] * 2000)
    made = onnx.ModelProto.FromString(whole)
    made.graph.initializer.append(packed_sizes)
    assert not within_bounds(made.SerializeToString(), kind)
    for damaged in (b"\x3a", b"\x3a\x05\x01", b"\x0b", b"\xff" * 12, b"\x3a\xff\xff\xff\xff\x0f"):
        with pytest.raises(ValueError, match=r"a (number|field|group)"):
            within_bounds(damaged, kind)


def test_distinct_names() -> None:
    assert distinct("a", ["b"]) == "a"
    taken = {"a" * 40}
    for _ in range(30):
        taken.add(distinct("a" * 40, taken))
    assert len(taken) == 31 and all(len(name) <= 40 for name in taken)


def test_hdf5_names_and_texts_without_end(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "names.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("a" * 50_000)
        for k in range(20):
            group["b" * 50_000 + str(k)] = file
    with pytest.raises(ValueError, match="names and texts without end"):
        hdf5_scan.scan(path.read_bytes())
    with h5py.File(path, "w") as file:
        group = file.create_group("actor", track_order=True)
        for k in range(65):
            group.attrs[f"a{k}"] = "x"
    assert "more than 64 attributes" in hdf5_scan.scan(path.read_bytes())["actor"]["wrong"]
