"""What can go wrong, by whose hand it is put right.

The command line turns these into one line on standard error and an exit code; anything else
that escapes is a defect of edgerl and keeps its traceback.
"""


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
