"""Calibration: how large each tensor of a float Program gets on given observations."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgerl.errors import UserError
from edgerl.policies.spec import PolicySpec
from edgerl.toolchain import interpreter
from edgerl.toolchain.ir import Program, writes

Doubles = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Sizes = dict[str, Doubles]
Calibration = npt.ArrayLike | tuple[npt.ArrayLike, ...]

FEWEST_SAMPLES = 128
_BATCH = 4096


def largest(program: Program, calibration: Calibration, spec: PolicySpec | None = None) -> Sizes:
    """The largest magnitude of every element of every tensor over a calibration, [size] each.

    A recording is [T, n], one sequence from a reset, or [T, B, n], B of them; a tuple holds
    several recordings. They go through `interpreter.run` in batches. `spec` names the
    observation's signals.

    Raises UserError for a wrong shape, fewer than 128 samples, values that are not finite, and
    a signal that never changes.
    """
    recordings = calibration if isinstance(calibration, tuple) else (calibration,)
    sequences = [_checked(program, recording) for recording in recordings]
    samples = sum(recording[..., 0].size for recording in sequences)
    if samples < FEWEST_SAMPLES:
        raise UserError(
            f"calibration: {samples} samples are too few to tell ranges from; give "
            f"{FEWEST_SAMPLES} or more"
        )
    for name, part in signals(program, spec):
        first = sequences[0][0, 0, part]
        if all((recording[..., part] == first).all() for recording in sequences):
            raise UserError(
                f"calibration: signal {name!r} never changes, which says nothing about its "
                "range; calibrate with observations in which it does"
            )
    sizes: Sizes = {name: np.zeros(tensor.size) for name, tensor in program.tensors.items()}
    for recording in sequences:
        # Without a state every step may as well be a sequence of its own.
        flat = recording if program.states else recording.reshape(1, -1, recording.shape[-1])
        for start in range(0, flat.shape[1], _BATCH):
            _raise(sizes, program, flat[:, start : start + _BATCH])
    for name, size in sizes.items():
        if not np.isfinite(size).all():
            raise UserError(f"calibration: tensor {name!r} becomes infinite or NaN on it")
    return sizes


def signals(program: Program, spec: PolicySpec | None) -> list[tuple[str, slice]]:
    """Name and place of each signal of the observation; one for all without a spec."""
    if spec is None:
        return [(program.observation, slice(0, program.size(program.observation)))]
    ends = np.cumsum([signal.size for signal in spec.observation]).tolist()
    starts = [0, *ends]
    return [(s.name, slice(a, b)) for s, a, b in zip(spec.observation, starts, ends, strict=False)]


def _checked(program: Program, observations: npt.ArrayLike) -> Singles:
    """A recording as [T, B, n]."""
    try:
        values = np.asarray(observations, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise UserError("calibration: not an array of numbers; give float observations") from error
    n = program.size(program.observation)
    if values.ndim not in (2, 3) or values.shape[-1] != n:
        raise UserError(
            f"calibration: its shape is {list(values.shape)}; program {program.name} needs "
            f"[steps, {n}] or [steps, sequences, {n}]"
        )
    values = values[:, np.newaxis] if values.ndim == 2 else values
    if not np.isfinite(values).all():
        step, sequence, element = np.argwhere(~np.isfinite(values))[0].tolist()
        raise UserError(
            f"calibration: element {element} of step {step}, sequence {sequence} is "
            f"{values[step, sequence, element]}; leave out what is not finite"
        )
    return values


def _raise(sizes: Sizes, program: Program, sequences: Singles) -> None:
    """Raise `sizes` to what sequences [T, B, n] from a reset reach."""
    written = [name for operation in program.operations for name in writes(operation)]
    # Every tensor that is written leaves as one more next state; nothing reads what it replaces.
    unread = [np.zeros(1)] * len(written)
    watched = replace(
        program, states=(*program.states, *((f"{name} before", name) for name in written))
    )
    states = interpreter.reset(program, (sequences.shape[1],))
    for observation in sequences:
        _, after = interpreter.run(watched, observation, (*states, *unread))
        states = after[: len(states)]
        values = [(program.observation, observation)]
        values += zip(written, after[len(states) :], strict=True)
        for name, value in values:
            size = np.abs(value).max(axis=0, initial=0.0)
            sizes[name] = np.maximum(sizes[name], size)
