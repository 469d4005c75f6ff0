"""Checking: prove an artifact from nothing but itself.

Its firmware is built again and must be the same bytes; its code runs on the host, on emulated
cores and in QEMU machines, from both compilers where both are here, and must give the golden
bits on all of them; it is counted, measured, held against onnxruntime and flown.
"""

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

from edgerl.errors import ToolError
from edgerl.policies import Policy, load
from edgerl.policies.plants import Feedback, Suite
from edgerl.recipe import Check
from edgerl.stages import Silence, StageCache, Watcher, watched
from edgerl.targets import Target
from edgerl.toolchain.artifact import Artifact
from edgerl.toolchain.build import HostTwin, Image, Mode, build_host, find
from edgerl.toolchain.checks import limits
from edgerl.toolchain.checks.certificates import certificates
from edgerl.toolchain.checks.closed_loop import closed_loop, same_flights, suite_for
from edgerl.toolchain.checks.measure import counted, sizes
from edgerl.toolchain.checks.parity import parity
from edgerl.toolchain.checks.reference import against_onnxruntime, against_published
from edgerl.toolchain.compiling import rebuild
from edgerl.toolchain.emit import plan
from edgerl.toolchain.emulators import QemuCore, Runner, UnicornCore
from edgerl.toolchain.golden import GoldenFile, parse
from edgerl.toolchain.lowering import lower
from edgerl.toolchain.report.model import (
    Certificate,
    ClosedLoop,
    Measured,
    Parity,
    PolicyFacts,
    Reference,
    Report,
)

T = TypeVar("T")

_EMULATED_FLIGHTS = 64
_CROSS_COMPILERS = ("zig", "gcc")


def check(
    artifact: Artifact,
    asked: Check | None = None,
    watcher: Watcher | None = None,
    cache: StageCache | None = None,
) -> Report:
    """Everything that can be found out about `artifact` here, held to its limits.

    Raises ToolError when nothing is installed that could run it, or a tool fails; UserError for
    a limit that names no figure.
    """
    asked = asked or Check()
    limits.of_budget(Measured(), asked.limits)
    with tempfile.TemporaryDirectory(prefix="edgerl-check-") as scratch:
        return _Bench(
            artifact, asked, watcher or Silence(), cache or StageCache(None), Path(scratch)
        ).report()


def blank(artifact: Artifact) -> Report:
    """The report of an artifact nobody has measured."""
    manifest = artifact.manifest
    policy = manifest["policy"]
    return Report(
        policy=PolicyFacts(
            policy["name"], policy["sha256"], int(policy["parameters"]), int(policy["macs"])
        ),
        target=manifest["target"]["name"],
        format=manifest["format"],
        numerics=manifest["numerics"],
        compiler=manifest["compiler"]["version"],
        verified_by=manifest["target"]["verified_by"],
        counter="none",
        notes=tuple(manifest["policy"]["assumed"]),
    )


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
        report = blank(self.artifact)
        image, core = self.image, self.core
        certified: dict[str, Certificate] = {}
        measured = Measured(state_bytes=self.state_bytes)
        if image is not None and core is not None:
            with watched(self.watcher, "count"):
                measured = self._cached("count", Measured, lambda: self._measured(image, core))
            certified = certificates(image, measured, self._identical(image))
        equal = self._parity()
        reference, published = self._references()
        flown, flights = self._flights()
        certified |= flights
        held = [
            *limits.of_parity(equal),
            *limits.of_published(published),
            *(limits.of_closed_loop(flown[0]) if flown else []),
            *limits.of_certificates(certified),
            *limits.of_budget(measured, self.asked.limits),
        ]
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
            notes=(*report.notes, *self.absent),
        )

    @cached_property
    def target(self) -> Target:
        return Target.model_validate(self.artifact.manifest["target"])

    @cached_property
    def state_bytes(self) -> int:
        return int(self.artifact.manifest["state_bytes"])

    @cached_property
    def policy(self) -> Policy:
        return load(self.artifact.folder / "policy.onnx")

    @cached_property
    def golden(self) -> GoldenFile:
        path = self.artifact.folder / "golden.bin"
        return parse(path.read_bytes(), str(path))

    @cached_property
    def suite(self) -> Suite | None:
        return suite_for(self.policy.spec)

    @cached_property
    def twin(self) -> HostTwin:
        return build_host(self.artifact.source, self.artifact.name, self.scratch / "host")

    @cached_property
    def image(self) -> Image | None:
        """The firmware, built again by the compiler that made it; None on the host target."""
        return None if self.target.native else self._built(self.family)

    @cached_property
    def core(self) -> UnicornCore | None:
        return None if self.image is None else UnicornCore(self.image, self.target)

    @property
    def family(self) -> str:
        return str(self.artifact.manifest["compiler"]["family"])

    def _built(self, family: str) -> Image:
        with watched(self.watcher, f"build with {family}"):
            compiler = find(family, self.target.core)
            return rebuild(self.artifact, self.target, compiler, self.scratch / family)

    def _identical(self, image: Image) -> bool | None:
        """Whether building again gave the same bytes; None when the compiler is another one."""
        if image.compiler != self.artifact.manifest["compiler"]["version"]:
            return None
        return image.elf.read_bytes() == (self.artifact.folder / "firmware.elf").read_bytes()

    @cached_property
    def _runners(self) -> tuple[list[Runner], list[str]]:
        """Everything here that can run the program, and what could but is not installed."""
        if self.image is None or self.core is None:
            return [self.twin], []
        runners: list[Runner] = [self.twin, self.core]
        missing: list[str] = []
        others = [f for f in _CROSS_COMPILERS if f != self.family] if self.asked.cross_check else []
        images = [self.image]
        for family in others:
            try:
                images.append(self._built(family))
            except ToolError as error:
                missing.append(f"not cross-checked: {error}")
        runners += [UnicornCore(image, self.target) for image in images[1:]]
        if self.asked.cross_check:
            try:
                runners += [QemuCore(image, self.target) for image in images]
            except ToolError as error:
                missing.append(f"not cross-checked: {error}")
        return runners, missing

    @property
    def runners(self) -> list[Runner]:
        return self._runners[0]

    @property
    def absent(self) -> list[str]:
        return self._runners[1]

    def _measured(self, image: Image, core: UnicornCore) -> Measured:
        static = sizes(image, self.state_bytes)
        layout = plan(lower(self.policy))
        return counted(self.policy, layout, image, core, self.golden, static)

    def _parity(self) -> Parity:
        with watched(self.watcher, "parity") as advance:
            runners = self.runners
            done = iter(range(len(runners)))
            return self._cached(
                "parity",
                Parity,
                lambda: parity(
                    self.golden, runners, lambda name: advance(next(done), len(runners))
                ),
                runners=[r.name for r in runners],
            )

    def _references(self) -> tuple[Reference, Reference | None]:
        with watched(self.watcher, "onnxruntime"):
            return (
                self._cached(
                    "reference", Reference, lambda: against_onnxruntime(self.policy, self.golden)
                ),
                against_published(self.golden, self.twin),
            )

    def _flights(self) -> tuple[list[ClosedLoop], dict[str, Certificate]]:
        """The plant's suite, if one fits: raw feedback on the bare network, which is how the
        published figures were had; then the guarded step with the spec's feedback, which is how
        it will fly; then a few flights with the emulated core in the loop."""
        if self.suite is None:
            return [], {}
        suite = self.suite
        episodes = self.asked.episodes
        flown = []
        ways: tuple[tuple[Mode, Feedback], ...] = (("evaluate", "raw"), ("step", "clamped"))
        for mode, feedback in ways:
            with watched(self.watcher, f"fly {feedback}") as advance:
                fly = partial(closed_loop, suite, self.twin, mode, feedback, episodes, advance)
                flown.append(
                    self._cached(
                        f"fly-{feedback}", ClosedLoop, fly, episodes=episodes, suite=repr(suite)
                    )
                )
        if self.core is None:
            return flown, {}
        core = self.core
        with watched(self.watcher, "fly emulated") as advance:
            same = self._cached(
                "fly-emulated",
                bool,
                lambda: same_flights(suite, self.twin, core, _EMULATED_FLIGHTS, advance),
                suite=repr(suite),
            )
        method = f"{_EMULATED_FLIGHTS} flights on {core.name} and host: every state of every step"
        return flown, {"emulated_flights_identical": Certificate(same, "measured", method)}

    def _cached(
        self, stage: str, kind: type[T], compute: Callable[[], T], **more: object
    ) -> T:
        inputs = {"artifact": self._digest, "host": self.twin.compiler, **more}
        return self.cache.get(stage, inputs, kind, compute)

    @cached_property
    def _digest(self) -> str:
        manifest = self.artifact.folder / "manifest.json"
        return hashlib.sha256(manifest.read_bytes()).hexdigest()
