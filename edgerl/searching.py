"""Searching: the smallest program of a policy for a target that still does its work.

Candidates are the uniform formats that the core takes and, from the 16-bit one on, mixtures:
layer by layer, the largest first, weights get the fewest bits with which the whole still holds.
Each candidate is compiled, its image counted, and its twin put to the work: where the policy's
plant is known, flights beside those of the same policy in floats, from seeds that no report and
no calibration uses; else the golden trace. Of those that hold the gate and the budget, the one of
fewest bytes is taken. A candidate once looked at is kept, so an interrupted search resumes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from edgerl.errors import ToolError, UserError
from edgerl.policies import Policy
from edgerl.policies.plants import Hover, Outcomes, Suite, paired
from edgerl.recipe import Quantise
from edgerl.stages import Silence, StageCache, Watcher, installed, watched
from edgerl.subject import Subject
from edgerl.targets import Target
from edgerl.toolchain import golden, ir
from edgerl.toolchain.artifact import Artifact
from edgerl.toolchain.build import Compiler, HostTwin
from edgerl.toolchain.checks.closed_loop import closed_loop, suite_for
from edgerl.toolchain.checks.limits import FINAL_ERROR, of_budget
from edgerl.toolchain.compiling import compile_policy, form_for, host_twin, temporary_folder
from edgerl.toolchain.emit import emit
from edgerl.toolchain.emulators import count
from edgerl.toolchain.quantisation.calibration import Calibration
from edgerl.toolchain.quantisation.conversion import quantise
from edgerl.toolchain.quantisation.formats import DEFAULT, NumberFormat, is_layer
from edgerl.toolchain.report.model import Candidate, Measured, Spread

Format = str | Mapping[str, str]

EPISODES = 1024
_FIRST_SEED = 500
# Survival that a program may lose against floats, and the share by which its error may grow.
_SURVIVAL_LOST = 0.005
_ERROR_GROWN = 1.15
# Without a plant: the largest difference of an action, as a share of its range.
_LARGEST_DIFFERENCE = 0.01
_COUNTED = 16
_UNIFORM = ("f32", "w32a32", "w16a16", "w8a16", "w4a16", "w8a8")
_FEWER = ("w4a16", "w8a16")
_MOST_LAYERS = 8


@dataclass(frozen=True)
class Search:
    """What is searched: a policy, lowered, for a target, within a budget of measured figures."""

    policy: Policy
    program: ir.Program
    goal: Target
    compiler: Compiler
    kernels: str
    fma: str
    calibration: Calibration
    choice: Quantise
    budget: Mapping[str, float]
    watcher: Watcher
    cache: StageCache
    seen: dict[str, Candidate] = field(default_factory=dict)

    def chosen(self) -> tuple[Format, tuple[Candidate, ...]]:
        """The format of the smallest program that holds, and every candidate, it marked.

        Raises UserError where none holds, saying what the nearest lacks.
        """
        if self.goal.native:
            raise UserError(
                f"--format auto weighs flash and instructions; {self.goal.name} has neither to "
                "weigh: choose a format"
            )
        formats: dict[str, Format] = {name: name for name in _UNIFORM if self._takes(name)}
        total = len(formats) + (len(_FEWER) * len(self._layers) if "w16a16" in formats else 0)
        with watched(self.watcher, "search") as advance:
            for name in formats.copy():
                self._look(name, name)
                advance(len(self.seen), total)
            if "w16a16" in formats and self.seen["w16a16"].works:
                formats |= self._mixed(lambda: advance(min(len(self.seen), total), total))
        held = [name for name, each in self.seen.items() if each.holds and name in formats]
        if not held:
            raise UserError(self._refusal())
        best = min(held, key=lambda name: self._weight(self.seen[name]))
        marked = tuple(replace(each, chosen=name == best) for name, each in self.seen.items())
        return formats[best], marked

    def _takes(self, name: str) -> bool:
        return name in self.goal.core.formats

    @staticmethod
    def _weight(candidate: Candidate) -> tuple[float, float]:
        return candidate.flash_bytes or np.inf, candidate.instructions or np.inf

    @cached_property
    def _layers(self) -> list[str]:
        """The layers by the tensor that each writes, the most weights first."""
        layers = [op for op in self.program.operations if is_layer(op)]
        layers.sort(key=lambda op: -sum(v.size for v in _weights(op)))
        return [ir.writes(op)[0] for op in layers[:_MOST_LAYERS]]

    def _mixed(self, advance: Callable[[], None]) -> dict[str, Format]:
        """Mixtures: each layer with the fewest bits with which all so far still hold."""
        formats: dict[str, Format] = {}
        apart: dict[str, str] = {}
        for layer in self._layers:
            for fewer in _FEWER:
                tried = {**apart, layer: fewer}
                mixture = {DEFAULT: "w16a16", **tried}
                name = str(NumberFormat("w16a16", tried))
                formats[name] = mixture
                self._look(name, mixture)
                advance()
                if self.seen[name].works:
                    apart = tried
                    break
        return formats

    def _look(self, name: str, number_format: Format) -> None:
        """Compile, count and try one candidate, unless an earlier search did."""
        inputs = {
            "policy": self.policy.sha256(),
            "format": number_format,
            "target": self.goal.model_dump(mode="json"),
            "compiler": self.compiler.version,
            "how": [self.kernels, self.fma, self.choice.model_dump(mode="json")],
            "calibration": str(self.choice.calibration and _digest(self.choice.calibration)),
            "budget": dict(self.budget),
            "by": installed("numpy", "unicorn", "onnxruntime"),
        }
        self.seen[name] = self.cache.get(
            "candidate", inputs, Candidate, lambda: self._tried(name, number_format)
        )

    def _tried(self, name: str, number_format: Format) -> Candidate:
        try:
            program = (
                self.program
                if number_format == "f32"
                else quantise(self.program, self.calibration, number_format, spec=self.policy.spec)
            )
            form = form_for(self.goal, program, self.kernels, self.fma)
            with temporary_folder() as folder:
                made = compile_policy(
                    self.policy, program, self.goal, form, self.compiler, folder / "artifact"
                )
                return self._judged(name, made.artifact, made.measured, folder)
        except (UserError, ToolError) as error:
            return Candidate(name, why=str(error))

    def _judged(self, name: str, artifact: Artifact, sizes: Measured, folder: Path) -> Candidate:
        """The figures of a compiled candidate, and whether it holds."""
        subject = Subject(artifact, folder / "bench", Silence(), cross_check=False)
        measured = sizes
        if subject.core is not None and not subject.soft_float:
            trace = subject.golden.evaluate.observations[:_COUNTED]
            counted = count(subject.core, trace, "evaluate")
            measured = replace(
                sizes, instructions=counted.spread, cycles_model=counted.cycles_model
            )
        candidate = self._worked(Candidate(name), subject.twin)
        works = not candidate.why
        missed = [each for each in of_budget(measured, self.budget) if not each.held]
        if missed and not candidate.why:
            candidate = replace(
                candidate, why="; ".join(f"{m.name} {m.value}, limit {m.limit}" for m in missed)
            )
        spread = measured.instructions
        return replace(
            candidate,
            works=works,
            flash_bytes=measured.flash_bytes,
            instructions=spread.max if isinstance(spread, Spread) else None,
            cycles_model=measured.cycles_model,
            holds=not candidate.why,
        )

    def _worked(self, candidate: Candidate, twin: HostTwin) -> Candidate:
        """How well it does its work, and what of the gate it misses."""
        if self._suite is not None:
            return self._flown(candidate, twin, self._suite)
        observations, resets = golden.inputs(self.policy, "evaluate")
        floats, found = (
            each.trace(observations, resets, "evaluate").actions for each in (self._floats, twin)
        )
        span = np.diff(np.array(self.policy.spec.action_ranges()), axis=1)[:, 0]
        error = float(np.abs(floats - found).max())
        share = float((np.abs(floats - found) / np.maximum(span, 1e-30)).max())
        why = f"an action differs by {share:.2g} of its range" * (share > _LARGEST_DIFFERENCE)
        return replace(candidate, error=error, why=why)

    def _flown(self, candidate: Candidate, twin: HostTwin, suite: Suite) -> Candidate:
        flown = closed_loop(suite, twin, "evaluate", "raw", EPISODES)
        outcomes = flown.outcomes
        assert outcomes is not None
        difference = paired(outcomes, self._float_outcomes)
        error = flown.report.metrics.get("final_error_mean", np.inf)
        allowed = max(FINAL_ERROR, _ERROR_GROWN * self._float_error)
        why = ""
        if difference.survival < -_SURVIVAL_LOST:
            why = f"survival is {-100 * difference.survival:.2g} points below that of floats"
        elif error > allowed:
            why = f"final error is {error:.3g} m, {allowed:.3g} are allowed"
        return replace(candidate, survival=difference.survival, error=error, why=why)

    @cached_property
    def _suite(self) -> Suite | None:
        suite = suite_for(self.policy.spec)
        return replace(suite, first_seed=_FIRST_SEED) if isinstance(suite, Hover) else None

    @cached_property
    def _floats(self) -> HostTwin:
        """The same policy in floats; its library is loaded, so the folder may go."""
        with temporary_folder() as folder:
            return host_twin(emit(self.policy, self.program), folder)

    @cached_property
    def _float_flights(self) -> tuple[Outcomes, float]:
        assert self._suite is not None
        flown = closed_loop(self._suite, self._floats, "evaluate", "raw", EPISODES)
        assert flown.outcomes is not None
        return flown.outcomes, flown.report.metrics.get("final_error_mean", np.inf)

    @property
    def _float_outcomes(self) -> Outcomes:
        return self._float_flights[0]

    @property
    def _float_error(self) -> float:
        return self._float_flights[1]

    def _refusal(self) -> str:
        nearest = min(
            self.seen.values(), key=lambda each: (not each.flash_bytes, self._weight(each))
        )
        return (
            f"no format holds gate and budget on {self.goal.name}: the smallest, {nearest.name}, "
            f"does not because {nearest.why}; loosen a --limit or choose a --format"
        )


def _weights(op: ir.Operation) -> list[np.ndarray]:
    match op:
        case ir.Dense():
            return [w for _, w in op.sources]
        case ir.Gru() | ir.Lstm():
            return [op.w_input, op.w_hidden]
        case _:
            return []


def _digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()
