"""The stages composed: a recipe in, an artifact and its report out."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgerl.errors import ToolError
from edgerl.policies import Policy, load
from edgerl.recipe import Quantise, Recipe
from edgerl.reports import blank, publish
from edgerl.stages import Silence, StageCache, Watcher, watched
from edgerl.targets import Target, find_target
from edgerl.toolchain import ir
from edgerl.toolchain.artifact import Artifact, require_free
from edgerl.toolchain.build import Compiler, find
from edgerl.toolchain.compiling import AnyProgram, Form, compile_policy, form_for, sparse_layers
from edgerl.toolchain.lowering import lower
from edgerl.toolchain.manifest import LayerChoice
from edgerl.toolchain.quantisation.formats import DEFAULT
from edgerl.toolchain.quantisation.trained import trained_integers
from edgerl.toolchain.report.model import Candidate, Report
from edgerl.toolchain.sparsity import Prefer, with_zeros

if TYPE_CHECKING:
    from edgerl.searching import Search
    from edgerl.toolchain.quantisation.calibration import Calibration

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
    choice, quantising = recipe.target, recipe.quantise or Quantise()
    goal = find_target(choice.name)
    compiler = find(choice.compiler, goal.built_for)
    if recipe.check:
        # Imported where there is something to check: a compile alone is not to wait for it.
        from edgerl.checking import check
        from edgerl.subject import require_emulator

        require_emulator(goal)
    with watched(watcher, "load"):
        source = recipe.source
        policy = policy or load(
            source.policy, source.spec, layers=source.layers, vecnormalize=source.vecnormalize
        )
        for line in policy.assumed:
            watcher.say(f"assumed: {line}")
    number_format: str | Mapping[str, str] = choice.format or policy.formats or "f32"
    kind = number_format if isinstance(number_format, str) else number_format[DEFAULT]
    if kind != "auto":
        goal.core.require_format(kind)
    folder = choice.output or DEFAULT_FOLDER / f"{policy.name}-{goal.name}-{kind}"
    require_free(folder)
    if choice.fma == "on" and not goal.core.fma:
        watcher.say(f"{goal.core.name} has no fused multiply-add: --fma on becomes off")
    with watched(watcher, "lower"):
        program: AnyProgram = lower(policy, integers=number_format != "f32")
    candidates: tuple[Candidate, ...] = ()
    trained = trained_integers(policy) if number_format == policy.formats else None
    if trained is not None:
        program = trained
    elif isinstance(program, ir.Program) and number_format != "f32":
        calibration = _calibrated(policy, program, quantising, watcher)
        if number_format == "auto":
            search = _search(recipe, policy, program, calibration, goal, compiler, watcher, cache)
            number_format, candidates = search.chosen()
        if number_format != "f32":
            from edgerl.toolchain.quantisation.conversion import quantise

            with watched(watcher, "quantise"):
                program = quantise(program, calibration, number_format, spec=policy.spec)
    form = form_for(goal, program, choice.kernels, choice.fma)
    if choice.sparse != "off":
        prefer: Prefer = "flash" if choice.sparse == "flash" else "instructions"
        layers = _sparse(policy, program, goal, form, compiler, prefer, watcher)
        form = replace(form, layers=layers)
    with watched(watcher, "compile"):
        compiled = compile_policy(policy, program, goal, form, compiler, folder, candidates)
    artifact = compiled.artifact
    report = replace(blank(artifact), measured=compiled.measured)
    publish(artifact, report)
    if recipe.check:
        report = check(artifact, recipe.check, watcher, cache)
        publish(artifact, report)
    return Outcome(artifact, report)


def _sparse(
    policy: Policy,
    program: AnyProgram,
    goal: Target,
    form: Form,
    compiler: Compiler,
    prefer: Prefer,
    watcher: Watcher,
) -> tuple[LayerChoice, ...]:
    """How layers with zeros are written. On the host all are dense, and where nothing can be
    counted, which is said."""
    if goal.native or not with_zeros(program):
        return ()
    from edgerl.subject import require_emulator

    try:
        require_emulator(goal)
    except ToolError as error:
        watcher.say(f"layers with zeros stay dense, for nothing can be counted: {error}")
        return ()
    with watched(watcher, "sparse"):
        chosen = sparse_layers(policy, program, goal, form, compiler, prefer)
    for each in chosen:
        watcher.say(each.told)
    return chosen


def _calibrated(
    policy: Policy, program: ir.Program, choice: Quantise, watcher: Watcher
) -> "Calibration":
    """What integers are chosen by, and everything worth saying of it said."""
    from edgerl.toolchain.quantisation.sources import calibration_for

    with watched(watcher, "calibrate") as advance:
        calibration = calibration_for(
            policy,
            program,
            choice.calibration,
            method=choice.method,
            percentile=choice.percentile,
            progress=advance,
        )
    for line in calibration.remarks:
        watcher.say(line)
    return calibration


def _search(
    recipe: Recipe,
    policy: Policy,
    program: ir.Program,
    calibration: "Calibration",
    goal: Target,
    compiler: Compiler,
    watcher: Watcher,
    cache: StageCache,
) -> "Search":
    """The search for a format that a recipe asks for."""
    from edgerl.searching import Search

    return Search(
        policy=policy,
        program=program,
        goal=goal,
        compiler=compiler,
        kernels=recipe.target.kernels,
        fma=recipe.target.fma,
        calibration=calibration,
        choice=recipe.quantise or Quantise(),
        budget=recipe.check.limits if recipe.check else {},
        watcher=watcher,
        cache=cache,
    )
