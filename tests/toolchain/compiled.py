"""Programs written by hand, compiled for this machine."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from edgerl.policies import Policy
from edgerl.policies.spec import PolicySpec, Signal, StateSignal
from edgerl.toolchain import ir
from edgerl.toolchain.build import HostTwin, Run, build_host
from edgerl.toolchain.emit import emit


def spec_of(program: ir.Program, limit: float = 10.0) -> PolicySpec:
    """A spec in which every value lies in +-limit."""
    ends = (-limit, limit)
    return PolicySpec(
        name=program.name,
        observation=(Signal(name="o", size=program.size(program.observation), range=ends),),
        action=(Signal(name="a", size=program.size(program.action), range=ends),),
        state=tuple(StateSignal(name=s, size=program.size(s)) for s, _ in program.states),
    )


def twin_of(program: ir.Program, folder: Path, *, fused: bool) -> HostTwin:
    """The program's C, built and loaded."""
    package = emit(Policy(onnx.ModelProto(), spec_of(program)), program, fused=fused)
    source = folder / f"{program.name}_{fused}"
    source.mkdir()
    for name, text in package.files.items():
        (source / name).write_text(text, newline="\n")
    return build_host(source, package.name, folder)


def states_of(program: ir.Program, run: Run) -> list[np.ndarray]:
    """The states [T, k] after each step."""
    assert run.states is not None
    return split(program, run.states)


def split(program: ir.Program, memory: np.ndarray) -> list[np.ndarray]:
    """The program's states in C states [T, bytes]."""
    sizes = [program.size(before) for before, _ in program.states]
    floats = np.ascontiguousarray(memory[:, : 4 * sum(sizes)]).view(np.float32)
    return np.split(floats, np.cumsum(sizes)[:-1], axis=1) if sizes else []


def step(
    program: ir.Program, twin: HostTwin, observations: np.ndarray, states: Sequence[np.ndarray]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """One step of T controllers from given states: actions [T, m] and next states."""
    memory = twin.reset_states(len(observations))
    if states:
        values = np.concatenate(states, axis=1, dtype=np.float32)
        memory[:, : 4 * values.shape[1]] = values.view(np.uint8)
    run = twin.many(memory, observations.astype(np.float32), "evaluate")
    return run.actions, states_of(program, run)
