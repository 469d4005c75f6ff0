"""The `edgerl` command: argument parsing and printing, nothing else.

Standard output carries the result (a table, or JSON with --json); progress and messages go to
standard error. Exit codes: 0 good, 1 a limit was missed, 2 the user's mistake, 3 a tool failed
or is missing.
"""

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec

import typer

from edgerl.console import Console
from edgerl.errors import EdgerlError, UserError

P = ParamSpec("P")

app = typer.Typer(
    name="edgerl",
    help="From a learned controller to verified firmware.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Examples:  edgerl compile raptor --target crazyflie21 --check   "
    "edgerl inspect policy.onnx   edgerl doctor",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no remarks.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
SpecFile = Annotated[
    Path | None, typer.Option("--spec", help="TOML file naming signals, units, ranges and rate.")
]
Limit = Annotated[
    list[str] | None,
    typer.Option("--limit", help="Bound a figure, e.g. instructions=2900. Repeatable."),
]


def command(body: Callable[P, int]) -> Callable[P, None]:
    """A verb: its body returns the exit code; errors become one line and theirs."""

    @wraps(body)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = body(*args, **kwargs)
        except EdgerlError as error:
            if kwargs.get("debug"):
                raise
            print(f"edgerl: {error}", file=sys.stderr)
            code = error.exit_code
        except KeyboardInterrupt:
            print("edgerl: interrupted; finished stages are kept, run again", file=sys.stderr)
            code = 130
        except BrokenPipeError:
            sys.stderr.close()
            code = 0
        raise typer.Exit(code)

    return run


@app.command(name="compile", epilog="Example:  edgerl compile raptor --target crazyflie21 --check")
@command
def compile_verb(
    source: Annotated[str, typer.Argument(help="A family's name, an .onnx file, or a recipe.toml.")],
    target: Annotated[str | None, typer.Option("--target", "-t", help="See: edgerl targets")] = None,
    spec: SpecFile = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Artifact folder.")] = None,
    fma: Annotated[
        Literal["on", "off", "auto"],
        typer.Option(help="Fused multiply-add; auto takes the form with fewer modelled cycles."),
    ] = "auto",
    kernels: Annotated[
        Literal["auto", "portable"], typer.Option(help="Assembly where there is some, or C alone.")
    ] = "auto",
    compiler: Annotated[str, typer.Option(help="zig (pip) or gcc.")] = "zig",
    check: Annotated[bool, typer.Option("--check", help="Prove the result.")] = False,
    limit: Limit = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ignore results of earlier runs.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Compile a policy into C, firmware and golden vectors for a target."""
    from edgerl import pipeline
    from edgerl.recipe import Check, Recipe, Source, TargetChoice, load_recipe

    if source.endswith(".toml"):
        if target is not None or limit or spec is not None:
            raise UserError(f"{source}: a recipe names target, spec and limits itself")
        recipe = load_recipe(Path(source))
    elif target is None:
        raise UserError("--target is missing; see: edgerl targets")
    else:
        bounds = _bounds(limit)
        recipe = Recipe(
            source=Source(policy=source, spec=spec),
            target=TargetChoice(
                name=target, fma=fma, kernels=kernels, compiler=compiler, output=output
            ),
            check=Check(limits=bounds) if check or bounds else None,
        )
    console = Console(quiet=quiet or as_json)
    outcome = pipeline.run(recipe, console, _cache(fresh))
    _print_report(outcome.report.to_json(), as_json, console, outcome.artifact.folder)
    return 0 if outcome.report.ok else 1


@app.command(epilog="Example:  edgerl check build/raptor-crazyflie21-f32")
@command
def check(
    artifact: Annotated[Path, typer.Argument(help="Folder that a compile left.")],
    limit: Limit = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ignore results of earlier runs.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Prove an artifact: parity, counts, errors, closed loop, limits."""
    from edgerl import checking, pipeline
    from edgerl.recipe import Check
    from edgerl.toolchain.artifact import read_artifact

    console = Console(quiet=quiet or as_json)
    opened = read_artifact(artifact)
    report = checking.check(opened, Check(limits=_bounds(limit)), console, _cache(fresh))
    pipeline.publish_report(opened, report)
    _print_report(report.to_json(), as_json, console, artifact)
    return 0 if report.ok else 1


@app.command(epilog="Example:  edgerl inspect policy.onnx --spec spec.toml")
@command
def inspect(
    source: Annotated[str, typer.Argument(help="A family's name or a policy file.")],
    spec: SpecFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Show what a policy is: signals, layers, parameters, and what was assumed."""
    from edgerl.inspection import inspect as look

    facts = look(source, spec)
    if as_json:
        print(json.dumps(facts.to_json(), indent=1, sort_keys=True))
    else:
        Console(quiet=quiet).inspection(facts)
    return 0


@app.command()
@command
def targets(as_json: Json = False, debug: Debug = False) -> int:
    """List the boards and cores that edgerl compiles for."""
    from edgerl.targets import targets as known

    rows = list(known().values())
    if as_json:
        print(json.dumps([row.model_dump(mode="json") for row in rows], indent=1))
    else:
        Console().targets(rows)
    return 0


@app.command()
@command
def policies(as_json: Json = False, debug: Debug = False) -> int:
    """List the published policies that edgerl loads by name."""
    from edgerl.policies import policies as known

    rows = [{"name": f.name, "about": f.about} for f in known()]
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        Console().rows("policy", rows)
    return 0


@app.command()
@command
def doctor(as_json: Json = False, debug: Debug = False) -> int:
    """Show which tools were found, what each missing one would add, and how to install it."""
    from edgerl.diagnosis import diagnose

    rows = diagnose()
    if as_json:
        print(json.dumps([vars(row) for row in rows], indent=1))
    else:
        Console().diagnosis(rows)
    return 0


def _bounds(limit: list[str] | None) -> dict[str, float]:
    """`name=number` options as a table. UserError naming the one that is none."""
    bounds = {}
    for text in limit or []:
        name, _, number = text.partition("=")
        try:
            bounds[name] = float(number)
        except ValueError:
            raise UserError(f"--limit {text!r}: write it as name=number") from None
    return bounds


def _cache(fresh: bool) -> Any:
    from edgerl.stages import StageCache
    from edgerl.toolchain.build import cache_folder

    return StageCache(None if fresh else cache_folder("stages"))


def _print_report(data: dict[str, Any], as_json: bool, console: Console, folder: Path) -> None:
    if as_json:
        print(json.dumps(data, indent=1, sort_keys=True))
    else:
        console.report(data, folder)


def main() -> None:
    """Entry point of the `edgerl` command."""
    app()


if __name__ == "__main__":
    main()
