"""Fine-tuning: weights trained through their rounding, to act as the float policy does.

A quantised program is the student, the float program its teacher. In every step the student's
weights are those that its integers multiply like (`rescaling.py`), rounded anew from the real
ones that are trained; their gradient is passed on to those as if nothing was rounded (the
straight-through estimator, arXiv:1308.3432). Scales stay where the quantiser put them, and rows
that grew beyond what is proved are brought back, so that what comes out is the integer program
that was trained, with the proof that it cannot overflow. The loss is the mean square difference
of the actions on recorded sequences, gradients cut between segments; recordings that the student
itself flew are added as it learns (DAgger, arXiv:1011.0686), for there its errors feed back.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.policies.policy import Policy
from edgerl.toolchain import interpreter
from edgerl.toolchain.ir import Program
from edgerl.toolchain.lowering import lower
from edgerl.toolchain.quantisation.calibration import Recordings, checked
from edgerl.toolchain.quantisation.conversion import quantise
from edgerl.toolchain.quantisation.differentiable import (
    Differentiable,
    Reading,
    torch_library,
    weights_of,
    with_weights_of,
)
from edgerl.toolchain.quantisation.formats import DEFAULT
from edgerl.toolchain.quantisation.interpretation import reset, run
from edgerl.toolchain.quantisation.program import WIDTH, FixedDense, FixedInput, FixedProgram
from edgerl.toolchain.quantisation.rescaling import (
    effective,
    proved_with_weights,
    with_weights,
)
from edgerl.toolchain.quantisation.rewriting import prepared
from edgerl.toolchain.quantisation.trained import with_integers
from edgerl.toolchain.raising import raised

Singles = npt.NDArray[np.float32]
Step = Callable[[Singles], Singles]
# Given a step, observations [T, B, n] of flights with it, each of B from a reset.
Flights = Callable[[Step], Singles]
# Called with optimiser steps done and in all, and the loss of the last one.
Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class FineTuning:
    """How to fine-tune: `rounds`, each over all recordings so far in `passes` and one more flight
    of the student's, in segments of `segment` steps of `sequences` sequences at a time, with Adam
    at `rate` (in units of a weight's own scale: relative to the spread of its matrix), which
    falls to nothing along a cosine."""

    rounds: int = 8
    passes: int = 2
    segment: int = 50
    sequences: int = 128
    rate: float = 5e-3
    seed: int = 0


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuned policy, its integers, and the loss (mean square difference of actions) of each
    optimiser step."""

    policy: Policy
    fixed: FixedProgram
    losses: tuple[float, ...]


def fine_tune(
    policy: Policy,
    calibration: Recordings,
    number_format: str | Mapping[str, str],
    *,
    flights: Flights | None = None,
    settings: FineTuning | None = None,
    progress: Progress | None = None,
) -> FineTuned:
    """`policy` with weights trained for `number_format`, one with int16 activations.

    `calibration` are observations as `quantise` takes them; they calibrate, and are what is first
    trained on. `flights`, where there is a plant, makes recordings with the student.

    Raises UserError for an unusable calibration, for what integers or training have no form for,
    and where torch is missing.
    """
    settings = settings or FineTuning()
    program = prepared(lower(policy, integers=True))
    seen = checked(program, calibration, policy.spec)
    fixed = quantise(program, seen, number_format, spec=policy.spec)
    low, high = (
        np.array(end, np.float32) for end in zip(*policy.spec.action_ranges(), strict=True)
    )
    training = _Training(program, fixed, settings, (low, high))
    lessons = [_lesson(program, r) for r in seen.recordings]
    students = [training.student()]
    for number in range(settings.rounds):
        if flights is not None:
            lessons.append(_lesson(program, flights(stepper(students[-1][0]))))
        training.round(number, lessons, progress)
        students.append(training.student())
    # What is a step back on all that was flown is not taken.
    fixed, trained = min(students, key=lambda student: training.error(student, lessons))
    # The float weights are those that the integers multiply like: they come to the same again.
    trained = with_weights_of(trained, _settled(fixed, trained))
    fixed = with_weights(fixed, trained)
    formats = {DEFAULT: number_format} if isinstance(number_format, str) else {**number_format}
    made = replace(with_integers(raised(trained, policy), fixed), formats=formats)
    return FineTuned(made, fixed, tuple(training.losses))


def _settled(fixed: FixedProgram, trained: Program) -> dict[str, Singles]:
    """The weights as the integers have them, the biases as they were trained."""
    used = weights_of(effective(fixed, trained))
    return {name: w if w.ndim == 1 else used[name] for name, w in weights_of(trained).items()}


def stepper(fixed: FixedProgram) -> Step:
    """A fixed program as a step callable, from a reset."""
    states: list[tuple[npt.NDArray[np.int32], ...]] = []

    def step(observation: Singles) -> Singles:
        before = states.pop() if states else reset(fixed, (len(observation),))
        action, after = run(fixed, observation, before)
        states.append(after)
        return action

    return step


@dataclass(frozen=True)
class _Lesson:
    """Sequences of observations [T, B, n] from a reset, the float program's actions, and whether a
    sequence still runs [T, B, 1]: one whose observation stands still has ended."""

    observations: Singles
    actions: Singles
    running: Singles

    def split(self, order: npt.NDArray[np.intp], size: int) -> list["_Lesson"]:
        """The sequences in this order, about so many at a time."""
        parts = np.array_split(order, max(1, len(order) // size))
        return [
            _Lesson(*(each[:, part] for each in (self.observations, self.actions, self.running)))
            for part in parts
        ]


def _lesson(program: Program, recording: npt.ArrayLike) -> _Lesson:
    observations = np.asarray(recording, np.float32)
    states = interpreter.reset(program, (observations.shape[1],))
    actions = []
    for observation in observations:
        action, states = interpreter.run(program, observation, states, np.float32)
        actions.append(action)
    running = np.ones((*observations.shape[:2], 1), np.float32)
    running[1:] = (observations[1:] != observations[:-1]).any(axis=-1, keepdims=True)
    return _Lesson(observations, np.stack(actions), running)


class _Training:
    """Weights in training, real and rounded; `ends` are the least and the largest action."""

    def __init__(
        self,
        program: Program,
        fixed: FixedProgram,
        settings: FineTuning,
        ends: tuple[Singles, Singles],
    ) -> None:
        torch = torch_library()
        self.program, self.fixed, self.settings = program, fixed, settings
        self.losses: list[float] = []
        self.ends = [torch.from_numpy(end) for end in ends]
        self.rng = np.random.default_rng(settings.seed)
        self.form = Differentiable(program, readings(fixed))
        start = weights_of(effective(fixed, program))
        # Trained in units of its matrix's spread, one rate suits every layer.
        self.spread = {name: float(np.sqrt(np.mean(w**2))) or 1.0 for name, w in start.items()}
        self.real = {
            name: torch.from_numpy(w / np.float32(self.spread[name])).requires_grad_()
            for name, w in start.items()
        }
        self.optimiser = torch.optim.Adam(self.real.values(), settings.rate)
        self.steps = 0

    def student(self) -> tuple[FixedProgram, Program]:
        """The integer program of the weights so far, and the float program that it is of."""
        real = {
            name: w.detach().numpy() * np.float32(self.spread[name])
            for name, w in self.real.items()
        }
        return proved_with_weights(self.fixed, with_weights_of(self.program, real))

    def rounded(self) -> dict[str, Any]:
        """The weights that the student's integers multiply like, with the gradient of the real
        ones."""
        torch = torch_library()
        used = weights_of(effective(*self.student()))
        weights = {}
        for name, w in self.real.items():
            real = w * self.spread[name]
            weights[name] = real + (torch.from_numpy(used[name]) - real).detach()
        return weights

    def round(self, number: int, lessons: Sequence[_Lesson], progress: Progress | None) -> None:
        """Train on all lessons."""
        settings = self.settings
        batches = [
            batch
            for lesson in [*lessons] * settings.passes
            for batch in lesson.split(
                self.rng.permutation(lesson.actions.shape[1]), settings.sequences
            )
        ]
        self.rng.shuffle(batches)
        for place, batch in enumerate(batches):
            done = (number + place / len(batches)) / settings.rounds
            for group in self.optimiser.param_groups:
                group["lr"] = 0.5 * settings.rate * (1.0 + np.cos(np.pi * done))
            self._learn(batch)
            if progress is not None:
                progress(round(1000 * done), 1000, self.losses[-1])

    def error(self, student: tuple[FixedProgram, Program], lessons: Sequence[_Lesson]) -> float:
        """The loss of a student over all lessons."""
        torch = torch_library()
        used = weights_of(effective(*student))
        weights = {name: torch.from_numpy(w) for name, w in used.items()}
        total = 0.0
        with torch.no_grad():
            for lesson in lessons:
                states = self.form.reset(lesson.actions.shape[1])
                actions = []
                for observation in torch.from_numpy(lesson.observations):
                    action, states = self.form.step(weights, observation, states)
                    actions.append(action)
                known = (torch.from_numpy(v) for v in (lesson.actions, lesson.running))
                total += float(self._loss(torch.stack(actions), *known))
        return total

    def _learn(self, lesson: _Lesson) -> None:
        """One pass through a lesson, segment by segment."""
        torch = torch_library()
        states = self.form.reset(lesson.actions.shape[1])
        for start in range(0, len(lesson.actions), self.settings.segment):
            part = slice(start, start + self.settings.segment)
            weights = self.rounded()
            actions = []
            for observation in torch.from_numpy(lesson.observations[part]):
                action, states = self.form.step(weights, observation, states)
                actions.append(action)
            known = (torch.from_numpy(v[part]) for v in (lesson.actions, lesson.running))
            loss = self._loss(torch.stack(actions), *known)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            states = tuple(state.detach() for state in states)
            self.losses.append(float(loss.detach()))

    def _loss(self, actions: Any, wanted: Any, running: Any) -> Any:
        """The mean square difference. Two actions beyond the same end are one to the actuator."""
        torch = torch_library()
        low, high = self.ends
        same = (actions > high) & (wanted > high) | (actions < low) & (wanted < low)
        square = (torch.where(same, wanted, actions) - wanted) ** 2 * running
        return square.sum() / (running.sum() * wanted.shape[-1]).clamp(min=1.0)


def readings(fixed: FixedProgram) -> dict[str, Reading]:
    """How layers read vectors, by tensor: limited, and rounded where that is seen at all: the
    observation, and what has fewer than all bits."""
    torch = torch_library()
    inputs = {op.y: op for op in fixed.operations if isinstance(op, FixedInput)}
    positive = {op.y for op in fixed.operations if isinstance(op, FixedDense) and op.form == "relu"}
    readings = {}
    for name, halfword in fixed.halfwords.items():
        half = 1 << (halfword.bits - 1)
        low, high = 0 if name in positive else -half, half - 1
        ends = ((end + halfword.offset) * halfword.lsb for end in (low, high))
        rounded = halfword.bits < WIDTH or name in inputs
        grid = (halfword.lsb, halfword.offset) if rounded else ()
        values = (torch.from_numpy(v.astype(np.float32)) for v in (*ends, *grid))
        reading = Reading(*values)
        if name in inputs:
            name, guard = inputs[name].x, inputs[name].guard
            reading = replace(reading, towards_zero=guard == 0)
        readings[name] = reading
    return readings
