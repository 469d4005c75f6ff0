"""A float program and its integers as step callables, and how far apart they are."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgerl.toolchain import interpreter, quantisation
from edgerl.toolchain.ir import Program
from edgerl.toolchain.quantisation import FixedProgram

Singles = npt.NDArray[np.float32]
Step = Callable[[Singles], Singles]


def float_step(program: Program) -> Step:
    """The float program as a step callable, from a reset."""
    states: list[tuple[npt.NDArray[np.float64], ...]] = []

    def step(observation: Singles) -> Singles:
        before = states.pop() if states else interpreter.reset(program, (len(observation),))
        action, after = interpreter.run(program, observation, before)
        states.append(after)
        return action.astype(np.float32)

    return step


def fixed_step(program: FixedProgram) -> Step:
    """The fixed program as a step callable, from a reset."""
    states: list[tuple[npt.NDArray[np.int32], ...]] = []

    def step(observation: Singles) -> Singles:
        before = states.pop() if states else quantisation.reset(program, (len(observation),))
        action, after = quantisation.run(program, observation, before)
        states.append(after)
        return action

    return step


def difference(program: Program, fixed: FixedProgram, sequences: Singles) -> Singles:
    """The largest difference of an action at each step of sequences [T, B, n], [T]."""
    ours, theirs = fixed_step(fixed), float_step(program)
    return np.array([np.abs(ours(seen) - theirs(seen)).max() for seen in sequences])
