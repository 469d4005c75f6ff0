"""Weights: tensors by name, taken out one by one and checked as they are."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.errors import UserError
from edgerl.policies.graph import Array
from edgerl.policies.limits import MOST_PARAMETERS
from edgerl.policies.names import shown

Tensors = Mapping[str, npt.NDArray[Any]]
Sizes = tuple[int | None, ...]

_HALVES = ("float16", "bfloat16")
_NAMED = 8


class Weights:
    """The tensors of a checkpoint and which of them have been `used`.

    `where` names the checkpoint in messages.
    """

    def __init__(self, tensors: Tensors, where: str) -> None:
        self.where = where
        self.used: set[str] = set()
        self.rounded = False
        self._tensors = tensors
        self._numbers = 0

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def fresh(self) -> "Weights":
        """The same tensors, none of them used."""
        return Weights(self._tensors, self.where)

    def shape(self, name: str) -> tuple[int, ...]:
        """Sizes of a tensor as the file has it; none for one that is not there."""
        return self._tensors[name].shape if name in self._tensors else ()

    @property
    def unused(self) -> list[str]:
        """Names of tensors that nothing has asked for."""
        return [name for name in self._tensors if name not in self.used]

    def take(self, name: str, sizes: Sizes, layer: str, reason: str = "") -> Array:
        """The tensor `name` in float32, of the given sizes (None: any) once axes of length 1
        before them are dropped.

        `layer` says who asks ("layer 2"), `reason` where the sizes come from. Raises UserError
        naming layer, tensor and both shapes.
        """
        title = f"{self.where}: {layer}: tensor {shown(name)}"
        if name not in self._tensors:
            raise UserError(f"{title} is not in the file; {nearest(name, self._tensors)}")
        values = self._tensors[name]
        if values.dtype.name in _HALVES:
            raise UserError(f"{title} is in {values.dtype}; save the model in float32")
        if values.dtype not in (np.float32, np.float64):
            raise UserError(f"{title} is of type {values.dtype}; weights are float32")
        while values.ndim > len(sizes) and values.shape[0] == 1:
            values = values[0]
        if not _fits(values.shape, sizes):
            raise UserError(
                f"{title} has sizes {_text(self._tensors[name].shape)}, "
                f"{_text(sizes)} are needed{reason and f': {reason}'}"
            )
        self._numbers += values.size
        if self._numbers > MOST_PARAMETERS:
            raise UserError(
                f"{title} brings the network to {self._numbers} numbers; "
                f"{MOST_PARAMETERS} are possible"
            )
        if not np.isfinite(values).all() or np.abs(values).max() > np.finfo(np.float32).max:
            raise UserError(f"{title} holds values that are not finite (NaN or Inf)")
        self.used.add(name)
        self.rounded = self.rounded or values.dtype == np.float64
        return np.ascontiguousarray(values, dtype=np.float32)


def nearest(name: str, known: Collection[str]) -> str:
    """What to say after an unknown tensor's name: the nearest of the `known`, or some of them."""
    close = get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {shown(close[0])}?"
    some = [shown(each) for each in sorted(known)[:_NAMED]]
    more = ", …" if len(known) > _NAMED else ""
    return f"it has {', '.join(some)}{more}" if some else "it has none"


def _fits(shape: tuple[int, ...], sizes: Sizes) -> bool:
    return len(shape) == len(sizes) and all(
        n > 0 and n == (n if wanted is None else wanted)
        for n, wanted in zip(shape, sizes, strict=True)
    )


def _text(sizes: Sizes) -> str:
    return f"[{', '.join('any' if n is None else str(n) for n in sizes)}]"
