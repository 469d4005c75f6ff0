"""The stages composed: a recipe in, an artifact and its report out."""

from dataclasses import dataclass, replace
from pathlib import Path

from edgerl.policies import Policy, load
from edgerl.recipe import Recipe
from edgerl.reports import blank, publish
from edgerl.stages import Silence, StageCache, Watcher, watched
from edgerl.targets import find_target
from edgerl.toolchain.artifact import Artifact, require_free
from edgerl.toolchain.build import find
from edgerl.toolchain.compiling import Form, choose_fused, compile_policy, kernels_for
from edgerl.toolchain.lowering import lower
from edgerl.toolchain.report.model import Report

DEFAULT_FOLDER = Path("build")


@dataclass(frozen=True)
class Outcome:
    """What a pipeline left: the artifact and its report."""

    artifact: Artifact
    report: Report


def run(
    recipe: Recipe,
    watcher: Watcher | None = None,
    cache: StageCache | None = None,
    *,
    policy: Policy | None = None,
) -> Outcome:
    """Run a recipe: load, lower, compile, and check if it says so.

    `policy` stands in place of the recipe's source, for one that is loaded already.
    Raises UserError and ToolError; a missed limit raises nothing and stands in the report. What
    can be refused at the start is, before any work is done.
    """
    watcher = watcher or Silence()
    cache = cache or StageCache(None)
    choice = recipe.target
    goal = find_target(choice.name)
    goal.core.require_format(choice.format)
    compiler = find(choice.compiler, goal.built_for)
    if recipe.check:
        # Imported where there is something to check: a compile alone is not to wait for it.
        from edgerl.checking import check, require_emulator

        require_emulator(goal)
    with watched(watcher, "load"):
        source = recipe.source
        policy = policy or load(
            source.policy, source.spec, layers=source.layers, vecnormalize=source.vecnormalize
        )
        for line in policy.assumed:
            watcher.say(f"assumed: {line}")
    folder = choice.output or DEFAULT_FOLDER / f"{policy.name}-{goal.name}-{choice.format}"
    require_free(folder)
    with watched(watcher, "lower"):
        program = lower(policy)
    assembly = kernels_for(goal, choice.kernels)
    fused = choose_fused(goal) if choice.fma == "auto" else choice.fma == "on"
    if fused and not goal.core.fma:
        watcher.say(f"{goal.core.name} has no fused multiply-add: --fma on becomes off")
        fused = False
    with watched(watcher, "compile"):
        form = Form(fused, assembly)
        compiled = compile_policy(policy, program, goal, form, compiler, folder)
    artifact = compiled.artifact
    report = replace(blank(artifact), measured=compiled.measured)
    publish(artifact, report)
    if recipe.check:
        report = check(artifact, recipe.check, watcher, cache)
        publish(artifact, report)
    return Outcome(artifact, report)
