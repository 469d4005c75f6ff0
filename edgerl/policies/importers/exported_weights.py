"""Weights in the archives of torch.export.save, as the list beside them tells.

Each tensor has a member of its own with the bytes of its storage, and an entry in a JSON file
with type, sizes, strides and offset (torch/_export/serde/schema.py, PayloadMeta).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgerl.errors import UserError
from edgerl.policies.importers.aten.symbolic import Array, Refused, Shape
from edgerl.policies.importers.containers.archive import Archive, json_object
from edgerl.policies.limits import MOST_PARAMETERS
from edgerl.policies.names import shown

WAY_OUT = "save it again with torch 2.9 or later, or use torch.onnx.export"

# schema.ScalarType: numpy's type, and torch's own number (c10/core/ScalarType.h).
TYPES: Mapping[int, tuple[str, int]] = {
    1: ("<u1", 0), 2: ("<i1", 1), 3: ("<i2", 2), 4: ("<i4", 3), 5: ("<i8", 4), 7: ("<f4", 6),
    8: ("<f8", 7), 12: ("?", 11),
}  # fmt: skip
HALVES = {6: ("float16", 5), 13: ("bfloat16", 15)}


def document(archive: Archive, name: str) -> dict[str, Any]:
    """A JSON object of an archive; UserError where a member is none."""
    title = f"{archive.where}: {shown(name)}"
    return json_object(archive.read(name), title, "is not what torch.export.save writes")


class Weights:
    """The archive's tensors by name."""

    def __init__(self, archive: Archive, root: str) -> None:
        self._archive = archive
        if f"{root}/byteorder" in archive and archive.read(f"{root}/byteorder") != b"little":
            raise UserError(f"{archive.where}: saved on a big-endian machine; not supported")
        self._numbers = 0
        self._contents: dict[str, bytes] = {}
        self._entries: dict[str, tuple[str, Mapping[str, Any]]] = {}
        for kind in ("constants", "weights"):
            config = f"{root}/data/{kind}/model_{kind}_config.json"
            if config in archive:
                for name, entry in document(archive, config)["config"].items():
                    self._entries[name] = (f"{root}/data/{kind}/{entry['path_name']}", entry)
            elif kind == "weights":
                raise UserError(f"{archive.where}: in the format of torch before 2.9; {WAY_OUT}")

    def tensor(self, name: str) -> Array:
        """A tensor. Raises UserError naming it when it cannot be."""
        title = f"{self._archive.where}: tensor {shown(name)}"
        if name not in self._entries:
            raise UserError(f"{title} is not in the file")
        member, entry = self._entries[name]
        meta = entry["tensor_meta"]
        if entry["use_pickle"] or not meta:
            raise UserError(f"{title} is pickled (a tensor subclass?); save plain float32 tensors")
        if meta["dtype"] in HALVES:
            half = HALVES[meta["dtype"]][0]
            raise UserError(f"{title} is in {half}; export the model in float32 (model.float())")
        if meta["dtype"] not in TYPES:
            raise UserError(f"{title} is of a type that no controller needs")
        dtype = np.dtype(TYPES[meta["dtype"]][0])
        # Many tensors may lie in one member.
        if member not in self._contents:
            self._contents[member] = self._archive.read(member)
        content = self._contents[member]
        shape, strides = _static(meta["sizes"]), _static(meta["strides"])
        offset = _static([meta["storage_offset"]])[0]
        if len(shape) != len(strides) or min((offset, *shape, *strides), default=0) < 0:
            raise UserError(f"{title} has impossible sizes")
        if 0 in shape:
            return np.zeros(shape, dtype)
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        held = len(content) // dtype.itemsize
        if len(content) % dtype.itemsize or last >= held or math.prod(shape) > held:
            raise UserError(f"{title} declares {math.prod(shape)} numbers and holds {held}")
        self._numbers += math.prod(shape)
        if self._numbers > MOST_PARAMETERS:
            raise UserError(f"{title} is one too many; {MOST_PARAMETERS} numbers are possible")
        stored = np.frombuffer(content, dtype)[offset:]
        steps = [step * dtype.itemsize for step in strides]
        view = np.lib.stride_tricks.as_strided(stored, shape, steps, writeable=False)
        return np.ascontiguousarray(view)


def _static(sizes: Sequence[Mapping[str, Any]]) -> Shape:
    return tuple(whole(size["as_int"]) for size in sizes)


def whole(x: Any) -> int:
    """A whole number of the document; Refused for anything else."""
    if not isinstance(x, int) or isinstance(x, bool):
        raise Refused("a size is no whole number")
    return x
