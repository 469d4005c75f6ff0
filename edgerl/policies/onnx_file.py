"""Policies from `.onnx` files: a user's export, or a policy that edgerl saved.

A file is never trusted: it is bounded, examined and checked before anything is computed from
it, and nothing outside it is read.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import onnx
from pydantic import ValidationError

from edgerl.errors import UserError
from edgerl.policies.boundary import Boundary, agree, canonical, find
from edgerl.policies.limits import MOST_BYTES, examine
from edgerl.policies.names import as_identifier, shown
from edgerl.policies.policy import SCHEMA, Policy
from edgerl.policies.spec import PolicySpec, Signal, StateSignal, explain

_RECURRENT = {"GRU": (5,), "RNN": (5,), "LSTM": (5, 6)}
_STATIC = ("Shape", "Size")


def load(path: Path, spec: PolicySpec | None = None) -> Policy:
    """The policy in an `.onnx` file (see `parse`); UserError if it cannot be read."""
    return parse(_content(path), path.name, spec)


def parse(content: bytes, file_name: str, spec: PolicySpec | None = None) -> Policy:
    """The policy in the bytes of an `.onnx` file.

    `spec` says what its numbers mean; without one, what the file itself carries is used, and
    failing that defaults, each of which is listed in `Policy.assumed`. The graph gets the
    boundary that every policy has. Raises UserError, in one line that names the file and the
    tensor, node or signal, when the file cannot be a policy or the spec does not fit it.
    """
    where = _title(file_name)
    model = _parse(content, where)
    saved = _saved(model, where)
    spec = spec or saved.get("spec")
    _check(model, where)
    names = tuple(state.name for state in spec.state) if spec else ()
    boundary = find(model, names, where)
    _refuse_forgetful(model, boundary, where)
    if spec is None:
        spec, assumed = _default_spec(Path(file_name).stem, boundary)
    else:
        spec, assumed = _with_states(spec, boundary)
    agree(spec, boundary, where)
    graph = canonical(model, boundary, tuple(state.name for state in spec.state))
    if saved:
        return Policy(graph, spec, saved["provenance"], saved["formats"], assumed)
    provenance = {
        "source": "onnx",
        "producer": _plain(f"{model.producer_name} {model.producer_version}"),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    return Policy(graph, spec, provenance, assumed=assumed)


def _title(file: str) -> str:
    """A file's name for a message: as it is if it is short and plain."""
    return file if file.isprintable() and len(file) <= 200 else shown(file)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"{_title(str(path))}: cannot be read ({error.strerror})") from error
    if len(content) > MOST_BYTES:
        raise UserError(
            f"{_title(path.name)}: larger than {MOST_BYTES >> 20} MiB; no controller is"
        )
    return content


def _parse(content: bytes, where: str) -> onnx.ModelProto:
    """The message in a file's bytes, its names readable and its contents within bounds."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    # Whatever protobuf raises (its error types are untyped) says that these bytes are no message.
    except Exception as error:
        raise UserError(f"{where}: no ONNX model (truncated or another format)") from error
    if not _readable(model):
        raise UserError(f"{where}: holds a name that is not text; the file is damaged")
    examine(model, where)
    return model


def _readable(model: onnx.ModelProto) -> bool:
    """Whether every text in the message is text: protobuf hands out bytes where it is not."""
    messages: list[Any] = [model]
    while messages:
        for field, value in messages.pop().ListFields():
            values = (
                [value]
                if isinstance(value, str | bytes) or not hasattr(value, "__len__")
                else value
            )
            if field.type == field.TYPE_STRING and not all(isinstance(v, str) for v in values):
                return False
            if field.type == field.TYPE_MESSAGE:
                messages.extend(values)
    return True


def _check(model: onnx.ModelProto, where: str) -> None:
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise UserError(f"{where}: not valid ONNX: {_plain(str(error))}") from error


def _plain(text: str) -> str:
    """The start of a text from elsewhere, on one line of plain characters."""
    line = " ".join(text.split())
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in line)[:200]


def _saved(model: onnx.ModelProto, where: str) -> dict[str, Any]:
    """What a policy that edgerl saved carries beside its graph; nothing for other files."""
    entries = {entry.key: entry.value for entry in model.metadata_props}
    if "edgerl.schema" not in entries:
        return {}
    if entries["edgerl.schema"] != json.dumps(SCHEMA):
        schema = shown(entries["edgerl.schema"])
        raise UserError(f"{where}: saved with schema {schema}; this edgerl reads {SCHEMA}")
    try:
        spec = PolicySpec.model_validate_json(entries.get("edgerl.spec", ""))
    except ValidationError as error:
        raise UserError(explain(error, f"{where}: edgerl.spec")) from error
    return {
        "spec": spec,
        "formats": _words(entries, "edgerl.formats", where),
        "provenance": _words(entries, "edgerl.provenance", where),
    }


def _words(entries: dict[str, str], key: str, where: str) -> dict[str, str]:
    """A JSON object of short texts."""
    try:
        words = json.loads(entries.get(key, "{}"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: {key} is not JSON") from error
    fine = isinstance(words, dict) and all(
        isinstance(value, str) and len(key) + len(value) <= 400 for key, value in words.items()
    )
    if not fine:
        raise UserError(f"{where}: {key} is not an object of short texts")
    return dict(words)


def _default_spec(stem: str, boundary: Boundary) -> tuple[PolicySpec, tuple[str, ...]]:
    """A spec that claims nothing: one free observation, one action in [-1, 1]."""
    n, m = boundary.observation.size, boundary.action.size
    spec = PolicySpec(
        name=as_identifier(stem, "policy"),
        observation=(Signal(name="observation", size=n, range=(-1.0e6, 1.0e6)),),
        action=(Signal(name="action", size=m, range=(-1.0, 1.0)),),
    )
    spec, states = _with_states(spec, boundary)
    return spec, (
        f"name {spec.name}, from the file's name",
        f"observation: one signal of {n} values without a unit, valid in [-1e6, 1e6]",
        f"action: one signal of {m} values, saturated to [-1, 1]",
        *states,
        f"rate {spec.rate_hz:g} Hz",
        f"out-of-range observations: {spec.out_of_range}; not finite: {spec.non_finite}",
    )


def _with_states(spec: PolicySpec, boundary: Boundary) -> tuple[PolicySpec, tuple[str, ...]]:
    """The spec with the graph's own states where it says nothing of states."""
    if spec.state or not boundary.states:
        return spec, ()
    states: list[StateSignal] = []
    for k, (before, _) in enumerate(boundary.states):
        # A name that is none (TorchScript's `onnx::Gemm_1`) says nothing worth keeping.
        plain = as_identifier(before.name, "state") == before.name
        name = before.name if plain else "state" if k == 0 else f"state_{k}"
        while name in [state.name for state in states]:
            name = f"state_{name[:30]}"
        states.append(StateSignal(name=name, size=before.size))
    said = ", ".join(f"{state.name} ({state.size})" for state in states)
    return spec.model_copy(update={"state": tuple(states)}), (f"state: {said}, from the graph",)


def _refuse_forgetful(model: onnx.ModelProto, boundary: Boundary, where: str) -> None:
    """UserError for a recurrent node whose state does not come from an input: it would start
    from the same state at every step."""
    changing = {boundary.observation.name, *(before.name for before, _ in boundary.states)}
    for node in model.graph.node:
        for k in _RECURRENT.get(node.op_type, ()):
            if k >= len(node.input) or node.input[k] not in changing:
                raise UserError(
                    f"{where}: operator {node.op_type} (node {shown(node.name)}) starts every "
                    "step from a constant state; export the model with its hidden state as "
                    "an input and an output"
                )
        if node.op_type not in _STATIC and changing.intersection(node.input):
            changing.update(name for name in node.output if name)
