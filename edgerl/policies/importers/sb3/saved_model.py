"""The zip files that Stable-Baselines3's `model.save` writes, read as data.

`data` is JSON: plain fields as they are, all others as a base64 pickle beside a readable summary
of their first level. `policy.pth` holds the weights by name.
(stable_baselines3/common/save_util.py describes the format.)
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.errors import UserError
from edgerl.policies.assembly import plain_text
from edgerl.policies.importers.containers.archive import json_object, open_archive, opened
from edgerl.policies.importers.containers.pickles import read_pickle
from edgerl.policies.importers.containers.records import Record, record
from edgerl.policies.importers.containers.torch_archive import read_torch
from edgerl.policies.importers.sb3.spaces import Space, read_space

_LIBRARY = re.compile(r"(stable_baselines3|sb3_contrib)(\.[A-Za-z0-9_]+)+")
_PICKLED = ":serialized:"


class OwnCode(UserError):
    """A policy does what only Python code says, and the file does not hold."""

    def __init__(self, message: str) -> None:
        super().__init__(
            f"{message}; edgerl.export_sb3(model, vecnormalize, path), called in Python where the "
            "model is, writes an .onnx policy"
        )


@dataclass(frozen=True)
class SavedModel:
    """A saved model: its fields, of which pickled ones are read when asked for, and the weights
    of its policy by name. `where` names the file, `version` the library that wrote it."""

    where: str
    version: str
    fields: Mapping[str, Any]
    weights: Mapping[str, npt.NDArray[Any]]

    def space(self, field: str) -> Space:
        """The space in a field; UserError when it is none or not supported."""
        return read_space(self._pickle(field), f"{self.where}: {field}")

    @property
    def policy_class(self) -> str:
        """The dotted name of the policy's class. UserError when the library has none of it."""
        title = f"{self.where}: policy_class"
        try:
            found = read_pickle(self._pickle("policy_class"), title, _library_class)
        except UserError as error:
            raise OwnCode(f"{title} is no class of Stable-Baselines3") from error
        if not (isinstance(found, type) and issubclass(found, Record)):
            raise UserError(f"{title} is no class")
        return found.kind

    @property
    def options(self) -> Mapping[str, Any]:
        """The policy's keyword arguments as the summary has them: classes and functions as text,
        so that nothing of the user's own has to be unpickled."""
        options = self.fields.get("policy_kwargs")
        return options if isinstance(options, dict) else {}

    @property
    def normalised(self) -> bool | None:
        """Whether the model was trained inside VecNormalize; None where the file does not tell:
        off-policy models keep the observation before the last one in any case."""
        if self.fields.get("_vec_normalize_env") is not None:
            return True
        kept = self.fields.get("_last_original_obs") is not None
        return None if kept and "replay_buffer_class" in self.fields else kept

    def _pickle(self, field: str) -> bytes:
        value = self.fields.get(field)
        text = value.get(_PICKLED) if isinstance(value, dict) else None
        if not isinstance(text, str):
            raise UserError(f"{self.where}: its data has no {field}; not a whole saved model")
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise UserError(f"{self.where}: {field} is damaged (not base64)") from error


def open_model(path: Path) -> SavedModel:
    """The model in a file that `model.save` wrote.

    Raises UserError, in one line, when the file is another kind of archive, damaged, or out of
    bounds.
    """
    archive = open_archive(path)
    for member in ("data", "policy.pth"):
        if member not in archive:
            raise UserError(
                f"{archive.where}: has no member {member!r}; a model that Stable-Baselines3 "
                "saved with model.save(PATH) does"
            )
    title = f"{archive.where}: data"
    fields = json_object(archive.read("data"), title, "is no JSON object")
    version = "_stable_baselines3_version"
    text = archive.read(version).decode("ascii", "replace") if version in archive else ""
    title = f"{archive.where}: policy.pth"
    inner = opened(archive.read("policy.pth"), title)
    pickles = [name for name in inner.names if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(pickles) != 1:
        raise UserError(f"{title}: no file that torch.save wrote")
    weights = read_torch(inner, pickles[0])
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, np.ndarray) for name, value in weights.items()
    ):
        raise UserError(f"{title}: no weights by name")
    return SavedModel(archive.where, plain_text(text), fields, weights)


def _library_class(name: str) -> type[Record] | None:
    return record(name) if _LIBRARY.fullmatch(name) else None
