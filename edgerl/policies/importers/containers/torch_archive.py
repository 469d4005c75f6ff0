"""Tensors in the zip archives that `torch.save` and TorchScript write, read without torch.

An archive holds `NAME/data.pkl` (or another pickle) whose tensors refer to `NAME/data/KEY`,
the bytes of a storage. (torch/serialization.py and caffe2/serialize describe the format.)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.errors import UserError
from edgerl.policies.importers.containers.archive import Archive
from edgerl.policies.importers.containers.pickles import read_pickle
from edgerl.policies.names import shown

Tensor = npt.NDArray[Any]

# Storage classes by name. A half-precision weight is refused: what it was trained to is unknown.
_STORAGES: Mapping[str, str] = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}
# A checkpoint holds critics and the optimiser's two moments beside the policy.
MOST_NUMBERS = 1 << 26
_HALVES = {"HalfStorage": "float16", "BFloat16Storage": "bfloat16"}


@dataclass(frozen=True)
class _Storage:
    values: Tensor


def read_torch(
    archive: Archive, pickle_name: str, names: Callable[[str], Any] | None = None
) -> Any:
    """What the pickle `pickle_name` (a member, such as `archive/data.pkl`) holds, tensors as
    numpy arrays.

    `names` resolves names beyond torch's own tensors, as for `read_pickle`. Raises UserError
    naming the member or tensor that cannot be.
    """
    root = pickle_name.rpartition("/")[0]
    stem = pickle_name.rpartition("/")[2].removesuffix(".pkl")
    # TorchScript keeps the storages of constants.pkl apart.
    folder = stem if stem == "constants" else "data"
    where = f"{archive.where}: {pickle_name}"
    order = f"{root}/byteorder"
    if order in archive and archive.read(order).strip() != b"little":
        raise UserError(f"{archive.where}: saved on a big-endian machine; not supported")

    contents: dict[str, bytes] = {}

    def load(key: Any) -> _Storage:
        if not (isinstance(key, tuple) and len(key) == 5 and key[0] == "storage"):
            raise UserError(f"{where}: a reference of unknown kind")
        _, kind, name, _location, count = key
        texts = isinstance(kind, str) and isinstance(name, str)
        # The stream may give any text in the place of a storage's class.
        known = texts and kind in _STORAGES.values()
        if not known or not isinstance(count, int) or not 0 <= count <= MOST_NUMBERS:
            raise UserError(f"{where}: a storage of unknown kind")
        if name not in contents:
            contents[name] = archive.read(f"{root}/{folder}/{name}")
        data, dtype = contents[name], np.dtype(kind)
        if len(data) != count * dtype.itemsize:
            raise UserError(
                f"{where}: storage {shown(name)} declares {count} numbers and holds "
                f"{len(data) / dtype.itemsize:g}"
            )
        return _Storage(np.frombuffer(data, dtype))

    numbers = 0

    def tensor(*parts: Any) -> Tensor:
        nonlocal numbers
        made = _tensor(*parts)
        numbers += made.size
        if numbers > MOST_NUMBERS:
            raise UserError(f"{where}: tensors of more than {MOST_NUMBERS:,} numbers together")
        return made

    def resolve(name: str) -> Any:
        module, _, kind = name.rpartition(".")
        if module == "torch" and kind in _HALVES:
            raise UserError(
                f"{where}: weights in {_HALVES[kind]}; save the model in float32 (model.float())"
            )
        if module == "torch" and kind in _STORAGES:
            return _STORAGES[kind]
        if name in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
            return tensor
        if name == "torch._utils._rebuild_parameter":
            return lambda data, *_: data
        return names(name) if names is not None else None

    return read_pickle(archive.read(pickle_name), where, resolve, load)


def _tensor(
    storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> Tensor:
    """A view of a storage, bounds checked, as an array of its own."""
    if len(size) != len(stride) or min((offset, *size, *stride), default=0) < 0:
        raise ValueError("a tensor with impossible sizes")
    if 0 in size:
        return np.zeros(size, storage.values.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= storage.values.size or int(np.prod(size, dtype=np.int64)) > storage.values.size:
        raise ValueError("a tensor that reaches beyond its storage")
    width = storage.values.itemsize
    view = np.lib.stride_tricks.as_strided(
        storage.values[offset:], size, [step * width for step in stride], writeable=False
    )
    return np.ascontiguousarray(view)
