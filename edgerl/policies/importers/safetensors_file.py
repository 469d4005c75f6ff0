"""Safetensors: weights of any framework, Flax among them, made a network by a layer list.

The format is a length, a JSON header that tells names, types, shapes and places, and the
numbers: nothing in it can be run (github.com/huggingface/safetensors).
"""

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.documents import read_bytes
from edgerl.errors import ToolError, UserError
from edgerl.policies.assembly import Found, plain_text
from edgerl.policies.importers.layers.network import network
from edgerl.policies.importers.source import Source
from edgerl.policies.limits import MOST_AXES, MOST_BYTES, TOO_LARGE
from edgerl.policies.names import shown

MOST_HEADER = 1 << 20
_LENGTH = 8  # bytes that say how long the header is
INSTALL = "pip install 'edgerl[import]'"

_HALVES = {"F16": "float16", "BF16": "bfloat16"}
_TYPES = {
    "F32": "<f4",
    "F64": "<f8",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "<u1",
    "BOOL": "?",
}


def read(source: Source) -> Found:
    """The network that `source.layers` makes of the file's tensors.

    Raises UserError, in one line that names tensor and layer, for a file that is damaged, too
    large or in half precision; NeedsLayers, with a template, without a layer list; ToolError when
    the package safetensors is missing.
    """
    content = _content(source)
    found = network(_tensors(content, source.where), source.layers, source.where)
    return replace(
        found,
        provenance={"source": "safetensors", "sha256": hashlib.sha256(content).hexdigest()},
    )


def _content(source: Source) -> bytes:
    """The file's bytes, its size and that of its header within bounds."""
    content = read_bytes(source.path, MOST_BYTES, source.where, TOO_LARGE)
    header = int.from_bytes(content[:_LENGTH], "little")
    if len(content) < _LENGTH or header > len(content) - _LENGTH:
        raise UserError(f"{source.where}: no safetensors file (truncated or another format)")
    if header > MOST_HEADER:
        raise UserError(
            f"{source.where}: its header has {header:,} bytes; {MOST_HEADER:,} are possible"
        )
    return content


def _tensors(content: bytes, where: str) -> dict[str, npt.NDArray[Any]]:
    safetensors = _library(where)
    try:
        entries = safetensors.deserialize(content)
    except (safetensors.SafetensorError, ValueError) as error:
        raise UserError(f"{where}: no safetensors file ({plain_text(str(error))[:120]})") from error
    return {name: _tensor(name, entry, where) for name, entry in sorted(entries)}


def _library(where: str) -> Any:
    """The package (untyped)."""
    try:
        import safetensors
    except ImportError as error:
        raise ToolError(f"reading {where} needs the package safetensors: {INSTALL}") from error
    return safetensors


def _tensor(name: str, entry: dict[str, Any], where: str) -> npt.NDArray[Any]:
    """One tensor as the file has it: integers may stand beside weights (counters do)."""
    kind = entry["dtype"]
    title = f"{where}: tensor {shown(name)}"
    if kind in _HALVES:
        raise UserError(f"{title} is in {_HALVES[kind]}; save the model in float32")
    if kind not in _TYPES:
        raise UserError(f"{title} is of type {shown(kind)}; save the model in float32")
    if len(entry["shape"]) > MOST_AXES:
        raise UserError(f"{title} has {len(entry['shape'])} axes; {MOST_AXES} are possible")
    try:
        return np.frombuffer(entry["data"], _TYPES[kind]).reshape(entry["shape"])
    # A size of 0 lets the others be anything.
    except ValueError as error:
        raise UserError(f"{title} has impossible sizes") from error
