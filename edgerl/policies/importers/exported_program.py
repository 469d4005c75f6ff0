"""Programs of torch.export.save (`.pt2`), read without torch: JSON and weights as data.

The archive holds `models/model.json` (torch/_export/serde/schema.py, version 8), a list of
weights by name, and their bytes (torch/export/pt2_archive). torch 2.9 and later write it.
"""

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgerl.errors import UserError
from edgerl.policies.assembly import Found, plain_text
from edgerl.policies.importers import aten
from edgerl.policies.importers.aten.stateful import Module, traced
from edgerl.policies.importers.aten.symbolic import Refused, Shape, Tensor, Tracer
from edgerl.policies.importers.containers.archive import Archive, open_archive
from edgerl.policies.importers.exported_weights import (
    HALVES,
    TYPES,
    WAY_OUT,
    Weights,
    document,
    whole,
)
from edgerl.policies.importers.source import Source
from edgerl.policies.names import shown

SCHEMA = 8
DEEPEST_GRAPH = 8
MOST_INPUTS = 64

_FLOATS = (7, 8)

# Operators that only check what was true when the program was exported.
_CHECKS = frozenset(
    "_assert_tensor_metadata _assert_scalar _assert_async sym_constrain_range "
    "sym_constrain_range_for_size _check_is_size".split()
)
_PLAIN = {
    "as_int", "as_ints", "as_float", "as_floats", "as_bool", "as_bools", "as_string",
    "as_strings", "as_int_lists", "as_float_lists",
}  # fmt: skip
_PLACES = {"as_memory_format", "as_layout", "as_device"}


def read(source: Source) -> Found:
    """The policy in a `.pt2` file. Raises UserError, in one line, when it holds none."""
    archive = open_archive(source.path)
    with source.path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return found(archive, sha256)


def parsed(content: bytes, where: str) -> Found:
    """The policy in the bytes of a `.pt2` file that was just written in this process."""
    archive = Archive(where, zipfile.ZipFile(io.BytesIO(content)))
    return found(archive, hashlib.sha256(content).hexdigest())


def found(archive: Archive, sha256: str) -> Found:
    """The program in an archive as one step; buffers that it writes to become states."""
    where = archive.where
    root = _root(archive)
    model = document(archive, f"{root}/models/model.json")
    try:
        version = model["schema_version"]["major"]
        producer = str(model.get("torch_version", "?"))
        if version != SCHEMA:
            raise UserError(
                f"{where}: exported with schema {plain_text(str(version))[:10]} by torch "
                f"{producer[:20]!a}; "
                f"schema {SCHEMA} is read; {WAY_OUT}"
            )
        program = _Program(model["graph_module"], Weights(archive, root))
        inputs = program.inputs(where)
    except Refused as error:
        raise UserError(f"{where}: {error}") from error
    # The document may hold anything: whatever is missing in it, the file is to blame.
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{where}: model.json is not what torch.export.save writes") from error
    result = traced(Module(program.buffers, program.step), inputs, where)
    provenance = {
        "source": "torch-export",
        "producer": plain_text(f"torch {producer}"),
        "sha256": sha256,
    }
    return Found(result.graph, provenance, observation=result.observation, assumed=result.assumed)


def _root(archive: Archive) -> str:
    names = [n for n in archive.names if n.endswith("/models/model.json")]
    if names:
        return min(names, key=len).removesuffix("/models/model.json")
    if any(n.endswith("serialized_exported_program.json") for n in archive.names):
        raise UserError(f"{archive.where}: in the format of torch before 2.8; {WAY_OUT}")
    if any("/models/" in n or "/data/aotinductor/" in n for n in archive.names):
        raise UserError(
            f"{archive.where}: holds no program called model (a compiled package?); save the "
            "exported program with torch.export.save"
        )
    raise UserError(f"{archive.where}: no file of torch.export.save (it has no models/model.json)")


@dataclass(frozen=True)
class _Input:
    """What one placeholder of the graph stands for: a tensor of the file or of the user."""

    name: str
    kind: str
    target: str


class _Program:
    """The graph of an exported program."""

    def __init__(self, module: Mapping[str, Any], weights: Weights) -> None:
        self._graph = module["graph"]
        self._inputs = [_input(spec) for spec in module["signature"]["input_specs"]]
        self._outputs = module["signature"]["output_specs"]
        held = [each.target for each in self._inputs if each.kind not in ("user", "none")]
        self._tensors = {target: weights.tensor(target) for target in held}
        names = {each.target for each in self._inputs if each.kind == "buffer"}
        self.buffers = {name: self._tensors[name] for name in names}

    def inputs(self, where: str) -> list[tuple[str, Shape]]:
        """Names and shapes of what the user gives; a dynamic batch axis is 1."""
        found: list[tuple[str, Shape]] = []
        for each in self._inputs:
            if each.kind == "user":
                meta = self._graph["tensor_values"][each.name]
                title = f"{where}: input {shown(each.name)}"
                if meta["dtype"] not in _FLOATS:
                    raise UserError(f"{title} is not float32; export the model in float32")
                shape = []
                for axis, size in enumerate(meta["sizes"]):
                    if "as_int" not in size and axis > 0:
                        raise UserError(f"{title}, axis {axis}, is dynamic; only the batch may be")
                    shape.append(whole(size["as_int"]) if "as_int" in size else 1)
                if not found and len(shape) > 1 and shape[0] != 1:
                    raise UserError(
                        f"{title} has {shape[0]} rows; export with an example of one row, "
                        "torch.zeros(1, n), or with a dynamic batch"
                    )
                if len(found) == MOST_INPUTS:
                    raise UserError(f"{where}: more than {MOST_INPUTS} inputs; no controller has")
                if 0 in shape:
                    raise UserError(f"{title} is empty: its sizes are {shape}")
                found.append((each.name, tuple(shape)))
        if not found:
            raise UserError(f"{where}: the program has no input")
        return found

    def step(
        self, tracer: Tracer, given: Sequence[Tensor], held: Mapping[str, Tensor]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """One run of the graph: its outputs and the buffers that it wrote to."""
        values: dict[str, Any] = {}
        start: dict[str, Tensor] = {}
        leaves = iter(given)
        for each in self._inputs:
            if each.kind == "user":
                values[each.name] = next(leaves)
            elif each.kind == "none":
                values[each.name] = None
            else:
                # Two names for one tensor (tied weights) show the same memory.
                if each.target not in start:
                    known = held.get(each.target)
                    array = self._tensors[each.target]
                    start[each.target] = tracer.constant(array) if known is None else known
                values[each.name] = start[each.target]
        run = _Run(tracer)
        try:
            run.graph(self._graph, values)
            outputs, mutated = self._ends(run, values)
        except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
            raise Refused("model.json is not what torch.export.save writes") from error
        written = {
            name: start[name]
            for name in self.buffers
            if name in start and start[name].storage.written
        }
        return outputs, {**written, **mutated}

    def _ends(self, run: "_Run", values: dict[str, Any]) -> tuple[list[Tensor], dict[str, Tensor]]:
        outputs: list[Tensor] = []
        mutated: dict[str, Tensor] = {}
        for spec in self._outputs:
            ((kind, end),) = spec.items()
            if kind == "user_output":
                value = run.argument(end["arg"], values)
                outputs += [value] if isinstance(value, Tensor) else []
            elif kind == "buffer_mutation":
                mutated[end["buffer_name"]] = values[end["arg"]["name"]]
            elif kind != "user_input_mutation":
                raise Refused(f"has an output of kind {shown(str(kind))}")
        return outputs, mutated


def _input(spec: Mapping[str, Any]) -> _Input:
    ((kind, what),) = spec.items()
    match kind:
        case "parameter" | "buffer" | "tensor_constant":
            target = what[f"{kind}_name"]
            return _Input(what["arg"]["name"], "buffer" if kind == "buffer" else "held", target)
        case "user_input":
            ((form, argument),) = what["arg"].items()
            if form == "as_tensor":
                return _Input(argument["name"], "user", "")
            if form == "as_none":
                return _Input("", "none", "")
        case "constant_input":
            return _Input(what["name"], "none", "")
    raise Refused(f"has an input of kind {shown(str(kind))}; tensors are possible")


class _Run:
    """One symbolic run of a graph and those within it."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._depth = 0

    def graph(self, graph: Mapping[str, Any], values: dict[str, Any]) -> None:
        """Run a graph's nodes; `values` gets what each of them computes."""
        self._depth += 1
        if self._depth > DEEPEST_GRAPH:
            raise Refused("has graphs within graphs beyond reason")
        for node in graph["nodes"]:
            try:
                self._node(node, values)
            except Refused as error:
                error.at = _position(node, error.at)
                raise
        self._depth -= 1

    def _node(self, node: Mapping[str, Any], values: dict[str, Any]) -> None:
        target = node["target"]
        parts = target.split(".")
        name = parts[3] if target.startswith("torch.ops.aten.") else parts[-1]
        if name in _CHECKS:
            return
        if target == "torch.ops.higher_order.wrap_with_set_grad_enabled":
            self._bind(node["outputs"], self._within(node["inputs"], values), values)
            return
        if not target.startswith(("torch.ops.aten.", "_operator.", "math.", "torch.sym_")):
            if target.startswith("torch.ops.higher_order."):
                raise Refused(
                    f"{shown(name)} branches or loops over run-time values; write the policy "
                    "without it"
                )
            raise Refused(f"operator {shown(target)} is not torch's own; {aten.WAY_OUT}")
        positional: list[Any] = []
        named: dict[str, Any] = {}
        for k, entry in enumerate(node["inputs"]):
            value = self.argument(entry["arg"], values)
            # The first operands stand in the order of the operator's schema.
            if k == len(positional) and entry.get("kind", 1) != 2:
                positional.append(value)
            else:
                named[entry["name"]] = value
        self._bind(node["outputs"], aten.call(self._tracer, name, positional, named), values)

    def _within(self, inputs: Sequence[Mapping[str, Any]], values: dict[str, Any]) -> Any:
        """Run the graph among the inputs on those after it; what it returns."""
        graph = inputs[1]["arg"]["as_graph"]["graph"]
        given = [self.argument(entry["arg"], values) for entry in inputs[2:]]
        inner = {
            port["as_tensor"]["name"]: value
            for port, value in zip(graph["inputs"], given, strict=True)
        }
        self.graph(graph, inner)
        return [self.argument(port, inner) for port in graph["outputs"]]

    def _bind(
        self, outputs: Sequence[Mapping[str, Any]], result: Any, values: dict[str, Any]
    ) -> None:
        if len(outputs) == 1 and "as_tensors" not in outputs[0]:
            result = result if isinstance(result, tuple) else (result,)
        elif len(outputs) == 1:
            result = (list(result),)
        for output, value in zip(outputs, result, strict=False):
            ((form, port),) = output.items()
            if form == "as_tensors":
                for each, item in zip(port, value, strict=True):
                    values[each["name"]] = item
            elif form == "as_tensor":
                values[port["name"]] = value
            elif form in ("as_sym_int", "as_sym_float", "as_sym_bool"):
                values[port["as_name"]] = value
            elif form != "as_none":
                raise Refused(f"makes a result of kind {shown(str(form))}")

    def argument(self, argument: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
        """What an argument of a node stands for."""
        ((form, value),) = argument.items()
        if form in _PLAIN:
            return _number(value)
        match form:
            case "as_none":
                return None
            case "as_tensor":
                return values[value["name"]]
            case "as_tensors":
                return [values[each["name"]] for each in value]
            case "as_sym_int" | "as_sym_float" | "as_sym_bool" | "as_optional_tensor":
                return self._either(value, values)
            case "as_sym_ints" | "as_sym_floats" | "as_sym_bools" | "as_optional_tensors":
                return [self._either(each, values) for each in value]
            case "as_scalar_type":
                if value in HALVES:
                    return HALVES[value][1]
                return TYPES[value][1]
        if form in _PLACES:
            return None
        raise Refused(f"has an operand of kind {shown(str(form))}")

    def _either(self, value: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
        """A value by name, or as it is."""
        ((form, inner),) = value.items()
        if form == "as_name":
            return values[inner]
        return self.argument(value, values)


def _number(value: Any) -> Any:
    """A number as torch means it: infinities are texts."""
    if isinstance(value, list):
        return [_number(item) for item in value]
    return float(value) if value in ("Infinity", "-Infinity", "NaN") else value


def _position(node: Mapping[str, Any], what: str) -> str:
    """A node for a message: the module it comes from, its name, its operator."""
    stack = str(node.get("metadata", {}).get("nn_module_stack", ""))
    module = stack.rpartition(";")[2].split(",")[1:2] or [""]
    name = shown(str(node.get("name") or node.get("target")))[1:-1]
    if what.startswith("module "):
        return what
    here = f"module {shown(module[0])[1:-1] or '(top)'}, node {name}"
    return f"{here}: {what}" if what else here
