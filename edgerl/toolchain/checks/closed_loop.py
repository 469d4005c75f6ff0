"""Closed loop: fly a suite with the compiled program, on the host twin or an emulated core."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt

from edgerl.errors import UserError
from edgerl.policies.plants import (
    Feedback,
    Hover,
    Outcomes,
    Suite,
    SuiteResult,
    fly,
    paired,
    rollout,
)
from edgerl.policies.spec import PolicySpec
from edgerl.toolchain.build.run import Mode
from edgerl.toolchain.emulators.runner import BatchRunner, Runner
from edgerl.toolchain.report.model import ClosedLoop

Floats = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Flown:
    """A suite flown: what is reported, and how each vehicle did where the suite draws any."""

    report: ClosedLoop
    outcomes: Outcomes | None


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
) -> Flown:
    """Fly `suite` with `runner` in the loop."""
    result = fly(
        suite, stepper(runner, mode), feedback=feedback, episodes=episodes, progress=progress
    )
    report = as_report(result, f"{runner.name}, _{mode}, {feedback} feedback")
    return Flown(report, result.outcomes)


def as_report(result: SuiteResult, on: str) -> ClosedLoop:
    """A suite's scores in the report's form."""
    rows = asdict(replace(result, outcomes=None))
    del rows["outcomes"]
    return ClosedLoop(on=on, **rows)


def beside(flown: Flown, floats: Flown) -> ClosedLoop:
    """What `flown` reports, with how it differs, flight by flight, from the same program in
    floats on the same vehicles."""
    if flown.outcomes is None or floats.outcomes is None:
        return flown.report
    return replace(flown.report, against_floats=paired(flown.outcomes, floats.outcomes))


def same_flights(
    suite: Suite,
    one: BatchRunner,
    other: Runner,
    flights: int,
    progress: Progress | None = None,
) -> bool:
    """Whether `flights` vehicles fly the same on both runners, with the guarded step and clamped
    feedback: every bit of every state.

    Where `other` holds one controller alone, it answers what the vehicles observed under `one`,
    flight by flight, and every bit of every action must be the same; then so would its flights.
    Raises UserError when the suite draws no vehicles.
    """
    if not isinstance(suite, Hover):
        raise UserError(f"suite {suite.name!r} draws no vehicles to compare")
    quads, start = suite.draw(flights)

    def flown(step: Callable[[Floats], Floats]) -> str:
        flight = rollout(
            quads,
            start,
            step,
            steps=suite.steps,
            feedback="clamped",
            limits=suite.limits,
            record=flights,
            progress=progress,
        )
        return flight.digest()

    if isinstance(other, BatchRunner):
        return flown(stepper(one, "step")) == flown(stepper(other, "step"))
    step = stepper(one, "step")
    seen: list[Floats] = []
    done: list[Floats] = []

    def recorded(observations: Floats) -> Floats:
        seen.append(observations)
        done.append(step(observations))
        return done[-1]

    flown(recorded)
    # By flight, then by step: one trace with a reset before each flight.
    observed, believed = (np.swapaxes(np.array(rows), 0, 1) for rows in (seen, done))
    resets = np.tile(np.arange(observed.shape[1]) == 0, flights)
    actions = other.trace(observed.reshape(-1, observed.shape[2]), resets).actions
    return actions.tobytes() == believed.tobytes()
