"""The `edgerl` command as a process, from its start to its exit code.

Exit codes: 0 good, 1 a limit was missed, 2 the user's mistake, 3 a tool failed or is missing,
130 interrupted. An error of another kind is a defect of edgerl and keeps its traceback.
"""

import io
import sys
from collections.abc import Sequence

from edgerl.exits import (
    INTERRUPTED,
    MISTAKE,
    TOOL,
    complain,
    stems_from_interrupt,
    temporary_files,
)


def main() -> None:
    """Entry point of the `edgerl` command."""
    for stream in (sys.stdout, sys.stderr):
        # A console that lacks a character shows another one, and does not fail.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        with temporary_files():
            code = run(sys.argv[1:])
    except OSError as error:
        code = complain(f"{error.strerror or error}", TOOL)
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Obey a command line in this process; the exit code."""
    try:
        code = _obey(arguments)
    except BaseException as error:
        if stems_from_interrupt(error):
            code = INTERRUPTED
        # What the parser says about the arguments; its classes have no public name of their own.
        elif hasattr(error, "format_message"):
            words = " ".join(str(error.format_message()).split()).rstrip(".")
            return complain(f"{words}; see: {_help_of(error)}", MISTAKE)
        else:
            raise
    if code == INTERRUPTED:
        return complain("interrupted; finished stages are kept, run again", code)
    return code


def _obey(arguments: Sequence[str]) -> int:
    # Imported here, so that an interrupt meanwhile ends as any other does.
    from typer.completion import get_completion_inspect_parameters

    from edgerl.verbs import app

    get_completion_inspect_parameters()  # which also teaches the parser the shells
    code = app(list(arguments) or ["--help"], prog_name="edgerl", standalone_mode=False)
    return int(code or 0)


def _help_of(error: BaseException) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context else 'edgerl'} -h"


if __name__ == "__main__":
    main()
