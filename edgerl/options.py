"""Options and output that the verbs of the `edgerl` command share."""

import json
from typing import Annotated, Any

import typer

Json = Annotated[
    bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def target_names(incomplete: str) -> list[tuple[str, str]]:
    """Targets that begin so, for a shell to complete."""
    from edgerl.targets import targets as known

    return [(row.name, row.about) for row in known().values() if row.name.startswith(incomplete)]


def print_json(data: Any) -> None:
    """Plain data as JSON on standard output, the same for the same data."""
    print(json.dumps(data, indent=1, sort_keys=True, allow_nan=False))
