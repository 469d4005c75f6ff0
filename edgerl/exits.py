"""Exits: how the command ends, well or not. Every end has a code, one line at most, and leaves
nothing temporary behind."""

import errno
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec

from edgerl.errors import EdgerlError

P = ParamSpec("P")

GOOD, MISSED, MISTAKE, TOOL = 0, 1, 2, 3
# Both as a shell reports a program that the signal ended.
INTERRUPTED, PIPE_CLOSED = 130, 141


def command(body: Callable[P, int]) -> Callable[P, int]:
    """A verb: its body returns the exit code; an error becomes one line and its own code, with
    its traceback before it where the verb was called with `debug`."""

    @wraps(body)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        debug = bool(kwargs.get("debug"))
        try:
            code = body(*args, **kwargs)
            sys.stdout.flush()
            return code
        except Exception as error:
            if stems_from_interrupt(error):
                return INTERRUPTED
            match error:
                case EdgerlError():
                    return complain(str(error), error.exit_code, debug)
                case OSError(errno=errno.EPIPE):
                    # The reader has left; what is still buffered must not fail again at the end.
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                    return PIPE_CLOSED
                case OSError():
                    place = f"{error.filename}: " if error.filename else ""
                    return complain(f"{place}{error.strerror or error}", TOOL, debug)
            raise

    return run


def stems_from_interrupt(error: BaseException | None) -> bool:
    """Whether the user's interrupt is at the root of an error: a library that is interrupted
    while it is imported, say, raises an ImportError of its own."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def complain(line: str, code: int, debug: bool = False) -> int:
    """Say what is wrong on standard error; returns `code`."""
    if debug:
        traceback.print_exc()
    print(f"edgerl: {line}", file=sys.stderr)
    return code


@contextmanager
def temporary_files() -> Iterator[None]:
    """One folder for everything temporary: it is removed at the end of the process, wherever an
    interrupt struck, a half-done removal included. Afterwards no interrupt is heard any more."""
    folder = tempfile.mkdtemp(prefix="edgerl-")
    tempfile.tempdir = folder
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        shutil.rmtree(folder, ignore_errors=True)
