"""Selection: of several ways to quantise a program, the one whose actions a calibration favours.

Two choices cannot be told from one layer alone. A finer activation table is worth its bytes only
where weights and vectors do not err more than it does; and how far a vector should be narrowed for
few-bit weights depends on what those weights come to. Both are made by what they are for: the
action's error on a part of the calibration.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from edgerl.policies.spec import PolicySpec
from edgerl.toolchain import interpreter
from edgerl.toolchain.ir import Program
from edgerl.toolchain.quantisation import interpretation
from edgerl.toolchain.quantisation.calibration import Recordings, checked
from edgerl.toolchain.quantisation.interpretation import Singles
from edgerl.toolchain.quantisation.program import Doubles, FixedProgram

# Of the action's range: an error that a finer table is not tried for.
CLOSE = 5e-4
# A table counts as no worse than the best up to so many times its error, and as no cause of an
# error that is so many times its own.
_NO_WORSE, _NO_CAUSE = 1.25, 8.0
_STEPS, _SEQUENCES = 256, 64


@dataclass(frozen=True)
class Trial:
    """Sequences [T, B, n], each from a reset, the float program's actions on each [T, B, m], and
    the range of an action's elements [m], from its middle."""

    sequences: tuple[Singles, ...]
    actions: tuple[Doubles, ...]
    reach: Doubles

    def errors(self, fixed: FixedProgram) -> Doubles:
        """How far the actions of a fixed program are from the float one's, in their range."""
        off = [
            np.abs(_fixed_actions(fixed, seen) - wanted).reshape(-1, len(self.reach))
            for seen, wanted in zip(self.sequences, self.actions, strict=True)
        ]
        return np.concatenate(off) / self.reach


def trial(program: Program, given: Recordings, spec: PolicySpec | None) -> Trial:
    """A part of a calibration to try fixed programs on."""
    sequences = []
    for recording in checked(program, given, spec).recordings:
        whole = np.asarray(recording, np.float32)
        if not program.states:
            whole = whole.reshape(1, -1, whole.shape[-1])
        most = _SEQUENCES if program.states else _SEQUENCES * _STEPS
        sequences.append(whole[:_STEPS, :: max(1, whole.shape[1] // most)][:, :most])
    actions = tuple(_float_actions(program, seen) for seen in sequences)
    if spec is None:
        every = np.concatenate([a.reshape(-1, a.shape[-1]) for a in actions])
        reach = np.abs(every).max(axis=0)
    else:
        ends = [(s.range, s.size) for s in spec.action]
        reach = np.concatenate([np.full(n, 0.5 * (high - low)) for (low, high), n in ends])
    return Trial(tuple(sequences), actions, np.where(reach > 0.0, reach, 1.0))


def smallest_table(
    make: Callable[[int], FixedProgram], index_bits: Iterable[int], on: Trial
) -> FixedProgram:
    """What `make` gives for the first of the rising `index_bits` that keeps the action within
    `CLOSE` of its range, or else for the first that is hardly worse than the best. None is tried
    beyond a table that is no cause of the action's error."""
    made: list[tuple[float, FixedProgram]] = []
    for bits in index_bits:
        fixed = make(bits)
        error = float(on.errors(fixed).max())
        made.append((error, fixed))
        if error <= CLOSE:
            return fixed
        if error * on.reach.max() > _NO_CAUSE * fixed.table.error:
            break
    least = min(error for error, _ in made)
    return next(fixed for error, fixed in made if error <= _NO_WORSE * least)


def closest(made: Iterable[FixedProgram], on: Trial) -> FixedProgram:
    """The program whose actions have the least mean squared error."""
    return min(made, key=lambda fixed: float((on.errors(fixed) ** 2).mean()))


def _float_actions(program: Program, sequences: Singles) -> Doubles:
    states = interpreter.reset(program, (sequences.shape[1],))
    actions = []
    for observation in sequences:
        action, states = interpreter.run(program, observation, states)
        actions.append(action)
    return np.stack(actions)


def _fixed_actions(fixed: FixedProgram, sequences: Singles) -> Doubles:
    states = interpretation.reset(fixed, (sequences.shape[1],))
    actions = []
    for observation in sequences:
        action, states = interpretation.run(fixed, observation, states)
        actions.append(action.astype(np.float64))
    return np.stack(actions)
