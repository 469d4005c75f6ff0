"""Localisation: which tensor of the network is the first to differ, once parity has failed.

The policy's graph is emitted once more, as a package whose action is every tensor of the network
(`tap`), and built twice: on the side that is believed, and in the way of the runner that failed,
there with whatever the artifact's own sources have that the graph does not make. Both run the
stretch of the golden trace from the last reset to the step that differed. One build a side
shows all tensors at once, so nothing has to be searched.

Before that, the artifact's sources are built again as they are: where that brings the golden
bits, the image that was shipped is not what its sources make.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from edgerl.errors import EdgerlError
from edgerl.policies import Policy
from edgerl.toolchain import ir
from edgerl.toolchain.artifact import Artifact
from edgerl.toolchain.build import HostTwin, Run, build_host, find, first_difference
from edgerl.toolchain.checks.parity import last_reset
from edgerl.toolchain.checks.tap import exposing, grafted, tapped, taps
from edgerl.toolchain.compiling import rebuild
from edgerl.toolchain.emit import Golden, emit
from edgerl.toolchain.emulators import QemuCore, Runner, UnicornCore
from edgerl.toolchain.golden import SELF_TEST_STEPS, GoldenFile, Trace
from edgerl.toolchain.lowering import lower
from edgerl.toolchain.quantisation.program import FixedProgram
from edgerl.toolchain.report.model import Difference, Localisation


def localise(
    difference: Difference,
    artifact: Artifact,
    policy: Policy,
    golden: GoldenFile,
    runner: Runner,
    scratch: Path,
    integers: FixedProgram | None = None,
) -> Localisation:
    """Where `difference`, which `runner` has from the golden bits or from another's state,
    arises. Builds go to `scratch`; `integers` is the program where it is one of integers.

    What cannot be built or run again is no error here: the answer says so.
    """
    trace = next(t for t in golden.traces if t.mode == difference.mode)
    start = last_reset(trace.resets, difference.step)
    part = slice(start, difference.step + 1)
    expected = Run(trace.expected.actions[part], trace.expected.status[part], None)
    stretch = Trace(trace.mode, trace.observations[part], trace.resets[part], expected)
    bench = _Bench(difference, artifact, policy, golden, runner, scratch, stretch, start, integers)
    try:
        return bench.answer()
    except EdgerlError as error:
        return Localisation("unknown", f"it could not be localised: {error}")


@dataclass(frozen=True)
class _Bench:
    """One difference with everything that is built to find its place, each at first use."""

    difference: Difference
    artifact: Artifact
    policy: Policy
    golden: GoldenFile
    runner: Runner
    scratch: Path
    stretch: Trace
    start: int
    integers: FixedProgram | None

    def answer(self) -> Localisation:
        """What can be said."""
        believed = self._believed()
        if believed is None:
            return Localisation(
                "golden",
                "no build made here from policy.onnx gives the golden bits at that step: "
                "golden.bin is not what this policy computes, or not with this edgerl",
                sources=self.altered,
            )
        side, run = believed
        if self._same(run, self.runner):
            text = f"the difference did not recur: {self.runner.name} is not repeatable"
            return Localisation("not_reproduced", text, sources=self.altered)
        if self._shipped and self._same(run, self._built(self.runner, self.artifact, "again")):
            text = (
                f"not reproduced: built again from src/, {self.runner.name} gives the golden "
                "bits, so the shipped firmware is not what its sources make"
            )
            return Localisation("not_reproduced", text, sources=self.altered)
        if self.integers is not None:
            return Localisation(
                "unknown",
                f"{self.runner.name} computes other integers than {side.name} from the same "
                "sources; tensors inside a program of integers are not looked into",
                sources=self.altered,
            )
        return self._first_tensor(side)

    @property
    def _shipped(self) -> bool:
        """Whether the runner runs the very image that lies in the artifact."""
        return (
            isinstance(self.runner, UnicornCore | QemuCore)
            and self.runner.image.elf.parent == self.artifact.folder
        )

    def _believed(self) -> tuple[Runner, Run] | None:
        """A runner of what the graph makes that gives the golden bits here, and its run: the
        host twin, else one built in the way of the runner that failed."""
        genuine = self._written("genuine", self.genuine)
        for runner in (None, self.runner):
            if isinstance(runner, HostTwin):
                continue
            side = self._built(runner, genuine, "genuine")
            run = self._run(side)
            if first_difference(self.stretch.expected, replace(run, states=None)) is None:
                return side, run
        return None

    def _same(self, believed: Run, runner: Runner) -> bool:
        return first_difference(believed, self._run(runner)) is None

    def _first_tensor(self, side: Runner) -> Localisation:
        program = lower(self.policy)
        listed = taps(program, self.policy.spec)
        policy = exposing(self.policy, sum(len(tap.elements) for tap in listed))
        exposed = self._emitted(policy, tapped(program))
        own, lost = self._with_changes(exposed)
        if own is None:
            return Localisation(
                "unknown",
                f"src/{lost} is too different from what policy.onnx makes to look into",
                sources=self.altered,
            )
        one = self._run(self._built(side, self._written("tapped", exposed), "one"))
        other = self._run(self._built(self.runner, self._written("tapped-own", own), "other"))
        bits = [np.ascontiguousarray(run.actions).view(np.uint32) for run in (one, other)]
        unequal = np.argwhere(bits[0] != bits[1])
        if not len(unequal):
            return Localisation("outside", self._outside(), sources=self.altered)
        row, column = (int(k) for k in unequal[0])
        tap = next(t for t in reversed(listed) if t.first <= column)
        index = column - tap.first
        names = (self._described(side), self._described(self.runner))
        pair = (float(one.actions[row, column]), float(other.actions[row, column]))
        words = (f"{int(bits[0][row, column]):#010x}", f"{int(bits[1][row, column]):#010x}")
        found = Difference(
            step=self.start + row,
            tensor=tap.tensor,
            index=index,
            values=pair,
            bits=words,
            between=names,
            element=tap.elements[index],
            mode=self.stretch.mode,
            since_reset=row,
        )
        text = (
            f"the first tensor to differ is {tap.tensor} ({tap.operation}), at step {found.step}: "
            f"{found.element} is {pair[0]:.9g} ({words[0]}) on {names[0]}, "
            f"{pair[1]:.9g} ({words[1]}) on {names[1]}"
        )
        return Localisation("tensor", text, tap.operation, found, self.altered)

    def _outside(self) -> str:
        if self.stretch.mode == "step":
            return (
                "every tensor of the network has equal bits on both sides: what differs is made "
                "around it, by the guard, the saturation or the hold of the guarded step"
            )
        return (
            "every tensor of the network has equal bits on both sides once all are kept: the "
            "difference hangs on how the whole package is laid out or optimised"
        )

    def _described(self, runner: Runner) -> str:
        """A side's name; two sides that are both the host are told apart by their sources."""
        return f"{runner.name} (src/)" if runner is self.runner and self.altered else runner.name

    def _run(self, runner: Runner) -> Run:
        part = self.stretch
        return runner.trace(part.observations, part.resets, part.mode)

    @cached_property
    def genuine(self) -> dict[str, str]:
        """The files of the package that the graph makes, by name."""
        trace = self.golden.evaluate
        first = slice(0, SELF_TEST_STEPS)
        actions = np.ascontiguousarray(trace.expected.actions[first]).view(np.uint32)
        vectors = Golden(trace.observations[first], actions)
        return self._emitted(self.policy, self.integers or lower(self.policy), vectors)

    def _emitted(
        self, policy: Policy, program: ir.Program | FixedProgram, golden: Golden | None = None
    ) -> dict[str, str]:
        manifest = self.artifact.manifest
        return emit(
            policy,
            program,
            fused=manifest.fused,
            assembly=manifest.kernels,
            golden=golden,
            writings=manifest.writings,
        ).files

    @cached_property
    def own(self) -> dict[str, str]:
        """The artifact's sources, by name."""
        return {
            path.name: path.read_text(encoding="utf-8", errors="replace")
            for path in sorted(self.artifact.source.iterdir())
        }

    @cached_property
    def altered(self) -> str:
        """The first line of the artifact's sources that the graph does not make."""
        for name in sorted({*self.genuine, *self.own}):
            made, found = self.genuine.get(name), self.own.get(name)
            if made is None or found is None:
                return f"src/{name}"
            pairs = zip(made.splitlines(), found.splitlines(), strict=False)
            line = next((k for k, (a, b) in enumerate(pairs, 1) if a != b), None)
            if line is not None or made != found:
                return f"src/{name}:{line or min(len(made.splitlines()), len(found.splitlines()))}"
        return ""

    def _with_changes(self, exposed: dict[str, str]) -> tuple[dict[str, str] | None, str]:
        """`exposed` with what the artifact's sources have of their own; or None, and the file
        in which that does not fit."""
        files = dict(exposed)
        for name, found in self.own.items():
            made = self.genuine.get(name)
            if made is None or name not in exposed:
                return None, name
            if found != made:
                mended = grafted(made, found, exposed[name])
                if mended is None:
                    return None, name
                files[name] = mended
        return files, ""

    def _written(self, folder: str, files: dict[str, str]) -> Artifact:
        """The artifact as if these were its sources."""
        source = self.scratch / folder / "src"
        source.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (source / name).write_text(text, encoding="utf-8", newline="\n")
        return replace(self.artifact, folder=source.parent)

    def _built(self, like: Runner | None, artifact: Artifact, folder: str) -> Runner:
        """The sources of `artifact` built and run in the way of `like`; None is the host."""
        out = self.scratch / folder
        match like:
            case None | HostTwin():
                return build_host(artifact.source, artifact.name, out)
            case UnicornCore() | QemuCore():
                target = like.target
                compiler = find(like.image.family, target.core)
                return type(like)(rebuild(artifact, target, compiler, out), target)
        raise TypeError(f"{like.name}: a runner of unknown kind")
