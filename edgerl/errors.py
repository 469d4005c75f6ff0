"""What can go wrong, by whose hand it is put right.

The command line turns these into one line on standard error and an exit code; anything else
that escapes is a defect of edgerl and keeps its traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class EdgerlError(Exception):
    """Base of every error edgerl raises on purpose. The message is one line that says what is
    wrong, where (file, tensor or signal), and what to do."""

    exit_code = 3


class UserError(EdgerlError):
    """The input is wrong and the user can mend it (exit code 2)."""

    exit_code = 2


class ToolError(EdgerlError):
    """A compiler, emulator or library is missing or failed (exit code 3)."""

    exit_code = 3


def suggestion(name: str, known: Iterable[str]) -> str:
    """What to say after an unknown `name`: the nearest of the `known`, else all of them."""
    names = list(known)
    close = get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
