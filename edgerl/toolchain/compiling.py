"""Compiling: a policy and a target become an artifact."""

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edgerl.policies import Policy
from edgerl.targets import Target
from edgerl.toolchain import golden as goldens
from edgerl.toolchain import ir
from edgerl.toolchain.artifact import Artifact, build_id, published, read_artifact, write_manifest
from edgerl.toolchain.build import Compiler, HostTwin, Image, build_firmware, build_host
from edgerl.toolchain.emit import Golden, Package, emit
from edgerl.toolchain.golden import GoldenFile, Trace
from edgerl.toolchain.sbom import bill

_COUNTED = 4  # inputs counted to choose a form: every input takes the same path


@dataclass(frozen=True)
class Form:
    """How a program is written: multiply-adds fused or not, and which assembly family."""

    fused: bool
    assembly: str


def kernels_for(target: Target, kernels: str) -> str:
    """The assembly family for `target`, or "" where there is none or `kernels` is portable."""
    return target.core.kernels if kernels == "auto" else ""


def choose_fused(
    policy: Policy, program: ir.Program, target: Target, assembly: str, compiler: Compiler
) -> bool:
    """Whether fused multiply-adds are the better form for `target`: fewer modelled cycles.

    Where no published timing models the core there is nothing to weigh but instructions, of
    which the fused form always has fewer; a core without the instruction, and the host, whose
    processor is not known to have it, get the unfused form. Raises ToolError when the core has
    a timing table but no emulator is installed.
    """
    if target.native or not target.core.fma:
        return False
    if not target.core.cycles:
        return True
    modelled = {}
    for fused in (True, False):
        package = emit(policy, program, fused=fused, assembly=assembly)
        with tempfile.TemporaryDirectory(prefix="edgerl-") as folder:
            image = _firmware(package, target, compiler, Path(folder), "0" * 64, assembly)
            modelled[fused] = _cycles(image, target, package.plan.observation_size)
    return modelled[True] <= modelled[False]


def _cycles(image: Image, target: Target, observation_size: int) -> int:
    from edgerl.toolchain.emulators import UnicornCore, count

    counted = count(UnicornCore(image, target), np.zeros((_COUNTED, observation_size), np.float32))
    assert counted.cycles_model is not None
    return counted.cycles_model


def compile_policy(
    policy: Policy,
    program: ir.Program,
    target: Target,
    form: Form,
    compiler: Compiler,
    folder: Path,
    say: Callable[[str], None] = lambda stage: None,
) -> Artifact:
    """Emit, run once on the host for the golden bits, build, and publish to `folder`.

    `say` is told each step's name. Raises UserError when the policy does not fit the target or
    `folder` is in use, ToolError when a compiler is missing or fails.
    """
    say("emit")
    draft = emit(policy, program, fused=form.fused, assembly=form.assembly)
    with tempfile.TemporaryDirectory(prefix="edgerl-") as scratch:
        twin = _host(draft, Path(scratch))
        golden = _golden(policy, twin, draft.numerics)
    package = emit(
        policy,
        program,
        fused=form.fused,
        assembly=form.assembly,
        golden=_self_test(golden.evaluate),
    )
    say("build")
    with published(folder) as aside:
        (aside / "policy.onnx").write_bytes(policy.serialized())
        (aside / "golden.bin").write_bytes(goldens.serialize(golden))
        _write(package, aside / "src")
        flags = [] if form.assembly or target.native else [f"-D{package.name.upper()}_PORTABLE"]
        identity = build_id(
            {
                "policy.onnx": (aside / "policy.onnx").read_bytes(),
                "golden.bin": (aside / "golden.bin").read_bytes(),
                **{f"src/{n}": t.encode() for n, t in package.files.items()},
                "target": target.model_dump_json().encode(),
                "flags": json.dumps([*compiler.core_flags, *compiler.flags, *flags]).encode(),
                "compiler": compiler.version.encode(),
            }
        )
        if not target.native:
            _firmware(package, target, compiler, aside, identity, form.assembly)
        made = {
            p.relative_to(aside).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(aside.rglob("*"))
            if p.is_file()
        }
        (aside / "sbom.cdx.json").write_text(bill(policy, identity, compiler.version, made))
        write_manifest(aside, _facts(policy, program, package, target, form, compiler, identity))
    return read_artifact(folder)


def rebuild(artifact: Artifact, target: Target, compiler: Compiler, folder: Path) -> Image:
    """Build the artifact's firmware again from its sources, into `folder`, with `compiler`."""
    return build_firmware(
        artifact.source,
        artifact.name,
        target,
        compiler,
        folder,
        build_id=str(artifact.manifest["build_id"]),
        portable=not artifact.manifest["kernels"],
    )


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


def _host(package: Package, folder: Path) -> HostTwin:
    _write(package, folder / "src")
    return build_host(folder / "src", package.name, folder)


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


def _facts(
    policy: Policy,
    program: ir.Program,
    package: Package,
    target: Target,
    form: Form,
    compiler: Compiler,
    identity: str,
) -> dict[str, Any]:
    return {
        "policy": {
            "name": policy.name,
            "sha256": policy.sha256(),
            "parameters": policy.parameters,
            "macs": program.macs,
            "licence": policy.spec.licence,
            "provenance": policy.provenance,
            "assumed": list(policy.assumed),
        },
        "spec": policy.spec.model_dump(mode="json"),
        "target": target.model_dump(mode="json"),
        "format": "f32",
        "numerics": package.numerics,
        "fused": form.fused,
        "kernels": form.assembly,
        "state_bytes": package.state_bytes,
        "compiler": {
            "family": compiler.name,
            "version": compiler.version,
            "flags": [*compiler.core_flags, *compiler.flags],
        },
        "build_id": identity,
        "tools": {"edgerl": version("edgerl"), "onnx": version("onnx"), "numpy": version("numpy")},
    }
