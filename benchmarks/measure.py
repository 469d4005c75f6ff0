"""What one build of one network costs: the same counter, core and inputs for every tool."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from benchmarks import harness
from benchmarks.networks import Network
from benchmarks.peers import Generated, Peer
from edgerl.errors import ToolError
from edgerl.policies.policy import Floats
from edgerl.targets import Target
from edgerl.toolchain import golden
from edgerl.toolchain.build import build_firmware, find, footprint
from edgerl.toolchain.build.run import Flags
from edgerl.toolchain.checks.measure import extremes
from edgerl.toolchain.checks.reference import run_onnx
from edgerl.toolchain.compiling import choose_fused
from edgerl.toolchain.emit import Golden, emit
from edgerl.toolchain.emulators import UnicornCore, count
from edgerl.toolchain.lowering import lower
from edgerl.toolchain.report.model import Spread

_GUARDED_INPUTS = 256
_FAILURE_LENGTH = 200


@dataclass(frozen=True)
class Variant:
    """One way to have edgerl compile: `fma` and `kernels` as its command line takes them."""

    name: str
    fma: str
    kernels: str


VARIANTS = (
    Variant("assembly, fma on", "on", "auto"),
    Variant("assembly, fma auto", "auto", "auto"),
    Variant("portable C99, fma on", "on", "portable"),
)


@dataclass(frozen=True)
class Figures:
    """The cost of one evaluation.

    `instructions` are counted, `cycles_model` is modelled, bytes of flash and static RAM are
    read from linked code, `stack_bytes` is painted, `max_abs_error` is against onnxruntime.
    `state_bytes` is RAM that the caller provides for the network's memory. The guard and the
    saturation of `_step` exist in edgerl alone.
    """

    instructions: Spread
    cycles_model: int
    flash_bytes: int
    static_ram_bytes: int
    state_bytes: int
    stack_bytes: int
    max_abs_error: float
    compiler: str
    flags: tuple[str, ...]
    step_overhead_instructions: int | None = None
    numerics: str | None = None


@dataclass(frozen=True)
class PeerBuild:
    """A peer's network built by one compiler at one level: figures, or why there are none."""

    family: str
    level: str
    figures: Figures | None
    failure: str | None = None


@dataclass(frozen=True)
class PeerResult:
    """Everything one tool did with one network. `failure` says why it generated nothing."""

    distribution: str
    version: str | None
    about: str
    builds: tuple[PeerBuild, ...]
    failure: str | None = None

    @property
    def measured(self) -> tuple[PeerBuild, ...]:
        """The builds that have figures."""
        return tuple(b for b in self.builds if b.figures)


def measure_edgerl(network: Network, variant: Variant, target: Target) -> Figures:
    """Compile `network` with edgerl's shipped compiler and measure it.

    The extremes that a controller may meet are counted beside the table's inputs. Raises
    UserError and ToolError.
    """
    program = lower(network.policy)
    compiler = find("zig", target.core)
    assembly = target.core.kernels.get("f32", "") if variant.kernels == "auto" else ""
    fused = choose_fused(target) if variant.fma == "auto" else variant.fma == "on"
    package = emit(
        network.policy, program, fused=fused, assembly=assembly, golden=_vectors(network)
    )
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        source.mkdir()
        for name, text in package.files.items():
            (source / name).write_text(text, encoding="utf-8", newline="\n")
        image = build_firmware(
            source,
            package.name,
            target,
            compiler,
            Path(folder),
            build_id="0" * 64,
            portable=not assembly,
        )
    core = UnicornCore(image, target)
    corners = extremes(network.policy)
    evaluate = count(core, np.concatenate([network.observations, corners]))
    guarded = golden.inputs(network.policy, "step")[0][:_GUARDED_INPUTS]
    step = count(core, np.concatenate([guarded, corners]), "step")
    actions = core.trace(network.observations, _resets(network), "evaluate").actions
    size = footprint(image)
    assert evaluate.cycles_model is not None
    return Figures(
        instructions=evaluate.spread,
        cycles_model=evaluate.cycles_model,
        flash_bytes=size.flash_bytes,
        static_ram_bytes=size.static_ram_bytes,
        state_bytes=package.state_bytes,
        stack_bytes=core.stack_used(network.observations, "evaluate"),
        max_abs_error=_error(network, actions),
        compiler=image.compiler,
        flags=image.flags,
        step_overhead_instructions=step.spread.max - evaluate.spread.max,
        numerics=package.numerics,
    )


def measure_peer(
    network: Network, peer: Peer, target: Target, say: Callable[[str], None]
) -> PeerResult:
    """Have a peer generate `network`, build it in every way, measure each build.

    A tool that cannot is a result, not an error.
    """
    try:
        installed = version(peer.distribution)
    except PackageNotFoundError:
        failure = "not installed: pip install 'edgerl[bench]'"
        return PeerResult(peer.distribution, None, peer.about, (), failure)
    say(f"{network.name}: {peer.distribution} generates")
    try:
        with tempfile.TemporaryDirectory() as folder:
            generated = peer.generate(network, Path(folder))
    except Exception as error:  # whatever a foreign tool raises is how it fails
        return PeerResult(peer.distribution, installed, peer.about, (), _one_line(error))
    builds = []
    for family in harness.FAMILIES:
        for level in harness.LEVELS:
            say(f"{network.name}: {peer.distribution}, {family} {level}")
            try:
                figures = _measure_build(network, generated, target, family, level)
                builds.append(PeerBuild(family, level, figures))
            except ToolError as error:
                builds.append(PeerBuild(family, level, None, _one_line(error)))
    return PeerResult(peer.distribution, installed, peer.about, tuple(builds))


def _measure_build(
    network: Network, generated: Generated, target: Target, family: str, level: str
) -> Figures:
    built = harness.build(network, generated, target, family, level)
    core = harness.PeerCore(built.image, target, generated)
    counted = count(core, network.observations)
    actions = np.stack(core.actions)
    assert counted.cycles_model is not None
    return Figures(
        instructions=counted.spread,
        cycles_model=counted.cycles_model,
        flash_bytes=built.flash_bytes,
        static_ram_bytes=built.static_ram_bytes,
        # Before and after: the generated functions do not update a state in place.
        state_bytes=2 * 4 * network.state_size,
        stack_bytes=core.stack_used(network.observations, "evaluate"),
        max_abs_error=_error(network, actions),
        compiler=built.compiler,
        flags=built.flags,
    )


def _vectors(network: Network) -> Golden:
    """As many self-test vectors as a compiled artifact has. They are not part of any figure, so
    their expected bits may be zeros."""
    steps = golden.SELF_TEST_STEPS
    actions = np.zeros((steps, network.policy.spec.action_size), np.uint32)
    return Golden(network.observations[:steps], actions)


def _resets(network: Network) -> Flags:
    """The reset marks of one sequence."""
    marks = np.zeros(len(network.observations), np.bool_)
    marks[0] = True
    return marks


def _error(network: Network, actions: Floats) -> float:
    """Largest difference between `actions` and those of onnxruntime on the same inputs."""
    expected = run_onnx(network.policy, network.observations, _resets(network))
    return float(np.abs(actions.astype(np.float64) - expected.astype(np.float64)).max())


def _one_line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:_FAILURE_LENGTH]
