"""Run: what a compiled program did, step by step, whoever ran it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgerl.toolchain.report.model import Difference

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint32]
Bytes = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]
_Array = npt.NDArray[np.generic]
# `evaluate` is the bare graph, `step` is guarded and saturated.
Mode = Literal["evaluate", "step"]


def rows_of(observations: Floats, size: int) -> Floats:
    """observations [T, size] as contiguous float32; ValueError when they are not that."""
    rows = np.ascontiguousarray(observations, np.float32)
    if rows.ndim != 2 or rows.shape[1] != size or len(rows) == 0:
        raise ValueError(f"observations are {rows.shape}; they must be [T >= 1, {size}]")
    return rows


def marks_of(resets: Flags, steps: int) -> Bytes:
    """resets [steps] as one byte each; ValueError when they are not that many."""
    marks = np.ascontiguousarray(resets, np.uint8)
    if marks.shape != (steps,):
        raise ValueError(f"{steps} observations, but reset marks of shape {marks.shape}")
    return marks


@dataclass(frozen=True)
class Run:
    """T calls of a program.

    actions [T, m] float32; status [T] uint32, all zero in mode `evaluate`; states
    [T, state_bytes], the state after each call, or None where the runner cannot see it.
    """

    actions: Floats
    status: Words
    states: Bytes | None


def first_difference(one: Run, other: Run) -> Difference | None:
    """Where two runs first part, bit for bit; None when they are the same.

    At equal steps actions come before status before state. States are compared only where
    both runs have them, as 32-bit floats (single bytes where the size is no multiple of four).
    Raises ValueError when the runs differ in shape.
    """
    pairs: list[tuple[str, _Array, _Array]] = [
        ("action", one.actions, other.actions),
        ("status", one.status, other.status),
    ]
    if one.states is not None and other.states is not None:
        width = np.float32 if one.states.shape[1] % 4 == 0 else np.uint8
        pairs.append(("state", _rows(one.states, width), _rows(other.states, width)))
    found: list[Difference] = []
    for name, a, b in pairs:
        if a.shape != b.shape:
            raise ValueError(f"{name}: runs of shapes {a.shape} and {b.shape}")
        a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
        unequal = _bits(a) != _bits(b)
        if unequal.any():
            step, index = (int(i) for i in np.argwhere(unequal)[0])
            found.append(
                Difference(step, name, index, (float(a[step, index]), float(b[step, index])))
            )
    return min(found, key=lambda d: d.step, default=None)


def _rows(states: Bytes, width: type) -> _Array:
    return np.ascontiguousarray(states).view(width)


def _bits(values: _Array) -> _Array:
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")
