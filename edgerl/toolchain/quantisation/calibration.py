"""Calibration: between which values each tensor of a float Program lies on given observations.

`minmax` takes what was reached, `percentile` and `mse` less of it (`limiting.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgerl.errors import UserError, suggestion
from edgerl.policies.spec import PolicySpec, Signal
from edgerl.policies.vocabulary import FREE_SIGNAL
from edgerl.toolchain.ir import Program
from edgerl.toolchain.quantisation.limiting import (
    METHODS,
    Doubles,
    Extent,
    Extents,
    Limits,
    Method,
    limited,
)
from edgerl.toolchain.quantisation.watching import Singles, watched

Sizes = dict[str, Doubles]

FEWEST_SAMPLES = 128
_CHECKED_STEPS = 4096
# A largest value so many times what 99.9 % stay below is worth a remark.
_OUTLYING = 8.0


@dataclass(frozen=True)
class Calibration:
    """Observations that a policy is calibrated on, and how ranges are told from them.

    Each recording is [T, n], one sequence from a reset, or [T, B, n], B of them. `percentile` is
    that of the method of this name. `remarks` are what a user should know of it.
    """

    recordings: tuple[npt.ArrayLike, ...]
    method: Method = "minmax"
    percentile: float = 99.99
    remarks: tuple[str, ...] = ()


Recordings = Calibration | npt.ArrayLike | tuple[npt.ArrayLike, ...]


def calibration_of(given: Recordings) -> Calibration:
    """What was given as a Calibration: one recording, a tuple of them, or one already."""
    if isinstance(given, Calibration):
        return given
    return Calibration(given if isinstance(given, tuple) else (given,))


def extents(
    program: Program,
    given: Recordings,
    spec: PolicySpec | None = None,
    *,
    bits: int = 16,
    see: Callable[[dict[str, Doubles]], None] | None = None,
) -> Extents:
    """The extent of every tensor over a calibration, for integers of `bits` bits.

    The recordings go through `interpreter.run` in batches. `spec` names the observation's
    signals; one that never changes has the range that the spec gives it. `see` is called with
    every step's tensors, some thousand rows [rows, size] at a time, in the same pass.

    Raises UserError as `checked` does, and where a tensor becomes infinite or NaN.
    """
    calibration = checked(program, given, spec)
    recordings = _singles(calibration)
    reached = _reached(program, recordings, see)
    if calibration.method != "minmax":
        limits = Limits(calibration.method, calibration.percentile, bits)
        reached = limited(watched(program, recordings), reached, limits)
        for before, after in program.states:
            reached[before] = reached[after] = reached[before].joined(reached[after])
    observed = reached[program.observation]
    for part, signal in _never_changing(program, recordings, spec):
        observed.low[part], observed.high[part] = signal.range
    return reached


def largest(program: Program, given: Recordings, spec: PolicySpec | None = None) -> Sizes:
    """The largest magnitude of every element of every tensor, [size] each (see `extents`)."""
    return {name: extent.size for name, extent in extents(program, given, spec).items()}


def checked(program: Program, given: Recordings, spec: PolicySpec | None = None) -> Calibration:
    """The calibration with every recording as [T, B, n] float32, and with its remarks.

    Raises UserError for an unknown method, a percentile that is none, a wrong shape, fewer than
    128 samples, values that are not finite, and a signal that never changes and whose range the
    spec does not give.
    """
    calibration = calibration_of(given)
    if calibration.method not in METHODS:
        raise UserError(
            f"calibration: method {str(calibration.method)[:60]!r} is unknown; "
            f"{suggestion(str(calibration.method), METHODS)}"
        )
    if not 50.0 < calibration.percentile <= 100.0:
        raise UserError(
            f"calibration: percentile {calibration.percentile:g} is not above 50 and at most 100"
        )
    recordings = tuple(sequences(program, r) for r in calibration.recordings)
    samples = sum(recording[..., 0].size for recording in recordings)
    if samples < FEWEST_SAMPLES:
        raise UserError(
            f"calibration: {samples} samples are too few to tell ranges from; give "
            f"{FEWEST_SAMPLES} or more"
        )
    whole = replace(calibration, recordings=recordings)
    remarks = list(calibration.remarks)
    for _, signal in _never_changing(program, recordings, spec):
        low, high = signal.range
        remarks.append(
            f"calibration: signal {signal.name!r} never changes; its scale is that of its range "
            f"in the spec, [{low:g}, {high:g}], and layers know it only as it was"
        )
    for name, part in signals(program, spec):
        remarks += _outlying(name, [recording[..., part] for recording in recordings])
    return replace(whole, remarks=tuple(dict.fromkeys(remarks)))


def signals(program: Program, spec: PolicySpec | None) -> list[tuple[str, slice]]:
    """Name and place of each signal of the observation; one for all without a spec."""
    if spec is None:
        return [(program.observation, slice(0, program.size(program.observation)))]
    ends = np.cumsum([signal.size for signal in spec.observation]).tolist()
    starts = [0, *ends]
    return [(s.name, slice(a, b)) for s, a, b in zip(spec.observation, starts, ends, strict=False)]


def sequences(program: Program, observations: npt.ArrayLike, where: str = "calibration") -> Singles:
    """A recording as [T, B, n] float32. Raises UserError, beginning with `where`, for what is no
    array of finite numbers of such a shape."""
    try:
        values = np.asarray(observations, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: not an array of numbers; give float observations") from error
    n = program.size(program.observation)
    if values.ndim not in (2, 3) or values.shape[-1] != n:
        raise UserError(
            f"{where}: its shape is {list(values.shape)}; program {program.name} needs "
            f"[steps, {n}] or [steps, sequences, {n}]"
        )
    values = values[:, np.newaxis] if values.ndim == 2 else values
    for start in range(0, len(values), _CHECKED_STEPS):
        part = values[start : start + _CHECKED_STEPS]
        if not np.isfinite(part).all():
            step, sequence, element = np.argwhere(~np.isfinite(part))[0].tolist()
            raise UserError(
                f"{where}: element {element} of step {start + step}, sequence {sequence} is "
                f"{part[step, sequence, element]}; leave out what is not finite"
            )
    return values


def constant_signals(
    program: Program, recordings: tuple[Singles, ...], spec: PolicySpec | None
) -> list[int]:
    """Numbers of the signals that have one value in all [T, B, n] recordings, element by
    element."""
    present = [recording for recording in recordings if recording[..., 0].size]
    if not present:
        return []
    first = present[0][0, 0]
    still = np.logical_and.reduce([(r == first).all(axis=(0, 1)) for r in present])
    return [k for k, (_, part) in enumerate(signals(program, spec)) if still[part].all()]


def _never_changing(
    program: Program, recordings: tuple[Singles, ...], spec: PolicySpec | None
) -> list[tuple[slice, Signal]]:
    """Place and signal of what never changes; UserError where no spec gives its range."""
    found = []
    for number in constant_signals(program, recordings, spec):
        name, part = signals(program, spec)[number]
        signal = None if spec is None else spec.observation[number]
        if signal is None or max(map(abs, signal.range)) >= FREE_SIGNAL.range[1]:
            raise UserError(
                f"calibration: signal {name!r} never changes, which says nothing about its "
                "range; calibrate with observations in which it does, or give its range in a spec"
            )
        found.append((part, signal))
    return found


def _outlying(name: str, parts: list[Singles]) -> list[str]:
    values = np.concatenate([np.abs(part).reshape(-1) for part in parts])
    usual, most = float(np.quantile(values, 0.999)), float(values.max())
    if not 0.0 < usual * _OUTLYING < most:
        return []
    return [
        f"calibration: signal {name!r} reaches {most:.3g}, and 99.9 % of it stays below "
        f"{usual:.3g}; if that is a fault, leave it out, or take the method percentile or mse"
    ]


def _reached(
    program: Program,
    recordings: tuple[Singles, ...],
    see: Callable[[dict[str, Doubles]], None] | None,
) -> Extents:
    found: Extents = {}
    for tensors in watched(program, recordings):
        if see is not None:
            see(tensors)
        for name, value in tensors.items():
            reached = Extent(value.min(axis=0), value.max(axis=0))
            found[name] = found[name].joined(reached) if name in found else reached
    for before, after in program.states:
        # The last step of all writes what none reads any more.
        found[before] = found[after] = found[before].joined(found[after])
    for name, extent in found.items():
        if not (np.isfinite(extent.low).all() and np.isfinite(extent.high).all()):
            raise UserError(f"calibration: tensor {name!r} becomes infinite or NaN on it")
    return found


def _singles(calibration: Calibration) -> tuple[Singles, ...]:
    return tuple(np.asarray(recording, np.float32) for recording in calibration.recordings)
