"""Watching: every tensor of a float Program on recorded observations, in bounded memory."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgerl.toolchain import interpreter
from edgerl.toolchain.ir import Program, writes

Doubles = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

_MOST_ROWS = 4096
# Doubles that one batch of a step may have.
_MOST_VALUES = 1 << 23


def watched(program: Program, recordings: tuple[Singles, ...]) -> Iterator[dict[str, Doubles]]:
    """Every tensor of every step on [T, B, n] recordings, some thousand rows [rows, size] at a
    time."""
    values = sum(tensor.size for tensor in program.tensors.values())
    rows = max(1, min(_MOST_ROWS, _MOST_VALUES // values))
    held: list[dict[str, Doubles]] = []
    count = 0
    for tensors in _stepped(program, recordings, rows):
        held.append(tensors)
        count += len(tensors[program.observation])
        if count >= rows:
            yield _together(held)
            held, count = [], 0
    if held:
        yield _together(held)


def _together(steps: list[dict[str, Doubles]]) -> dict[str, Doubles]:
    return {name: np.concatenate([step[name] for step in steps]) for name in steps[0]}


def _stepped(
    program: Program, recordings: tuple[Singles, ...], batch: int
) -> Iterator[dict[str, Doubles]]:
    """Every tensor of every step, [B, size] of the up to `batch` sequences that have it."""
    written = [name for operation in program.operations for name in writes(operation)]
    # Every tensor that is written leaves as one more next state; nothing reads what it replaces.
    unread = [np.zeros(1)] * len(written)
    watching = replace(
        program, states=(*program.states, *((f"{name} before", name) for name in written))
    )
    for group in _groups(program, recordings, batch):
        states = interpreter.reset(program, (sum(part.shape[1] for part in group),))
        for k in range(len(group[0])):
            observation = np.concatenate([part[k] for part in group if k < len(part)])
            before = tuple(state[: len(observation)] for state in states)
            with np.errstate(all="ignore"):
                _, after = interpreter.run(watching, observation, (*before, *unread))
            states = after[: len(before)]
            tensors = {program.observation: observation.astype(np.float64)}
            tensors.update(zip((name for name, _ in program.states), before, strict=True))
            tensors.update(zip(written, after[len(before) :], strict=True))
            yield tensors


def _groups(
    program: Program, recordings: tuple[Singles, ...], batch: int
) -> Iterator[list[Singles]]:
    """The recordings in groups of at most `batch` sequences to run side by side, the longest
    first, so that those that go on stand before those that have ended."""
    # Without a state every step may as well be a sequence of its own.
    flat = [r if program.states else r.reshape(1, -1, r.shape[-1]) for r in recordings]
    parts = [r[:, k : k + batch] for r in flat for k in range(0, r.shape[1], batch)]
    group: list[Singles] = []
    count = 0
    for part in sorted(parts, key=len, reverse=True):
        if group and count + part.shape[1] > batch:
            yield group
            group, count = [], 0
        group.append(part)
        count += part.shape[1]
    if group:
        yield group
