"""Checking: prove an artifact from nothing but itself.

Its firmware is built again and must be the same bytes. The shipped firmware runs on emulated
cores and in QEMU machines, its sources on the host and, where a second compiler is here, as that
one builds them; all must give the golden bits. It is counted, measured, held against onnxruntime
and flown.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TypeVar

from edgerl.errors import UserError
from edgerl.policies.plants import Feedback
from edgerl.recipe import Check
from edgerl.reports import blank
from edgerl.stages import Silence, StageCache, Watcher, installed, watched
from edgerl.subject import Subject, require_emulator
from edgerl.toolchain.artifact import Artifact
from edgerl.toolchain.build import HostTwin, Mode
from edgerl.toolchain.certify.image import of_image
from edgerl.toolchain.certify.numbers import Numbers, of_fixed_program, of_float_program
from edgerl.toolchain.checks import limits
from edgerl.toolchain.checks.closed_loop import (
    Flown,
    beside,
    closed_loop,
    same_flights,
)
from edgerl.toolchain.checks.definition import computes_definition
from edgerl.toolchain.checks.firmware import of_firmware
from edgerl.toolchain.checks.localise import localise
from edgerl.toolchain.checks.measure import SOFT_FLOAT_SHARE, counted, sizes
from edgerl.toolchain.checks.parity import parity
from edgerl.toolchain.checks.reference import (
    StepReference,
    against_onnxruntime,
    against_published,
    single_step_error,
)
from edgerl.toolchain.checks.remarks import hurried, unseen_choices
from edgerl.toolchain.compiling import temporary_folder
from edgerl.toolchain.emulators import (
    BatchRunner,
    Program,
    QemuCore,
    Runner,
    UnicornCore,
)
from edgerl.toolchain.lowering import lower
from edgerl.toolchain.report.model import (
    Certificate,
    ClosedLoop,
    Measured,
    Parity,
    Reference,
    Report,
)

T = TypeVar("T")

_EMULATED_FLIGHTS = 64
_SOFT_FLOAT_FLIGHTS = 1  # of hundreds of steps, each of hundreds of thousands of instructions
_CROSS_COMPILERS = ("zig", "gcc")


def check(
    artifact: Artifact,
    asked: Check | None = None,
    watcher: Watcher | None = None,
    cache: StageCache | None = None,
) -> Report:
    """Everything that can be found out about `artifact` here, held to its limits.

    Raises ToolError when nothing is installed that could run it, or a tool fails; UserError when
    its parts do not belong together.
    """
    require_emulator(artifact.manifest.target)
    watcher, cache = watcher or Silence(), cache or StageCache(None)
    with temporary_folder() as scratch:
        asked = asked or Check()
        subject = Subject(artifact, scratch, watcher, asked.cross_check)
        return _Checks(subject, asked, watcher, cache).report()


@dataclass(frozen=True)
class _Checks:
    """Every check of one subject."""

    subject: Subject
    asked: Check
    watcher: Watcher
    cache: StageCache

    def report(self) -> Report:
        """All checks in order, as one report."""
        measured, certified = self._counted()
        equal = self._parity()
        reference, published = self._references()
        flown, flights = self._flights()
        numbers = self._numbers()
        certified |= {**self._exactness(), **numbers.certificates, **flights}
        held = [
            *limits.of_parity(equal),
            *([] if self.subject.integers else limits.of_published(published)),
            *(
                limits.of_closed_loop(flown[0], self.subject.artifact.manifest.format)
                if flown
                else []
            ),
            *limits.of_certificates(certified),
            *limits.of_budget(measured, self.asked.limits),
        ]
        report = blank(self.subject.artifact)
        return replace(
            report,
            counter=f"{self.subject.target.core.emulator}, by basic block"
            if measured.instructions
            else "none",
            measured=measured,
            parity=equal,
            reference=reference,
            examples=published,
            closed_loop=tuple(flown),
            certificates=certified,
            tensors=numbers.tensors,
            limits=tuple(held),
            notes=(
                *report.notes,
                *self._remarks(),
                *hurried(self.subject.target, self.subject.policy.spec.rate_hz, measured),
            ),
            checked=True,
        )

    def _remarks(self) -> list[str]:
        """What was not checked, or not on the very thing that was shipped."""
        shipped, rebuilt = self.subject.artifact.manifest.compiler.version, self.subject.rebuilt
        remarks = [*self.subject.runners[1], *self.subject.relinked()]
        if rebuilt is not None and rebuilt.compiler != shipped:
            remarks.append(f"built by {shipped}; sizes and stack are those of {rebuilt.compiler}")
        if self.subject.target.verified_by == "host-only":
            remarks.append(
                f"{self.subject.target.name} is host-only: nothing was compiled for "
                f"{self.subject.target.core.name} or ran on it; equal bits are the host's alone"
            )
        return [*remarks, *unseen_choices(self.subject.policy.spec, self.subject.golden)]

    def _counted(self) -> tuple[Measured, dict[str, Certificate]]:
        rebuilt, core = self.subject.rebuilt, self.subject.core
        if rebuilt is None or core is None:
            return Measured(state_bytes=self.subject.twin.state_bytes), {}

        def compute() -> Measured:
            return counted(
                self.subject.policy,
                self.subject.layers,
                core,
                self.subject.golden,
                sizes(rebuilt),
                soft_float=self.subject.soft_float,
            )

        with watched(self.watcher, "count"):
            measured = self._cached("count", Measured, compute, by=[_edition(core)])
            firmware = of_firmware(self.subject.artifact, rebuilt, core)
        bare = self.subject.integers is not None and not self.subject.target.core.fpu
        return measured, {**of_image(rebuilt, measured, no_float=bare), **firmware}

    def _parity(self) -> Parity:
        runners = self.subject.runners[0]
        with watched(self.watcher, "parity") as advance:
            done = iter(range(len(runners)))

            def compute() -> Parity:
                told = parity(
                    self.subject.golden.shortened(
                        SOFT_FLOAT_SHARE if self.subject.soft_float else 1
                    ),
                    runners,
                    lambda _: advance(next(done), len(runners)),
                    self.subject.policy.spec,
                )
                return self._localised(told, runners)

            return self._cached("parity", Parity, compute, by=[_edition(r) for r in runners])

    def _localised(self, told: Parity, runners: list[Runner]) -> Parity:
        """With the place inside the network where the first difference arises, if there is one."""
        first = told.first_difference
        if first is None:
            return told
        runner = next(r for r in runners if r.name == first.between[1])
        it = self.subject
        place = localise(
            first,
            it.artifact,
            it.policy,
            it.golden,
            runner,
            it.scratch / "localise",
            it.integers,
        )
        return replace(told, localisation=place)

    def _references(self) -> tuple[Reference, Reference | None]:
        def compute() -> Reference:
            return against_onnxruntime(self.subject.policy, self.subject.golden)

        with watched(self.watcher, "onnxruntime"):
            return (
                self._cached("reference", Reference, compute, by=installed("onnxruntime")),
                against_published(self.subject.golden, self.subject.twin),
            )

    def _numbers(self) -> Numbers:
        """What tensors and actions can be, and how far integers are from the policy."""

        def compute() -> Numbers:
            program, spec, golden = (
                lower(self.subject.policy),
                self.subject.policy.spec,
                self.subject.golden.evaluate,
            )
            if self.subject.integers is not None:
                return of_fixed_program(program, self.subject.integers, spec, golden)
            fused = self.subject.artifact.manifest.fused
            return of_float_program(program, spec, golden, fused=fused)

        with watched(self.watcher, "bounds"):
            return self._cached("numbers", Numbers, compute, by=[])

    def _exactness(self) -> dict[str, Certificate]:
        """What the numbers are held to: the definition of integers, or the bound of floats."""
        if self.subject.integers is None:
            return {"within_error_bound": self._within_bound()}
        with watched(self.watcher, "definition"):
            return {
                "computes_definition": computes_definition(
                    self.subject.integers, self.subject.twin, self.subject.golden
                )
            }

    def _within_bound(self) -> Certificate:
        """Whether no step deviates from onnxruntime by more than float32 arithmetic explains."""

        def compute() -> StepReference:
            program = lower(self.subject.policy)
            return single_step_error(
                self.subject.policy, program, self.subject.twin, self.subject.golden
            )

        with watched(self.watcher, "error bound"):
            try:
                step = self._cached("bound", StepReference, compute, by=installed("onnxruntime"))
            except UserError as error:
                return Certificate(None, "not_applicable", str(error))
        if math.isinf(step.widest):
            return Certificate(None, "not_applicable", "some tensor of the program has no bound")
        close = f"; {step.undecided} more are too close to call" if step.undecided else ""
        return Certificate(
            step.ok,
            "measured",
            f"{step.steps - step.undecided} steps, each from the same state on both sides: the "
            f"difference from {step.against} is at most {step.of_bound:.2g} of what the error "
            f"analysis allows{close}",
        )

    def _flights(self) -> tuple[list[ClosedLoop], dict[str, Certificate]]:
        """The plant's suite, if one fits: raw feedback on the bare network, which is how the
        published figures were had; then the guarded step, whose output is clamped, which is how
        it will fly; then a few flights with the emulated core in the loop."""
        if self.subject.suite is None:
            return [], {}
        suite, episodes = self.subject.suite, self.asked.episodes
        flown: list[ClosedLoop] = []
        ways: tuple[tuple[Mode, Feedback], ...] = (("evaluate", "raw"), ("step", "clamped"))

        def fly(twin: HostTwin, mode: Mode, feedback: Feedback, stage: str) -> Flown:
            with watched(self.watcher, stage) as advance:
                return self._cached(
                    stage.replace(" ", "-"),
                    Flown,
                    partial(closed_loop, suite, twin, mode, feedback, episodes, advance),
                    by=[_edition(twin)],
                    episodes=episodes,
                    suite=repr(suite),
                )

        for mode, feedback in ways:
            integers = fly(self.subject.twin, mode, feedback, f"fly {feedback}")
            if self.subject.integers is None or flown:
                flown.append(integers.report)
            else:
                flown.append(
                    beside(integers, fly(self.subject.floats, mode, feedback, "fly floats"))
                )
        if self.subject.core is None:
            return flown, {}
        core = self.subject.core
        flights = _SOFT_FLOAT_FLIGHTS if self.subject.soft_float else _EMULATED_FLIGHTS
        with watched(self.watcher, "fly emulated") as advance:
            same = self._cached(
                "fly-emulated",
                bool,
                lambda: same_flights(suite, self.subject.twin, core, flights, advance),
                by=[_edition(self.subject.twin), _edition(core)],
                suite=repr(suite),
            )
        flown_there = "one flight" if flights == 1 else f"{flights} flights"
        compared = "state" if isinstance(core, BatchRunner) else "action"
        method = f"{flown_there} on {core.name} and host: every {compared} of every step"
        return flown, {"emulated_flights_identical": Certificate(same, "measured", method)}

    def _cached(
        self, stage: str, kind: type[T], compute: Callable[[], T], *, by: list[str], **more: object
    ) -> T:
        """The stage's result, kept for this very artifact, these tools and this numpy."""
        inputs = {"artifact": self._digest, "by": [*by, *installed("numpy")], **more}
        return self.cache.get(stage, inputs, kind, compute)

    @cached_property
    def _digest(self) -> str:
        manifest = self.subject.artifact.folder / "manifest.json"
        return hashlib.sha256(manifest.read_bytes()).hexdigest()


def _edition(runner: Runner) -> str:
    """What a runner's answers depend on beside the artifact, in words."""
    match runner:
        case HostTwin():
            return f"host, {runner.compiler}"
        case UnicornCore():
            tools = ", ".join(installed("unicorn", "capstone"))
            return f"{runner.name}, {runner.image.compiler}, {tools}"
        case Program():
            return f"{runner.name}, {runner.image.compiler}"
        case QemuCore():
            return f"{runner.name}, {runner.image.compiler}, {runner.version}"
    raise TypeError(f"{runner.name}: a runner of unknown kind")
