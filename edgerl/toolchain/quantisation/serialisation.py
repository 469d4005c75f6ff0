"""Serialisation: a FixedProgram as the file `program.json` of an artifact.

The integers that were compiled are what a check needs: they define every bit, and the proofs are
about them. Dataclasses become objects with their `type`, arrays one with `dtype`, `shape` and
the little-endian bytes in base64; the same program gives the same bytes.
"""

import base64
import binascii
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgerl.errors import UserError
from edgerl.toolchain.quantisation import program as definitions
from edgerl.toolchain.quantisation.cubic import CubicTable
from edgerl.toolchain.quantisation.program import FixedProgram
from edgerl.toolchain.quantisation.table import Table

INTEGERS = "program.json"
_SCHEMA = 1
_TYPES: Mapping[str, Any] = {
    kind.__name__: kind
    for kind in (*vars(definitions).values(), Table, CubicTable)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind)
}
_DTYPES = frozenset({"<i1", "<i2", "<i4", "<i8", "<f8", "|i1"})


def serialize(program: FixedProgram) -> bytes:
    """The bytes of program.json."""
    rows = {"schema": _SCHEMA, "program": _plain(program)}
    return (json.dumps(rows, indent=None, separators=(",", ":")) + "\n").encode()


def parse(data: bytes, where: str) -> FixedProgram:
    """The program in the bytes of a file, which `where` names.

    Raises UserError for anything else.
    """
    try:
        rows = json.loads(data)
        schema = rows["schema"]
        if schema != _SCHEMA:
            raise UserError(f"{where}: has schema {schema!s:.20}; this edgerl reads {_SCHEMA}")
        program = _typed(rows["program"])
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
        raise UserError(f"{where}: not a program of integers ({error!s:.80})") from error
    if not isinstance(program, FixedProgram):
        raise UserError(f"{where}: not a program of integers")
    return program


def _plain(value: Any) -> Any:
    """`value` as JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    match value:
        case np.ndarray():
            array = np.ascontiguousarray(value)
            array = array.astype(array.dtype.newbyteorder("<"))
            text = base64.b64encode(array.tobytes()).decode()
            return {"dtype": array.dtype.str, "shape": list(array.shape), "base64": text}
        case np.generic():
            return value.item()
        case Mapping():
            return {"items": [[key, _plain(each)] for key, each in value.items()]}
        case tuple() | list():
            return [_plain(each) for each in value]
        case _:
            return value


def _typed(value: Any) -> Any:
    """What `_plain` made JSON of; lists come back as tuples."""
    match value:
        case list():
            return tuple(_typed(each) for each in value)
        case {"type": kind, **fields}:
            return _TYPES[kind](**{str(name): _typed(each) for name, each in fields.items()})
        case {"dtype": dtype, "shape": shape, "base64": text}:
            if dtype not in _DTYPES:
                raise ValueError(f"array of {dtype!s:.20}")
            flat = np.frombuffer(base64.b64decode(text, validate=True), np.dtype(dtype))
            return flat.reshape(tuple(int(n) for n in shape)).copy()
        case {"items": pairs}:
            return {str(key): _typed(each) for key, each in pairs}
        case _:
            return value
