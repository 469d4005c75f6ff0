"""Subject: an artifact under check with everything that it is checked by, each made at first use:
its parts read back, its twins, its firmware built again, and whatever here can run it."""

from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from edgerl.errors import ToolError, UserError
from edgerl.policies import Policy, load
from edgerl.policies.plants import Suite
from edgerl.stages import Silence, Watcher, watched
from edgerl.targets import Target, target
from edgerl.toolchain.artifact import Artifact
from edgerl.toolchain.build import HostTwin, Image, build_host, find
from edgerl.toolchain.build.image import read_binary
from edgerl.toolchain.checks.closed_loop import suite_for
from edgerl.toolchain.compiling import host_twin, rebuild
from edgerl.toolchain.emit import Layer, emit, plan
from edgerl.toolchain.emit.integer.planning import integer_plan
from edgerl.toolchain.emulators import (
    EmulatedCore,
    Program,
    QemuCore,
    Runner,
    UnicornCore,
    require_qemu,
    runs_here,
)
from edgerl.toolchain.golden import GoldenFile, parse
from edgerl.toolchain.lowering import lower
from edgerl.toolchain.quantisation.program import FixedProgram
from edgerl.toolchain.quantisation.serialisation import INTEGERS
from edgerl.toolchain.quantisation.serialisation import parse as parse_integers

_CROSS_COMPILERS = ("zig", "gcc")


def require_emulator(target: Target) -> None:
    """ToolError when no emulator is installed that a check for `target` could run on."""
    if target.native:
        return
    needs = f"a check for {target.name} needs the emulator"
    if target.core.emulator == "qemu":
        require_qemu(target.core, f"{needs} QEMU, the only one of a {target.core.name}")
    elif find_spec("unicorn") is None:
        raise ToolError(f"{needs} unicorn: pip install 'edgerl[emu]'")


def emulated_core(
    artifact: Artifact, scratch: Path, watcher: Watcher | None = None
) -> EmulatedCore | None:
    """The firmware of `artifact` on an emulated core, as a check runs it; None where the target
    is the host. Builds go to `scratch`. Raises ToolError when no emulator is installed."""
    require_emulator(artifact.manifest.target)
    return Subject(artifact, scratch, watcher or Silence()).core


@dataclass(frozen=True)
class Subject:
    """An artifact and what is made of it. Builds go to `scratch`; with `cross_check`, other
    compilers and emulators here take part."""

    artifact: Artifact
    scratch: Path
    watcher: Watcher
    cross_check: bool = True

    @property
    def target(self) -> Target:
        """What it was compiled for."""
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
    def integers(self) -> FixedProgram | None:
        """The program in integers that was compiled; None where floats were."""
        if self.artifact.manifest.format == "f32":
            return None
        path = self.artifact.folder / INTEGERS
        return parse_integers(path.read_bytes(), str(path))

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The steps of the program as it was emitted."""
        if self.integers is None:
            return plan(lower(self.policy), self.artifact.manifest.writings).layers
        return integer_plan(self.integers, writings=self.artifact.manifest.writings).layers

    @property
    def soft_float(self) -> bool:
        """Whether floats are computed in software, which takes a hundred times as long."""
        return self.integers is None and not self.target.core.fpu

    @cached_property
    def suite(self) -> Suite | None:
        """What it can be flown in, if anything."""
        return suite_for(self.policy.spec)

    @cached_property
    def twin(self) -> HostTwin:
        """Its sources on this machine."""
        return build_host(self.artifact.source, self.artifact.name, self.scratch / "host")

    @cached_property
    def floats(self) -> HostTwin:
        """The same policy in float32, for comparison."""
        package = emit(self.policy, lower(self.policy))
        return host_twin(package, self.scratch / "floats")

    @cached_property
    def rebuilt(self) -> Image | None:
        """The firmware built again, with the compiler that made it; None on the host target."""
        return None if self.target.native else self._built(self.artifact.manifest.compiler.family)

    @cached_property
    def core(self) -> EmulatedCore | None:
        """The shipped firmware on an emulated core; its sources linked for the stand-in where
        the target says that no core here has its memories."""
        if self.rebuilt is None:
            return None
        if self.emulated != self.target:
            family = self.artifact.manifest.compiler.family
            return self._on_core(self._built(family, self.emulated))
        elf, flash = (self.artifact.folder / f"firmware.{kind}" for kind in ("elf", "bin"))
        shipped = replace(self.rebuilt, elf=elf, bin=flash, binary=read_binary(elf))
        return self._on_core(shipped)

    def _on_core(self, image: Image) -> EmulatedCore:
        """`image`, linked for `emulated`, on the emulator that counts for the core."""
        kind = QemuCore if self.target.core.emulator == "qemu" else UnicornCore
        return kind(image, self.emulated)

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
    def runners(self) -> tuple[list[Runner], list[str]]:
        """Everything here that can run the program, and what could but is not installed."""
        if self.core is None:
            return [self.twin], []
        runners: list[Runner] = [self.twin, self.core]
        missing: list[str] = []
        family = self.artifact.manifest.compiler.family
        others = [f for f in _CROSS_COMPILERS if f != family] if self.cross_check else []
        images = [self.core.image]
        for other in others:
            try:
                images.append(self._built(other, self.emulated))
            except ToolError as error:
                missing.append(f"not cross-checked: {error}")
        runners += [self._on_core(image) for image in images[1:]]
        if self.cross_check and self.target.core.emulator != "qemu":
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

    def relinked(self) -> list[str]:
        """Which runs are of no image that could be shipped."""
        if self.stand_in is None or self.core is None:
            return []
        on = UnicornCore | QemuCore if self.emulated == self.stand_in else QemuCore
        names = [runner.name for runner in self.runners[0] if isinstance(runner, on)]
        where = f"{self.stand_in.name} ({self.stand_in.about})"
        said = f"{', '.join(names)}: the same sources, linked for the stand-in {where}"
        return [said] if names else []
