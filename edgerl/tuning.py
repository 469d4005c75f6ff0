"""Tuning: a policy fine-tuned for an integer format, saved as the `.onnx` file that it is."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.errors import UserError
from edgerl.policies import load
from edgerl.policies.plants import Hover, rollout
from edgerl.policies.spec import PolicySpec
from edgerl.stages import Silence, Watcher, watched
from edgerl.toolchain.checks.closed_loop import suite_for
from edgerl.toolchain.lowering import lower
from edgerl.toolchain.quantisation.fine_tuning import FineTuning, Flights, Step, fine_tune
from edgerl.toolchain.quantisation.sources import calibration_for

Singles = npt.NDArray[np.float32]

_EPISODES = 256
# Beside the seeds of calibration and far below those of reports and searches.
_FIRST_SEED = 100


@dataclass(frozen=True)
class Tuned:
    """What tuning made: the file, its format, and the loss of the first and last lessons."""

    path: Path
    sha256: str
    format: str
    steps: int
    loss_before: float
    loss_after: float

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "path": str(self.path)}


def tune(
    source: str,
    number_format: str,
    output: Path,
    *,
    spec: Path | None = None,
    calibration: Path | None = None,
    settings: FineTuning | None = None,
    watcher: Watcher | None = None,
) -> Tuned:
    """Fine-tune the policy in `source` so that it acts in `number_format` as it does in floats,
    and save it, its integers included, as `output`.

    It learns on `calibration`, a .npy of observations, and where its plant is known on flights of
    its own. Raises UserError for a policy or format that cannot be tuned, and without torch.
    """
    watcher = watcher or Silence()
    if output.suffix.lower() != ".onnx":
        raise UserError(f"{output}: a policy's file ends in .onnx")
    with watched(watcher, "load"):
        policy = load(source, spec)
    with watched(watcher, "calibrate") as advance:
        seen = calibration_for(policy, lower(policy), calibration, progress=advance)
    for line in seen.remarks:
        watcher.say(line)
    with watched(watcher, "tune") as advance:
        made = fine_tune(
            policy,
            seen,
            number_format,
            flights=_flights(policy.spec),
            settings=settings,
            progress=lambda done, total, _: advance(done, total),
        )
    try:
        made.policy.save(output)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror})") from error
    tenth = max(1, len(made.losses) // 10)
    return Tuned(
        path=output,
        sha256=made.policy.sha256(),
        format=number_format,
        steps=len(made.losses),
        loss_before=float(np.mean(made.losses[:tenth])),
        loss_after=float(np.mean(made.losses[-tenth:])),
    )


def _flights(spec: PolicySpec) -> Flights | None:
    """Flights of a step in the policy's plant, where that is known: new vehicles each time."""
    suite = suite_for(spec)
    if not isinstance(suite, Hover):
        return None
    hover, flown = suite, 0

    def fly(step: Step) -> Singles:
        nonlocal flown
        seen: list[Singles] = []

        def watched_step(observation: Singles) -> Singles:
            seen.append(observation.copy())
            return step(observation)

        quads, start = replace(hover, first_seed=_FIRST_SEED + flown).draw(_EPISODES)
        flown += 1
        rollout(
            quads,
            start,
            watched_step,
            steps=hover.steps,
            feedback="raw" if spec.feedback == "raw" else "clamped",
            limits=hover.limits,
        )
        return np.stack(seen)

    return fly
