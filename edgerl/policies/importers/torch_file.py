"""Files of torch.save and torch.jit.save: read as data, never executed, without torch.

What a file is shows in its members: TorchScript has code, a state dict is one pickle.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.documents import read_bytes
from edgerl.errors import UserError
from edgerl.policies.assembly import Found, plain_text
from edgerl.policies.importers import torchscript
from edgerl.policies.importers.containers.archive import Archive, opened, shown_path
from edgerl.policies.importers.containers.records import Record, record
from edgerl.policies.importers.containers.torch_archive import read_torch
from edgerl.policies.importers.layers.network import network
from edgerl.policies.importers.source import Source
from edgerl.policies.limits import MOST_BYTES, TOO_LARGE
from edgerl.policies.names import shown

# Where frameworks keep the actor's weights within a checkpoint, the most telling first.
_WEIGHTS = (
    "actor_state_dict", "model_state_dict", "policy_state_dict", "state_dict", "policy", "actor",
    "model", "student_state_dict",
)  # fmt: skip
_WAY_OUT = (
    "save torch.jit.script(model) with torch.jit.save, use torch.onnx.export, or call "
    "edgerl.load(model, example=...) where the model is at hand"
)


def read(source: Source) -> Found:
    """The policy in a `.pt` or `.pth` file: a TorchScript module, or weights with a list of
    layers. Raises UserError, in one line, for anything else."""
    where = source.where
    content = read_bytes(source.path, MOST_BYTES, where, TOO_LARGE)
    if content[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise UserError(
            f"{where}: in the format of torch before 1.6; load it in torch and save it again "
            "(torch.save writes a zip file)"
        )
    archive = opened(content, where)
    sha256 = hashlib.sha256(content).hexdigest()
    root = _root(archive, "data.pkl")
    if any(name.startswith(f"{root}/code/") for name in archive.names):
        if source.layers is not None:
            raise UserError(
                f"{where}: is a TorchScript module, which says itself which layers it has; leave "
                f"{shown_path(source.layers)} out"
            )
        provenance = {"source": "torch", "producer": _producer(archive, root), "sha256": sha256}
        return torchscript.found(archive, root, provenance)
    return _weights_found(source, archive, root, sha256)


def _root(archive: Archive, member: str) -> str:
    """The folder that everything in the archive lies in."""
    roots = sorted(n.removesuffix(f"/{member}") for n in archive.names if n.endswith(f"/{member}"))
    if not roots:
        what = (
            "an exported program; call it .pt2"
            if any(n.endswith("/archive_format") for n in archive.names)
            else f"no file of torch.save (it has no {member})"
        )
        raise UserError(f"{archive.where}: {what}")
    return min(roots, key=len)


def _producer(archive: Archive, root: str) -> str:
    version = f"{root}/version"
    number = archive.read(version)[:20].decode("ascii", "replace") if version in archive else "?"
    return plain_text(f"torch archive, version {number}")


def _weights_found(source: Source, archive: Archive, root: str, sha256: str) -> Found:
    """Weights and the layer list beside them. Objects of any class (optimisers, settings) may
    stand beside the weights; all are read as records, which do nothing."""
    where = source.where
    content = read_torch(archive, f"{root}/data.pkl", record)
    if isinstance(content, Record):
        raise UserError(
            f"{where}: holds a pickled object of class {shown(content.kind)}, whose code is not "
            f"in the file; {_WAY_OUT}"
        )
    found = network(_tensors(content, where), source.layers, where)
    producer = plain_text(_producer(archive, root))
    return replace(found, provenance={"source": "torch", "producer": producer, "sha256": sha256})


def _tensors(content: Any, where: str) -> Mapping[str, npt.NDArray[Any]]:
    """The weights by name in what was pickled."""
    pending = [content]
    for _ in range(8):
        if not pending or not isinstance(content := pending.pop(), Mapping):
            break
        tensors = {str(k): v for k, v in content.items() if isinstance(v, np.ndarray)}
        if tensors:
            return tensors
        pending += [content[key] for key in reversed(_WEIGHTS) if key in content]
    raise UserError(f"{where}: holds no weights by name; {_WAY_OUT}")
