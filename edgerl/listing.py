"""Verbs that list what there is: targets, policies, signals, kinds of files, tools."""

from dataclasses import asdict
from typing import Annotated

import typer

from edgerl.console import Console
from edgerl.exits import GOOD, command
from edgerl.options import Debug, Json, print_json, target_names

listing = typer.Typer()


def _kinds(incomplete: str) -> list[tuple[str, str]]:
    from edgerl.schemas import SCHEMAS

    return [(row.name, row.title) for row in SCHEMAS.values() if row.name.startswith(incomplete)]


@listing.command(epilog="Example:  edgerl targets --explain crazyflie21")
@command
def targets(
    explain: Annotated[
        str | None,
        typer.Option(
            "--explain",
            metavar="NAME",
            help="All about one, or about a board.toml.",
            autocompletion=target_names,
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """List the boards and cores that edgerl compiles for."""
    from edgerl.explanation import explain_target
    from edgerl.targets import find_target, targets

    if explain is not None:
        row = find_target(explain)
        if as_json:
            print_json(row.model_dump(mode="json"))
        else:
            Console().explanation(explain_target(row))
        return GOOD
    rows = list(targets().values())
    if as_json:
        print_json([row.model_dump(mode="json") for row in rows])
    else:
        Console().targets(rows)
    return GOOD


@listing.command(epilog="Example:  edgerl policies --json")
@command
def policies(as_json: Json = False, debug: Debug = False) -> int:
    """List the published policies that edgerl loads by name."""
    from edgerl.policies import policies as known

    rows = [{"name": f.name, "about": f.about} for f in known()]
    if as_json:
        print_json(rows)
    else:
        Console().explanation({row["name"]: row["about"] for row in rows})
    return GOOD


@listing.command(epilog="Example:  edgerl vocabulary --json")
@command
def vocabulary(as_json: Json = False, debug: Debug = False) -> int:
    """List the signals that a spec may name without saying more."""
    from edgerl.policies.vocabulary import VOCABULARY

    rows = [{"name": name, **asdict(known)} for name, known in VOCABULARY.items()]
    if as_json:
        print_json(rows)
    else:
        Console().vocabulary(VOCABULARY)
    return GOOD


@listing.command(epilog="Example:  edgerl schema spec > spec.schema.json")
@command
def schema(
    kind: Annotated[
        str, typer.Argument(help="spec, recipe, layers or board.", autocompletion=_kinds)
    ],
    debug: Debug = False,
) -> int:
    """Print the JSON schema of a kind of file, for an editor."""
    from edgerl.schemas import schema_of, text

    print(text(schema_of(kind)), end="")
    return GOOD


@listing.command(epilog="Example:  edgerl doctor --json")
@command
def doctor(as_json: Json = False, debug: Debug = False) -> int:
    """Show which tools were found, what each missing one would add, and how to install it."""
    from edgerl.diagnosis import diagnose

    rows = diagnose()
    if as_json:
        print_json([vars(row) for row in rows])
    else:
        Console().diagnosis(rows)
    return GOOD
