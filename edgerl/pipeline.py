"""The stages composed: a recipe in, an artifact and its report out."""

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from edgerl.checking import blank, check
from edgerl.policies import PolicySpec, load
from edgerl.recipe import Recipe
from edgerl.stages import Silence, StageCache, Watcher, watched
from edgerl.targets import Target, target
from edgerl.toolchain.artifact import Artifact, write_aside
from edgerl.toolchain.build import Compiler, find
from edgerl.toolchain.checks.measure import sizes
from edgerl.toolchain.compiling import Form, choose_fused, compile_policy, kernels_for, rebuild
from edgerl.toolchain.lowering import lower
from edgerl.toolchain.report.html import render
from edgerl.toolchain.report.model import Measured, Report

DEFAULT_FOLDER = Path("build")


@dataclass(frozen=True)
class Outcome:
    """What a pipeline left: the artifact and its report."""

    artifact: Artifact
    report: Report


def run(recipe: Recipe, watcher: Watcher | None = None, cache: StageCache | None = None) -> Outcome:
    """Run a recipe: load, lower, compile, and check if it says so.

    Raises UserError and ToolError; a missed limit raises nothing and stands in the report.
    """
    watcher = watcher or Silence()
    cache = cache or StageCache(None)
    choice = recipe.target
    goal = target(choice.name)
    compiler = find(choice.compiler, goal.core)
    with watched(watcher, "load"):
        policy = load(recipe.source.policy, recipe.source.spec)
        for line in policy.assumed:
            watcher.say(f"assumed: {line}")
    with watched(watcher, "lower"):
        program = lower(policy)
    assembly = kernels_for(goal, choice.kernels)
    fused = choice.fma == "on"
    if choice.fma == "auto":
        with watched(watcher, "choose"):
            fused = cache.get(
                "choose",
                {
                    "policy": policy.sha256(),
                    "target": goal.model_dump(mode="json"),
                    "kernels": assembly,
                    "compiler": compiler.version,
                },
                bool,
                lambda: choose_fused(policy, program, goal, assembly, compiler),
            )
    folder = choice.output or DEFAULT_FOLDER / f"{policy.name}-{goal.name}-{choice.format}"
    with watched(watcher, "compile"):
        artifact = compile_policy(policy, program, goal, Form(fused, assembly), compiler, folder)
    checked = check(artifact, recipe.check, watcher, cache) if recipe.check else None
    report = checked or _sized(artifact, compiler)
    publish_report(artifact, report)
    return Outcome(artifact, report)


def publish_report(artifact: Artifact, report: Report) -> None:
    """Write report.json and report.html into the artifact, each aside first."""
    spec = PolicySpec.model_validate(artifact.manifest["spec"])
    clock = int(artifact.manifest["target"]["clock_hz"])
    data = json.dumps(report.to_json(), indent=1, sort_keys=True) + "\n"
    write_aside(artifact.folder / "report.json", data)
    write_aside(artifact.folder / "report.html", render(report, spec, clock_hz=clock))


def _sized(artifact: Artifact, compiler: Compiler) -> Report:
    """The report of an unchecked artifact: what its image says without running."""
    goal = Target.model_validate(artifact.manifest["target"])
    measured = Measured(state_bytes=int(artifact.manifest["state_bytes"]))
    if not goal.native:
        with tempfile.TemporaryDirectory(prefix="edgerl-") as scratch:
            image = rebuild(artifact, goal, compiler, Path(scratch))
            measured = sizes(image, int(artifact.manifest["state_bytes"]))
    return replace(blank(artifact), measured=measured)
