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

from edgerl.documents import explain, read_bytes
from edgerl.errors import UserError
from edgerl.policies.assembly import Found, assemble, plain_text
from edgerl.policies.limits import MOST_BYTES, TOO_LARGE
from edgerl.policies.names import shown
from edgerl.policies.policy import SCHEMA, Policy
from edgerl.policies.protobuf_scan import within_bounds
from edgerl.policies.spec import PolicySpec

MOST_WORDS = 1 << 20  # characters of what a policy carries beside its graph


def load(path: Path, spec: PolicySpec | None = None, name: str | None = None) -> Policy:
    """The policy in an `.onnx` file (see `parse`); UserError if it cannot be read."""
    return parse(read_bytes(path, MOST_BYTES, _title(str(path)), TOO_LARGE), path.name, spec, name)


def parse(
    content: bytes, file_name: str, spec: PolicySpec | None = None, name: str | None = None
) -> Policy:
    """The policy in the bytes of an `.onnx` file.

    `spec` says what its numbers mean; without one, what the file itself carries is used, and
    failing that defaults, each of which is listed in `Policy.assumed`; the policy then is called
    `name`, or as the file. The graph gets the
    boundary that every policy has. Raises UserError, in one line that names the file and the
    tensor, node or signal, when the file cannot be a policy or the spec does not fit it.
    """
    where = _title(file_name)
    model = _parse(content, where)
    saved = _saved(model, where)
    if saved is None:
        saved = {
            "provenance": {
                "source": "onnx",
                "producer": plain_text(f"{model.producer_name} {model.producer_version}"),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
        }
    return assemble(Found(model, **saved), name or Path(file_name).stem, where, spec)


def _title(file: str) -> str:
    """A file's name for a message: as it is if it is short and plain."""
    return file if file.isprintable() and len(file) <= 200 else shown(file)


def _parse(content: bytes, where: str) -> onnx.ModelProto:
    """The message in a file's bytes, its names readable and its contents within bounds."""
    model = onnx.ModelProto()
    try:
        fits = within_bounds(content, model.DESCRIPTOR)
        if fits:
            model.ParseFromString(content)
    # Whatever protobuf raises (its error types are untyped) says that these bytes are no message.
    except Exception as error:
        raise UserError(f"{where}: no ONNX model (truncated or another format)") from error
    if not fits:
        raise UserError(f"{where}: has more nodes and tensors than any controller")
    if not _readable(model):
        raise UserError(f"{where}: holds a name that is not text; the file is damaged")
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


def _saved(model: onnx.ModelProto, where: str) -> dict[str, Any] | None:
    """What a policy that edgerl saved carries beside its graph; None for other files."""
    entries = {entry.key: entry.value for entry in model.metadata_props}
    if "edgerl.schema" not in entries:
        return None
    for key, value in entries.items():
        if key.startswith("edgerl.") and len(value) > MOST_WORDS:
            raise UserError(f"{where}: {shown(key)} is longer than {MOST_WORDS >> 20} MiB")
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
        "integers": _text(entries, "edgerl.integers", where),
    }


def _text(entries: dict[str, str], key: str, where: str) -> str:
    """A JSON string."""
    try:
        text = json.loads(entries.get(key, '""'))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: {key} is not JSON") from error
    if not isinstance(text, str):
        raise UserError(f"{where}: {key} is not a text")
    return text


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
