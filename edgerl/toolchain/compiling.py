"""Compiling: a policy and a target become an artifact."""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from edgerl.errors import UserError
from edgerl.policies import Policy
from edgerl.targets import Target
from edgerl.targets.model import Arithmetic
from edgerl.toolchain import golden as goldens
from edgerl.toolchain import ir
from edgerl.toolchain.artifact import Artifact, build_id, published, read_artifact, write_manifest
from edgerl.toolchain.build import (
    Compiler,
    HostTwin,
    Image,
    build_firmware,
    build_host,
    require_stack,
)
from edgerl.toolchain.build.disassembly import Instruction
from edgerl.toolchain.checks.measure import sizes
from edgerl.toolchain.emit import Golden, Package, emit
from edgerl.toolchain.emit.sparse import Writings
from edgerl.toolchain.emulators.cycles import cycles
from edgerl.toolchain.golden import GoldenFile, Trace
from edgerl.toolchain.manifest import CompilerEntry, LayerChoice, Manifest, PolicyEntry
from edgerl.toolchain.quantisation.program import FixedProgram
from edgerl.toolchain.quantisation.serialisation import INTEGERS, serialize
from edgerl.toolchain.report.model import Candidate, Measured
from edgerl.toolchain.sbom import bill
from edgerl.toolchain.sparsity import Prefer, choose, costs_on, with_zeros, writings

# By architecture: a fused multiply-add, a product, a sum.
_MULTIPLY_ADD = {
    "arm": ("vfma", "vmul", "vadd"),
    "riscv": ("fmadd.s", "fmul.s", "fadd.s"),
    "aarch64": ("fmadd", "fmul", "fadd"),
}


AnyProgram = ir.Program | FixedProgram
CANDIDATES = "candidates.json"
_Candidates = tuple[Candidate, ...]


@dataclass(frozen=True)
class Form:
    """How a program is written: multiply-adds of floats fused or not, which assembly family, and
    what was chosen for layers with zeros."""

    fused: bool
    assembly: str
    layers: tuple[LayerChoice, ...] = ()

    @property
    def writings(self) -> Writings:
        """The layers that are not dense."""
        return writings({each.layer: each.written for each in self.layers})


def kernels_for(target: Target, kernels: str, arithmetic: Arithmetic = "f32") -> str:
    """The assembly family for `target`, or "" where there is none or `kernels` is portable."""
    return target.core.kernels.get(arithmetic, "") if kernels == "auto" else ""


_ARITHMETIC: dict[int, Arithmetic] = {32: "a32", 16: "a16", 8: "a8"}


def form_for(target: Target, program: AnyProgram, kernels: str, fma: str) -> Form:
    """How `program` is written for `target`: `kernels` auto or portable, `fma` on, off or auto."""
    arithmetic = _ARITHMETIC[program.width] if isinstance(program, FixedProgram) else "f32"
    fused = choose_fused(target) if fma == "auto" else fma == "on" and target.core.fma
    return Form(fused, kernels_for(target, kernels, arithmetic))


def choose_fused(target: Target) -> bool:
    """Whether fused multiply-adds are the better form for `target`: fewer modelled cycles.

    The two forms of a program differ in nothing but their multiply-adds, one instruction or two,
    so the core's timing table decides for all programs alike. Where no published timing models
    the core there is nothing to weigh but instructions, of which the fused form always has
    fewer; a core without the instruction, and the host, whose processor is not known to have it,
    get the unfused form.
    """
    if target.native or not target.core.fma:
        return False
    if not target.core.cycles:
        return True
    fused, product, total = (
        cycles(target.core.cycles, Instruction(0, 4, mnemonic, "", False, None))
        for mnemonic in _MULTIPLY_ADD[target.core.architecture]
    )
    return fused <= product + total


@dataclass(frozen=True)
class Compiled:
    """An artifact, and what its image says without running it."""

    artifact: Artifact
    measured: Measured


def compile_policy(
    policy: Policy,
    program: AnyProgram,
    target: Target,
    form: Form,
    compiler: Compiler,
    folder: Path,
    candidates: Sequence[Candidate] = (),
) -> Compiled:
    """Emit, run once on the host for the golden bits, build, and publish to `folder`, with the
    candidates of the search that chose the format, if one did.

    Raises UserError when the policy does not fit the target or `folder` is in use, ToolError
    when a compiler is missing or fails.
    """
    package, golden = emitted(policy, program, form)
    portable = not form.assembly and not target.native
    flags = (*compiler.core_flags, *compiler.flags, *([_portable(package)] if portable else []))
    measured = Measured(state_bytes=package.state_bytes)
    with published(folder) as aside:
        (aside / "policy.onnx").write_bytes(policy.serialized())
        (aside / "golden.bin").write_bytes(goldens.serialize(golden))
        if isinstance(program, FixedProgram):
            (aside / INTEGERS).write_bytes(serialize(program))
        if candidates:
            (aside / CANDIDATES).write_bytes(TypeAdapter(_Candidates).dump_json(tuple(candidates)))
        _write(package, aside / "src")
        identity = identify(aside, target, compiler.version, flags)
        if not target.native:
            image = _firmware(package, target, compiler, aside, identity, form.assembly)
            measured = sizes(image)
            require_stack(image, target, measured.stack_bytes or 0)
        made = {
            p.relative_to(aside).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(aside.rglob("*"))
            if p.is_file()
        }
        parts = bill(policy, identity, compiler.version, made)
        (aside / "sbom.cdx.json").write_text(parts, encoding="utf-8", newline="\n")
        entry = CompilerEntry(family=compiler.name, version=compiler.version, flags=flags)
        write_manifest(aside, _manifest(policy, program, package, form, target, entry, identity))
    return Compiled(read_artifact(folder), measured)


def emitted(policy: Policy, program: AnyProgram, form: Form) -> tuple[Package, GoldenFile]:
    """The package of `program` with its self-test vectors, and the golden traces they are from.

    Raises ToolError when no compiler for the host is installed, or it fails.
    """
    draft = _emit(policy, program, form)
    with temporary_folder() as scratch:
        golden = _golden(policy, host_twin(draft, scratch), draft.numerics)
    vectors = _self_test(golden.evaluate)
    return _emit(policy, program, form, vectors), golden


def sparse_layers(
    policy: Policy,
    program: AnyProgram,
    target: Target,
    form: Form,
    compiler: Compiler,
    prefer: Prefer,
) -> tuple[LayerChoice, ...]:
    """What is best for the layers of `program` that have zeros, as `choose` weighs it.

    Raises ToolError when the compiler or the emulator fails.
    """

    # As many vectors as the program will carry, whose number its self-test knows.
    steps, actions = goldens.SELF_TEST_STEPS, sum(s.size for s in policy.spec.action)
    vectors = Golden(
        np.zeros((steps, policy.spec.observation_size), np.float32),
        np.zeros((steps, actions), np.uint32),
    )

    def written(layers: Writings) -> Package:
        return emit(
            policy,
            program,
            fused=form.fused,
            assembly=form.assembly,
            golden=vectors,
            writings=layers,
        )

    return choose(with_zeros(program), costs_on(policy, target, compiler, written), prefer)


def _emit(policy: Policy, program: AnyProgram, form: Form, golden: Golden | None = None) -> Package:
    return emit(
        policy,
        program,
        fused=form.fused,
        assembly=form.assembly,
        golden=golden,
        writings=form.writings,
    )


def identify(folder: Path, target: Target, compiler_version: str, flags: tuple[str, ...]) -> str:
    """The build_id of the sources in `folder` (DESIGN §3), compiled as the rest says."""
    files = [folder / "policy.onnx", folder / "golden.bin", *sorted(folder.glob("src/*"))]
    return build_id(
        {
            **{p.relative_to(folder).as_posix(): p.read_bytes() for p in files},
            # Sorted: a table of the row may come back from the manifest in another order.
            "target": json.dumps(target.model_dump(mode="json"), sort_keys=True).encode(),
            "flags": json.dumps(flags).encode(),
            "compiler": compiler_version.encode(),
        }
    )


def candidates_of(artifact: Artifact) -> tuple[Candidate, ...]:
    """The candidates of the search that chose the artifact's format, none if nobody searched.

    Raises UserError, naming the file, for one that cannot be read.
    """
    path = artifact.folder / CANDIDATES
    if not path.exists():
        return ()
    try:
        return TypeAdapter(_Candidates).validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{path}: no candidates of a search; compile again") from error


def rebuild(artifact: Artifact, target: Target, compiler: Compiler, folder: Path) -> Image:
    """Build the artifact's firmware again from its sources, into `folder`, with `compiler`."""
    return build_firmware(
        artifact.source,
        artifact.name,
        target,
        compiler,
        folder,
        build_id=artifact.manifest.build_id,
        portable=not artifact.manifest.kernels,
    )


def host_twin(package: Package, folder: Path) -> HostTwin:
    """The portable twin of `package`, built in `folder`."""
    _write(package, folder / "src")
    return build_host(folder / "src", package.name, folder)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for one build. Where a loaded library cannot be deleted (Windows) it may stay."""
    with tempfile.TemporaryDirectory(prefix="edgerl-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _firmware(
    package: Package,
    target: Target,
    compiler: Compiler,
    folder: Path,
    identity: str,
    assembly: str,
) -> Image:
    source = folder / "src"
    _write(package, source)
    return build_firmware(
        source, package.name, target, compiler, folder, build_id=identity, portable=not assembly
    )


def _portable(package: Package) -> str:
    return f"-D{package.name.upper()}_PORTABLE"


def _write(package: Package, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in package.files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def _golden(policy: Policy, twin: HostTwin, numerics: str) -> GoldenFile:
    traces = []
    for mode in ("evaluate", "step"):
        observations, resets = goldens.inputs(policy, mode)
        run = replace(twin.trace(observations, resets, mode), states=None)
        traces.append(Trace(mode, observations, resets, run))
    source = policy.examples.source if policy.examples else ""
    return GoldenFile(
        numerics, policy.name, (traces[0], traces[1]), goldens.published(policy), source
    )


def _self_test(trace: Trace) -> Golden:
    first = slice(0, goldens.SELF_TEST_STEPS)
    actions = np.ascontiguousarray(trace.expected.actions[first])
    return Golden(trace.observations[first], actions.view(np.uint32))


def _manifest(
    policy: Policy,
    program: AnyProgram,
    package: Package,
    form: Form,
    target: Target,
    compiler: CompilerEntry,
    identity: str,
) -> Manifest:
    return Manifest(
        policy=PolicyEntry(
            name=policy.name,
            sha256=policy.sha256(),
            parameters=policy.parameters,
            macs=program.macs,
            licence=policy.spec.licence,
            provenance=policy.provenance,
            assumed=policy.assumed,
        ),
        spec=policy.spec,
        target=target,
        format=program.number_format if isinstance(program, FixedProgram) else "f32",
        numerics=package.numerics,
        fused=package.fused,
        kernels=package.assembly,
        state_bytes=package.state_bytes,
        compiler=compiler,
        build_id=identity,
        tools={name: version(name) for name in ("edgerl", "onnx", "numpy")},
        files={},
        layers=form.layers,
    )
