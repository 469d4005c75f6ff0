"""Closed loop: fly a suite with the compiled program, on the host twin or an emulated core."""

from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import numpy.typing as npt

from edgerl.errors import UserError
from edgerl.policies.plants import Feedback, Hover, Suite, SuiteResult, fly, rollout
from edgerl.policies.spec import PolicySpec
from edgerl.toolchain.build.run import Mode
from edgerl.toolchain.emulators.runner import BatchRunner
from edgerl.toolchain.report.model import ClosedLoop

Floats = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]

_Signals = tuple[tuple[str, int], ...]
_OBSERVATION: _Signals = (
    ("position_error", 3),
    ("rotation_matrix", 9),
    ("linear_velocity", 3),
    ("angular_velocity", 3),
    ("previous_action", 4),
)
_ACTION: _Signals = (("motor", 4),)


def suite_for(spec: PolicySpec) -> Suite | None:
    """The suite that a policy with these signals can be flown in, or None where none fits."""
    return Hover() if _signals(spec) == (_OBSERVATION, _ACTION) else None


def require_suited(spec: PolicySpec, suite: Suite) -> None:
    """UserError, naming the signals, when a policy with `spec` cannot fly `suite`."""
    signals = zip(("observation", "action"), _signals(spec), (_OBSERVATION, _ACTION), strict=True)
    for kind, has, needs in signals:
        if has != needs:
            raise UserError(
                f"policy {spec.name} cannot fly suite {suite.name}: its {kind} is {_listed(has)}; "
                f"the plant {suite.plant} has {_listed(needs)}"
            )


def _signals(spec: PolicySpec) -> tuple[_Signals, _Signals]:
    observation = tuple((s.name, s.size) for s in spec.observation)
    return observation, tuple((s.name, s.size) for s in spec.action)


def _listed(signals: _Signals) -> str:
    return ", ".join(f"{name} ({size})" for name, size in signals)


def stepper(runner: BatchRunner, mode: Mode) -> Callable[[Floats], Floats]:
    """A step callable over as many controllers as its first call has rows, from reset."""
    states: list[npt.NDArray[np.uint8]] = []

    def step(observations: Floats) -> Floats:
        before = states.pop() if states else runner.reset_states(len(observations))
        run = runner.many(before, observations, mode)
        assert run.states is not None
        states.append(run.states)
        return run.actions

    return step


def closed_loop(
    suite: Suite,
    runner: BatchRunner,
    mode: Mode,
    feedback: Feedback,
    episodes: int | None = None,
    progress: Progress | None = None,
) -> ClosedLoop:
    """Fly `suite` with `runner` in the loop."""
    result = fly(
        suite, stepper(runner, mode), feedback=feedback, episodes=episodes, progress=progress
    )
    return as_report(result, f"{runner.name}, _{mode}, {feedback} feedback")


def as_report(result: SuiteResult, on: str) -> ClosedLoop:
    """A suite's scores in the report's form."""
    return ClosedLoop(on=on, **asdict(result))


def same_flights(
    suite: Suite,
    one: BatchRunner,
    other: BatchRunner,
    flights: int,
    progress: Progress | None = None,
) -> bool:
    """Whether `flights` vehicles fly the same on both runners: every bit of every state, with
    the guarded step and clamped feedback.

    Raises UserError when the suite draws no vehicles.
    """
    if not isinstance(suite, Hover):
        raise UserError(f"suite {suite.name!r} draws no vehicles to compare")
    quads, start = suite.draw(flights)
    digests = {
        rollout(
            quads,
            start,
            stepper(runner, "step"),
            steps=suite.steps,
            feedback="clamped",
            limits=suite.limits,
            record=flights,
            progress=progress,
        ).digest()
        for runner in (one, other)
    }
    return len(digests) == 1
