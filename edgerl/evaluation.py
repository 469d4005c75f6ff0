"""Evaluation: fly a policy, or what a compile made of it, through a closed-loop suite."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgerl.errors import UserError, suggestion
from edgerl.policies import FAMILIES, load
from edgerl.policies.plants import Feedback, FigureEight, Hover, Suite, suite_named
from edgerl.stages import Silence, Watcher, watched
from edgerl.toolchain.artifact import read_artifact
from edgerl.toolchain.build import HostTwin, Mode, build_host
from edgerl.toolchain.checks.closed_loop import closed_loop, require_suited
from edgerl.toolchain.checks.limits import at_least, at_most
from edgerl.toolchain.compiling import host_twin, temporary_folder
from edgerl.toolchain.emit import emit
from edgerl.toolchain.lowering import lower
from edgerl.toolchain.report.model import ClosedLoop, Limit

_HOVER = ("survival", "mean_length", *(f"final_error_{s}" for s in ("mean", "median", "p95")))
# The more the better; every other score is an error.
_RISING = ("survival", "mean_length")


@dataclass(frozen=True)
class Evaluation:
    """A policy's scores in one suite, and the limits they were held to."""

    policy: str
    flown: ClosedLoop
    limits: tuple[Limit, ...]

    @property
    def ok(self) -> bool:
        """True when every limit held."""
        return all(limit.held for limit in self.limits)

    def to_json(self) -> dict[str, Any]:
        """As plain data, without what is only there to be drawn."""
        flown = asdict(self.flown)
        for drawn in ("paths", "error_over_time", "dt"):
            del flown[drawn]
        limits = [asdict(limit) for limit in self.limits]
        return {"schema": 1, "ok": self.ok, "policy": self.policy, **flown, "limits": limits}


def evaluate(
    source: str | Path,
    suite: str,
    *,
    spec: str | Path | None = None,
    episodes: int | None = None,
    feedback: Feedback = "clamped",
    limits: Mapping[str, float] | None = None,
    watcher: Watcher | None = None,
) -> Evaluation:
    """Fly the code of `source` on this machine, with the reporting seeds.

    An artifact's folder flies as its host twin, which has the firmware's bits; a policy (a
    family's name or a file, `spec` as in `edgerl.load`) flies as portable C built for this once.
    With `raw` feedback the bare network flies and its own output comes back; with `clamped` the
    guarded step does. `limits` bounds scores: those that should be high from below, errors from
    above; one that could not be had is a miss.

    Raises UserError when the source is none, does not fit the suite, or a limit names no score;
    ToolError when no compiler is installed.
    """
    watcher = watcher or Silence()
    course, bounds = suite_named(suite), dict(limits or {})
    for name in bounds:
        _require_score(name, course)
    mode: Mode = "evaluate" if feedback == "raw" else "step"
    with (
        _twin(source, spec, course, watcher) as (name, twin),
        watched(watcher, f"fly {course.name}") as advance,
    ):
        flown = closed_loop(course, twin, mode, feedback, episodes, advance).report
    held = (
        (at_least if score in _RISING else at_most)(score, flown.metrics.get(score), bound)
        for score, bound in bounds.items()
    )
    return Evaluation(name, flown, tuple(held))


def scores(suite: Suite) -> tuple[str, ...]:
    """Names of the scores of a suite."""
    match suite:
        case Hover():
            return _HOVER
        case FigureEight():
            return ("survival", *(f"rmse_{v}_{lap_time:g}s" for v, lap_time in suite.flights))


def _require_score(name: str, suite: Suite) -> None:
    known = scores(suite)
    if name not in known:
        raise UserError(
            f"limit {name[:60]!r} is no score of suite {suite.name}; {suggestion(name, known)}"
        )


@contextmanager
def _twin(
    source: str | Path, spec: str | Path | None, suite: Suite, watcher: Watcher
) -> Iterator[tuple[str, HostTwin]]:
    """Name and host twin of an artifact or policy that fits `suite`."""
    with temporary_folder() as folder:
        if str(source) not in FAMILIES and Path(source).is_dir():
            if spec is not None:
                raise UserError(f"{source}: an artifact brings its own spec; leave out the other")
            artifact = read_artifact(Path(source))
            require_suited(artifact.manifest.spec, suite)
            with watched(watcher, "build"):
                twin = build_host(artifact.source, artifact.name, folder)
            yield artifact.name, twin
            return
        policy = load(source, spec)
        require_suited(policy.spec, suite)
        with watched(watcher, "build"):
            package = emit(policy, lower(policy), fused=False, assembly="")
            twin = host_twin(package, folder)
        yield policy.name, twin
