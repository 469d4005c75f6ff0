"""The verbs of the `edgerl` command: argument parsing and printing, nothing else.

Standard output carries the result (a table, or JSON with --json); progress and messages go to
standard error.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer.completion import install_callback, show_callback

from edgerl.console import Console
from edgerl.errors import UserError
from edgerl.exits import GOOD, MISSED, command
from edgerl.listing import listing
from edgerl.options import Debug, Json, print_json, target_names

if TYPE_CHECKING:
    from edgerl.recipe import Check, Recipe
    from edgerl.stages import StageCache
    from edgerl.toolchain.report.model import Report

app = typer.Typer(
    name="edgerl",
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Examples:  edgerl compile raptor --target crazyflie21 --check   "
    "edgerl inspect policy.onnx   edgerl doctor",
)

_RECIPE_SAYS = (
    "target",
    "spec",
    "layers",
    "vecnormalize",
    "output",
    "format",
    "calibration",
    "fma",
    "sparse",
    "kernels",
    "compiler",
    "limit",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        import edgerl

        print(f"edgerl {edgerl.__version__}")
        raise typer.Exit


Shell = Literal["bash", "zsh", "fish", "powershell", "pwsh"]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no remarks.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Ignore results of earlier runs.")]
SpecFile = Annotated[
    Path | None, typer.Option("--spec", help="TOML file naming signals, units, ranges and rate.")
]
LayersFile = Annotated[
    Path | None, typer.Option("--layers", help="TOML file that lists the layers of bare weights.")
]
VecNormalizeFile = Annotated[
    Path | None,
    typer.Option("--vecnormalize", help="The statistics that VecNormalize.save() wrote."),
]


def _limits(example: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        "--limit", metavar="NAME=NUMBER", help=f"Bound a figure: {example}. Repeatable."
    )
    return option


Limits = Annotated[list[str] | None, _limits("instructions=2900")]
FlightLimits = Annotated[list[str] | None, _limits("survival=0.95")]
ReplayLimits = Annotated[list[str] | None, _limits("max_abs_difference=1e-6")]


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
    show_completion: Annotated[
        Shell | None,
        typer.Option(callback=show_callback, is_eager=True, help="Print a shell's completion."),
    ] = None,
    install_completion: Annotated[
        Shell | None,
        typer.Option(callback=install_callback, is_eager=True, help="Install it for a shell."),
    ] = None,
) -> None:
    """From a learned controller to verified firmware."""


@app.command(name="compile", epilog="Example:  edgerl compile raptor --target crazyflie21 --check")
@command
def compile_verb(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(help="A family's name, a policy's file, or a recipe.toml.")
    ],
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "-t",
            help="A name (see: edgerl targets) or a board.toml.",
            autocompletion=target_names,
        ),
    ] = None,
    spec: SpecFile = None,
    layers: LayersFile = None,
    vecnormalize: VecNormalizeFile = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Artifact folder.")] = None,
    format: Annotated[
        Literal["f32", "w32a32", "w16a16", "w8a16", "w4a16", "w8a8", "auto"] | None,
        typer.Option(
            "--format",
            "-f",
            help="Floats, or integers: bits of weights, of activations; auto: the smallest program "
            "that holds; by default what the policy says, else f32.",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="A .npy of observations that integers are chosen by."),
    ] = None,
    fma: Annotated[
        Literal["on", "off", "auto"],
        typer.Option(help="Fused multiply-add; auto takes the form with fewer modelled cycles."),
    ] = "auto",
    sparse: Annotated[
        Literal["auto", "flash", "off"],
        typer.Option(help="Layers with zeros: fewest instructions in no more bytes; fewest bytes."),
    ] = "auto",
    kernels: Annotated[
        Literal["auto", "portable"], typer.Option(help="Assembly where there is some, or C alone.")
    ] = "auto",
    compiler: Annotated[
        Literal["zig", "gcc"], typer.Option(help="zig comes with pip; gcc is used where it is.")
    ] = "zig",
    check: Annotated[bool, typer.Option("--check", help="Prove the result.")] = False,
    limit: Limits = None,
    fresh: Fresh = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Compile a policy into C, firmware and golden vectors for a target."""
    from edgerl import pipeline
    from edgerl.documents import validated
    from edgerl.recipe import Recipe

    if source.endswith(".toml"):
        recipe = _recipe(Path(source), context, check)
    elif target is None:
        raise UserError("--target is missing; see: edgerl targets")
    else:
        choice = {
            "name": target,
            "format": format,
            "fma": fma,
            "sparse": sparse,
            "kernels": kernels,
            "compiler": compiler,
        }
        asked = _asked(limit)
        rows = {
            "source": {
                "policy": source,
                "spec": spec,
                "layers": layers,
                "vecnormalize": vecnormalize,
            },
            "target": {**choice, "output": output},
            "quantise": {"calibration": calibration},
            "check": asked if check or asked.limits else None,
        }
        recipe = validated(Recipe, rows, "command line")
    console = Console(quiet=quiet)
    outcome = pipeline.run(recipe, console, _cache(fresh))
    return _conclude(outcome.report, outcome.artifact.folder, as_json, console)


@app.command(epilog="Example:  edgerl tune raptor --format w4a16 -o raptor-w4.onnx")
@command
def tune(
    source: Annotated[str, typer.Argument(help="A family's name or a policy's file.")],
    format: Annotated[
        Literal["w16a16", "w8a16", "w4a16"],
        typer.Option("--format", "-f", help="The format that it is to act in as in floats."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .onnx file to write.")],
    spec: SpecFile = None,
    calibration: Annotated[
        Path | None, typer.Option(help="A .npy of observations to learn and calibrate on.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Fine-tune a policy for weights of few bits (needs torch)."""
    from edgerl.tuning import tune as train

    console = Console(quiet=quiet)
    made = train(source, format, output, spec=spec, calibration=calibration, watcher=console)
    if as_json:
        print_json(made.to_json())
    else:
        print(
            f"{made.path}: {made.format}, {made.steps} steps, mean square difference of actions "
            f"{made.loss_before:.3g} -> {made.loss_after:.3g}"
        )
    return GOOD


@app.command(epilog="Example:  edgerl check build/raptor-crazyflie21-f32")
@command
def check(
    artifact: Annotated[Path, typer.Argument(help="Folder that a compile left.")],
    limit: Limits = None,
    fresh: Fresh = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Prove an artifact: parity, counts, errors, closed loop, limits."""
    from edgerl import checking, reports
    from edgerl.toolchain.artifact import read_artifact

    console = Console(quiet=quiet)
    asked = _asked(limit)
    opened = read_artifact(artifact)
    report = checking.check(opened, asked, console, _cache(fresh))
    reports.publish(opened, report)
    return _conclude(report, artifact, as_json, console)


@app.command(epilog="Example:  edgerl evaluate raptor --suite hover --limit survival=0.95")
@command
def evaluate(
    source: Annotated[str, typer.Argument(help="A family's name, a policy file, an artifact.")],
    suite: Annotated[str, typer.Option("--suite", "-s", help="hover or figure8.")],
    spec: SpecFile = None,
    episodes: Annotated[
        int | None, typer.Option("--episodes", "-n", min=1, max=1_000_000, help="Vehicles to fly.")
    ] = None,
    feedback: Annotated[
        Literal["raw", "clamped"],
        typer.Option(help="Which previous action the policy sees; raw flies the bare network."),
    ] = "clamped",
    limit: FlightLimits = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Fly a policy or an artifact in closed loop."""
    from edgerl.evaluation import evaluate as fly

    console = Console(quiet=quiet)
    evaluation = fly(
        source, suite, spec=spec, episodes=episodes, feedback=feedback,
        limits=_bounds(limit), watcher=console,
    )  # fmt: skip
    if as_json:
        print_json(evaluation.to_json())
    else:
        console.evaluation(evaluation)
    return GOOD if evaluation.ok else MISSED


@app.command(epilog="Example:  edgerl replay flight.csv --artifact build/raptor-crazyflie21-f32")
@command
def replay(
    log: Annotated[Path, typer.Argument(help="CSV file with a column for every observation.")],
    artifact: Annotated[Path, typer.Option("--artifact", "-a", help="Folder that a compile left.")],
    on: Annotated[
        Literal["host", "emulated"],
        typer.Option(help="The host twin, or the firmware on an emulated core."),
    ] = "host",
    mode: Annotated[
        Literal["step", "evaluate"], typer.Option(help="The guarded step or the bare network.")
    ] = "step",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for actions.csv and replay.html.")
    ] = None,
    limit: ReplayLimits = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Run a recorded log through an artifact and plot it action by action."""
    from edgerl.replaying import replay as run_log

    console = Console(quiet=quiet)
    replayed = run_log(
        log, artifact, on=on, mode=mode, output=output, limits=_bounds(limit), watcher=console
    )
    if as_json:
        print_json(replayed.to_json())
    else:
        console.replay(replayed)
    return GOOD if replayed.ok else MISSED


@app.command(epilog="Example:  edgerl inspect policy.onnx --spec spec.toml")
@command
def inspect(
    source: Annotated[str, typer.Argument(help="A family's name or a policy file.")],
    spec: SpecFile = None,
    layers: LayersFile = None,
    vecnormalize: VecNormalizeFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Show what a policy is: signals, layers, parameters, and what was assumed."""
    from edgerl.inspection import inspect as look

    facts = look(source, spec, layers, vecnormalize)
    if as_json:
        print_json(facts.to_json())
    else:
        Console(quiet=quiet).inspection(facts)
    return GOOD


@app.command(name="import", epilog="Example:  edgerl import ppo.zip -o policy.onnx")
@command
def import_verb(
    source: Annotated[
        Path, typer.Argument(help="A checkpoint: .zip, .pt, .pt2, .safetensors, .h5, .onnx.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The policy's file; else NAME.onnx.")
    ] = None,
    spec: SpecFile = None,
    layers: LayersFile = None,
    vecnormalize: VecNormalizeFile = None,
    template: Annotated[
        Path | None,
        typer.Option("--template", help="Only write a spec to fill in, from what is known."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Make a checkpoint of another tool the one .onnx file that a policy is."""
    from edgerl.importing import bring, write_spec

    console = Console(quiet=quiet)
    if template is not None:
        write_spec(source, template, layers=layers, vecnormalize=vecnormalize)
        console.say(f"wrote {template}: change what is not so, then give --spec {template}")
        return GOOD
    imported = bring(source, output, spec=spec, layers=layers, vecnormalize=vecnormalize)
    if as_json:
        print_json(imported.to_json())
    else:
        console.inspection(imported.facts)
        console.say(f"wrote {imported.path}")
    return GOOD


app.add_typer(listing)


def _recipe(path: Path, context: typer.Context, check: bool) -> "Recipe":
    """The recipe in a file, checked if it or the command line says so."""
    from edgerl.recipe import Check, load_recipe

    for name in _RECIPE_SAYS:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UserError(f"--{name}: {path} is a recipe, which says that itself; put it there")
    recipe = load_recipe(path)
    return recipe.model_copy(update={"check": Check()}) if check and not recipe.check else recipe


def _asked(limit: list[str] | None) -> "Check":
    from edgerl.documents import validated
    from edgerl.recipe import Check

    return validated(Check, {"limits": _bounds(limit)}, "--limit")


def _bounds(limit: list[str] | None) -> dict[str, float]:
    """`name=number` options as a table. UserError naming the one that is none."""
    bounds: dict[str, float] = {}
    for text in limit or []:
        name, _, number = text.partition("=")
        try:
            bound = float(number)
        except ValueError:
            raise UserError(f"--limit {text[:60]!r}: write it as name=number") from None
        if not 0.0 <= bound < float("inf"):
            raise UserError(f"--limit {text[:60]!r}: a limit is a finite number, 0 or more")
        if name in bounds:
            raise UserError(f"--limit {name[:60]!r}: is given twice")
        bounds[name] = bound
    return bounds


def _cache(fresh: bool) -> "StageCache":
    from edgerl.stages import StageCache
    from edgerl.toolchain.build import cache_folder

    return StageCache(None if fresh else cache_folder("stages"))


def _conclude(report: "Report", folder: Path, as_json: bool, console: Console) -> int:
    """Print a report; the exit code that it means."""
    if as_json:
        print_json(report.to_json())
    else:
        console.report(report, folder)
    return GOOD if report.ok else MISSED
