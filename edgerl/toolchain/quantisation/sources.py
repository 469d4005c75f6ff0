"""Sources: where the observations come from that a policy is calibrated on.

Always the golden trace, which the compiled program is later held to. Beside it the user's own
recording where there is one; else, where the policy's plant is known, flights of the float policy
in it, from seeds that no report uses.
"""

import struct
import tokenize
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgerl.errors import UserError
from edgerl.policies import Policy
from edgerl.policies.plants import Hover, rollout
from edgerl.policies.spec import PolicySpec
from edgerl.toolchain import golden, interpreter
from edgerl.toolchain.checks.closed_loop import suite_for
from edgerl.toolchain.ir import Program
from edgerl.toolchain.quantisation.calibration import (
    FEWEST_SAMPLES,
    Calibration,
    checked,
    constant_signals,
    sequences,
)
from edgerl.toolchain.quantisation.limiting import Method

Singles = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]

EPISODES = 256
# Far below the seeds of reports and, by fewer cohorts than there are, below those of searches.
_FIRST_SEED = 0
_MOST_BYTES = 1 << 31
# What reading a header of a .npy file raises, which is a Python literal.
_NO_ARRAY = (
    ValueError, TypeError, EOFError, SyntaxError, MemoryError, OverflowError, RecursionError,
    struct.error, tokenize.TokenError,
)  # fmt: skip


def calibration_for(
    policy: Policy,
    program: Program,
    source: Path | None = None,
    *,
    method: Method = "minmax",
    percentile: float = 99.99,
    episodes: int = EPISODES,
    progress: Progress | None = None,
) -> Calibration:
    """What `program`, lowered from `policy`, is calibrated on; the same every time.

    `source` is a .npy file of observations, [T, n], one sequence from a reset, or [T, B, n], B of
    them. Without it a policy that fits the plant of a suite flies `episodes` vehicles of it;
    `progress` is called as (steps done, steps).

    Raises UserError, naming the file, for one that cannot be read or is not of this shape, and as
    `calibration.checked` does.
    """
    recordings: list[npt.ArrayLike] = list(golden_sequences(policy))
    remarks: tuple[str, ...] = ()
    if source is not None:
        recording = recorded(program, source)
        samples = recording[..., 0].size
        if samples < FEWEST_SAMPLES:
            raise UserError(
                f"{source}: {samples} samples are too few to tell ranges from; give "
                f"{FEWEST_SAMPLES} or more"
            )
        recordings.append(recording)
        remarks = _still(program, recording, policy.spec, source)
    elif isinstance(suite_for(policy.spec), Hover):
        recordings.append(flown(program, policy.spec, episodes, progress))
    given = Calibration(tuple(recordings), method, percentile, remarks)
    return checked(program, given, policy.spec)


def golden_sequences(policy: Policy) -> tuple[Singles, ...]:
    """The golden trace of the bare network, cut at its resets."""
    observations, resets = golden.inputs(policy, "evaluate")
    starts = np.flatnonzero(resets).tolist()
    return tuple(observations[a:b] for a, b in zip(starts, [*starts[1:], None], strict=True))


def flown(
    program: Program, spec: PolicySpec, episodes: int = EPISODES, progress: Progress | None = None
) -> Singles:
    """The observations [T, B, n] of the float policy hovering `episodes` vehicles."""
    suite = replace(Hover(), first_seed=_FIRST_SEED)
    seen: list[Singles] = []
    states = list(interpreter.reset(program, (episodes,)))

    def step(observation: Singles) -> Singles:
        seen.append(observation)
        action, states[:] = interpreter.run(program, observation, states)
        return action.astype(np.float32)

    quads, start = suite.draw(episodes)
    rollout(
        quads,
        start,
        step,
        steps=suite.steps,
        feedback="raw" if spec.feedback == "raw" else "clamped",
        limits=suite.limits,
        progress=progress,
    )
    return np.stack(seen)


def recorded(program: Program, source: Path) -> Singles:
    """A .npy file's observations as [T, B, n].

    Raises UserError, naming the file, when it cannot be read, is no .npy file of numbers, is of
    another shape, or has values that are not finite.
    """
    where = f"{source}"
    try:
        size = source.stat().st_size
        if not source.is_file():
            raise UserError(f"{where}: not a file; give observations in a .npy file")
        if size > _MOST_BYTES:
            raise UserError(f"{where}: {size >> 20} MiB; observations of 2 GiB at most are read")
        values = np.load(source, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror or error})") from error
    except _NO_ARRAY as error:
        raise UserError(
            f"{where}: not a .npy file of numbers; write one with numpy.save(path, observations)"
        ) from error
    if not isinstance(values, np.ndarray):
        values.close()
        raise UserError(f"{where}: an archive of arrays; give one array, as numpy.save writes it")
    if values.dtype.kind not in "fiu":
        raise UserError(f"{where}: has elements of type {values.dtype}; give float observations")
    return sequences(program, values, where)


def _still(program: Program, recording: Singles, spec: PolicySpec, source: Path) -> tuple[str, ...]:
    """Remarks about signals that never change in a user's recording."""
    return tuple(
        f"{source}: signal {spec.observation[number].name!r} never changes in it; its range is "
        "that of the golden trace"
        for number in constant_signals(program, (recording,), spec)
    )
