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
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from edgerl.errors import ToolError, UserError
from edgerl.policies import Policy, load
from edgerl.policies.plants import Feedback, Suite
from edgerl.recipe import Check
from edgerl.reports import blank
from edgerl.stages import Silence, StageCache, Watcher, installed, watched
from edgerl.targets import Target, target
from edgerl.toolchain.artifact import Artifact
from edgerl.toolchain.build import HostTwin, Image, Mode, build_host, find
from edgerl.toolchain.build.image import read_binary
from edgerl.toolchain.checks import limits
from edgerl.toolchain.checks.certificates import certificates, of_firmware
from edgerl.toolchain.checks.closed_loop import closed_loop, same_flights, suite_for
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
from edgerl.toolchain.compiling import rebuild, temporary_folder
from edgerl.toolchain.emit import plan
from edgerl.toolchain.emulators import Program, QemuCore, Runner, UnicornCore, runs_here
from edgerl.toolchain.golden import GoldenFile, parse
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
        return _Bench(artifact, asked or Check(), watcher, cache, scratch).report()


def require_emulator(target: Target) -> None:
    """ToolError when no emulator is installed that a check for `target` could run on."""
    if not target.native and find_spec("unicorn") is None:
        raise ToolError(
            f"a check for {target.name} needs the emulator unicorn: pip install 'edgerl[emu]'"
        )


def emulated_core(
    artifact: Artifact, scratch: Path, watcher: Watcher | None = None
) -> UnicornCore | None:
    """The firmware of `artifact` on an emulated core, as a check runs it; None where the target
    is the host. Builds go to `scratch`. Raises ToolError when no emulator is installed."""
    require_emulator(artifact.manifest.target)
    return _Bench(artifact, Check(), watcher or Silence(), StageCache(None), scratch).core


@dataclass(frozen=True)
class _Bench:
    """An artifact with everything it is checked by, each made at first use."""

    artifact: Artifact
    asked: Check
    watcher: Watcher
    cache: StageCache
    scratch: Path

    def report(self) -> Report:
        """All checks in order, as one report."""
        measured, certified = self._counted()
        equal = self._parity()
        reference, published = self._references()
        flown, flights = self._flights()
        certified |= {"within_error_bound": self._within_bound(), **flights}
        held = [
            *limits.of_parity(equal),
            *limits.of_published(published),
            *(limits.of_closed_loop(flown[0]) if flown else []),
            *limits.of_certificates(certified),
            *limits.of_budget(measured, self.asked.limits),
        ]
        report = blank(self.artifact)
        return replace(
            report,
            counter="unicorn, by basic block" if measured.instructions else "none",
            measured=measured,
            parity=equal,
            reference=reference,
            examples=published,
            closed_loop=tuple(flown),
            certificates=certified,
            limits=tuple(held),
            notes=(
                *report.notes,
                *self._remarks(),
                *hurried(self.target, self.policy.spec.rate_hz, measured),
            ),
            checked=True,
        )

    @property
    def target(self) -> Target:
        return self.artifact.manifest.target

    @cached_property
    def policy(self) -> Policy:
        """The graph that was compiled, with the spec that the manifest has too."""
        policy, manifest = load(self.artifact.folder / "policy.onnx"), self.artifact.manifest
        if policy.spec != manifest.spec:
            raise self._foreign("policy.onnx", "its spec is not the manifest's")
        if policy.sha256() != manifest.policy.sha256:
            raise self._foreign("policy.onnx", "its hash is not the manifest's")
        return policy

    @cached_property
    def golden(self) -> GoldenFile:
        """The golden traces, of this artifact's numerics and sizes."""
        path, manifest = self.artifact.folder / "golden.bin", self.artifact.manifest
        golden = parse(path.read_bytes(), str(path))
        if (golden.name, golden.numerics) != (manifest.policy.name, manifest.numerics):
            raise self._foreign("golden.bin", f"it is of {golden.name}, {golden.numerics}")
        trace, sizes = golden.evaluate, (self.twin.observation_size, self.twin.action_size)
        if (trace.observations.shape[1], trace.expected.actions.shape[1]) != sizes:
            raise self._foreign("golden.bin", f"the sources have sizes {sizes}")
        return golden

    def _foreign(self, name: str, why: str) -> UserError:
        return UserError(f"{self.artifact.folder / name}: of another artifact ({why})")

    @cached_property
    def suite(self) -> Suite | None:
        return suite_for(self.policy.spec)

    @cached_property
    def twin(self) -> HostTwin:
        return build_host(self.artifact.source, self.artifact.name, self.scratch / "host")

    @cached_property
    def rebuilt(self) -> Image | None:
        """The firmware built again, with the compiler that made it; None on the host target."""
        return None if self.target.native else self._built(self.artifact.manifest.compiler.family)

    @cached_property
    def core(self) -> UnicornCore | None:
        """The shipped firmware on an emulated core; its sources linked for the stand-in where
        the target says that no core here has its memories."""
        if self.rebuilt is None:
            return None
        if self.emulated != self.target:
            family = self.artifact.manifest.compiler.family
            return UnicornCore(self._built(family, self.emulated), self.emulated)
        elf, flash = (self.artifact.folder / f"firmware.{kind}" for kind in ("elf", "bin"))
        shipped = replace(self.rebuilt, elf=elf, bin=flash, binary=read_binary(elf))
        return UnicornCore(shipped, self.target)

    @cached_property
    def stand_in(self) -> Target | None:
        """The bare core whose machine takes the place of the target's, where there is none."""
        return target(self.target.stand_in) if self.target.stand_in else None

    @property
    def emulated(self) -> Target:
        """Whose memories the emulated core has."""
        relinked = self.target.verified_by == "relinked-stand-in"
        return self.stand_in if relinked and self.stand_in else self.target

    def _built(self, family: str, goal: Target | None = None) -> Image:
        """The artifact's firmware from its sources, linked for `goal` or else for the target."""
        goal = goal or self.target
        with watched(self.watcher, f"build with {family}"):
            compiler = find(family, goal.core)
            return rebuild(self.artifact, goal, compiler, self.scratch / family / goal.name)

    @cached_property
    def _runners(self) -> tuple[list[Runner], list[str]]:
        """Everything here that can run the program, and what could but is not installed."""
        if self.core is None:
            return [self.twin], []
        runners: list[Runner] = [self.twin, self.core]
        missing: list[str] = []
        family = self.artifact.manifest.compiler.family
        others = [f for f in _CROSS_COMPILERS if f != family] if self.asked.cross_check else []
        images = [self.core.image]
        for other in others:
            try:
                images.append(self._built(other, self.emulated))
            except ToolError as error:
                missing.append(f"not cross-checked: {error}")
        runners += [UnicornCore(image, self.emulated) for image in images[1:]]
        if self.asked.cross_check:
            runners += [Program(image) for image in images if runs_here(self.target.core)]
            goal = self.stand_in or self.target
            try:
                runners += [QemuCore(self._for(goal, image), goal) for image in images]
            # A machine that is too small for the program is no fault of the program's.
            except (ToolError, UserError) as error:
                missing.append(f"not cross-checked: {error}")
        return runners, missing

    def _for(self, goal: Target, image: Image) -> Image:
        """What `image` was built from, linked for `goal`."""
        return image if goal == self.emulated else self._built(image.family, goal)

    def _relinked(self) -> list[str]:
        """Which runs are of no image that could be shipped."""
        if self.stand_in is None or self.core is None:
            return []
        on = UnicornCore | QemuCore if self.emulated == self.stand_in else QemuCore
        names = [runner.name for runner in self._runners[0] if isinstance(runner, on)]
        where = f"{self.stand_in.name} ({self.stand_in.about})"
        said = f"{', '.join(names)}: the same sources, linked for the stand-in {where}"
        return [said] if names else []

    def _remarks(self) -> list[str]:
        """What was not checked, or not on the very thing that was shipped."""
        shipped, rebuilt = self.artifact.manifest.compiler.version, self.rebuilt
        remarks = [*self._runners[1], *self._relinked()]
        if rebuilt is not None and rebuilt.compiler != shipped:
            remarks.append(f"built by {shipped}; sizes and stack are those of {rebuilt.compiler}")
        if self.target.verified_by == "host-only":
            remarks.append(
                f"{self.target.name} is host-only: nothing was compiled for "
                f"{self.target.core.name} or ran on it; equal bits are the host's alone"
            )
        return [*remarks, *unseen_choices(self.policy.spec, self.golden)]

    def _counted(self) -> tuple[Measured, dict[str, Certificate]]:
        rebuilt, core = self.rebuilt, self.core
        if rebuilt is None or core is None:
            return Measured(state_bytes=self.twin.state_bytes), {}

        def compute() -> Measured:
            layout = plan(lower(self.policy))
            return counted(self.policy, layout, core, self.golden, sizes(rebuilt))

        with watched(self.watcher, "count"):
            measured = self._cached("count", Measured, compute, by=[_edition(core)])
            firmware = of_firmware(self.artifact, rebuilt, core)
        return measured, {**certificates(rebuilt, measured), **firmware}

    def _parity(self) -> Parity:
        runners = self._runners[0]
        with watched(self.watcher, "parity") as advance:
            done = iter(range(len(runners)))

            def compute() -> Parity:
                told = parity(
                    self.golden
                    if self.target.core.fpu
                    else self.golden.shortened(SOFT_FLOAT_SHARE),
                    runners,
                    lambda _: advance(next(done), len(runners)),
                    self.policy.spec,
                )
                return self._localised(told, runners)

            return self._cached("parity", Parity, compute, by=[_edition(r) for r in runners])

    def _localised(self, told: Parity, runners: list[Runner]) -> Parity:
        """With the place inside the network where the first difference arises, if there is one."""
        first = told.first_difference
        if first is None:
            return told
        runner = next(r for r in runners if r.name == first.between[1])
        scratch = self.scratch / "localise"
        place = localise(first, self.artifact, self.policy, self.golden, runner, scratch)
        return replace(told, localisation=place)

    def _references(self) -> tuple[Reference, Reference | None]:
        def compute() -> Reference:
            return against_onnxruntime(self.policy, self.golden)

        with watched(self.watcher, "onnxruntime"):
            return (
                self._cached("reference", Reference, compute, by=installed("onnxruntime")),
                against_published(self.golden, self.twin),
            )

    def _within_bound(self) -> Certificate:
        """Whether no step deviates from onnxruntime by more than float32 arithmetic explains."""

        def compute() -> StepReference:
            program = lower(self.policy)
            return single_step_error(self.policy, program, self.twin, self.golden)

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
        if self.suite is None:
            return [], {}
        suite, episodes = self.suite, self.asked.episodes
        flown = []
        ways: tuple[tuple[Mode, Feedback], ...] = (("evaluate", "raw"), ("step", "clamped"))
        for mode, feedback in ways:
            with watched(self.watcher, f"fly {feedback}") as advance:
                fly = partial(closed_loop, suite, self.twin, mode, feedback, episodes, advance)
                flown.append(
                    self._cached(
                        f"fly-{feedback}",
                        ClosedLoop,
                        fly,
                        by=[_edition(self.twin)],
                        episodes=episodes,
                        suite=repr(suite),
                    )
                )
        if self.core is None:
            return flown, {}
        core = self.core
        flights = _EMULATED_FLIGHTS if self.target.core.fpu else _SOFT_FLOAT_FLIGHTS
        with watched(self.watcher, "fly emulated") as advance:
            same = self._cached(
                "fly-emulated",
                bool,
                lambda: same_flights(suite, self.twin, core, flights, advance),
                by=[_edition(self.twin), _edition(core)],
                suite=repr(suite),
            )
        flown_there = "one flight" if flights == 1 else f"{flights} flights"
        method = f"{flown_there} on {core.name} and host: every state of every step"
        return flown, {"emulated_flights_identical": Certificate(same, "measured", method)}

    def _cached(
        self, stage: str, kind: type[T], compute: Callable[[], T], *, by: list[str], **more: object
    ) -> T:
        """The stage's result, kept for this very artifact, these tools and this numpy."""
        inputs = {"artifact": self._digest, "by": [*by, *installed("numpy")], **more}
        return self.cache.get(stage, inputs, kind, compute)

    @cached_property
    def _digest(self) -> str:
        manifest = self.artifact.folder / "manifest.json"
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
