"""Run a foreign program: no shell, bounded in time, never left behind."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgerl.errors import ToolError
from edgerl.toolchain.build.interrupts import deferred

# What a user's shell may set that would change what a compiler reads or prints.
_INFLUENCES = ("CPATH", "C_INCLUDE_PATH", "LIBRARY_PATH", "GCC_EXEC_PREFIX", "COMPILER_PATH")


class ProgramFailed(ToolError):
    """A program ended with an exit code other than 0, kept in `code`."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def run(
    argv: Sequence[str],
    *,
    cwd: Path,
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
    stdin: Path | None = None,
    stdout: Path | None = None,
) -> str:
    """Run `argv` in `cwd` and return its standard output.

    The file `stdin` is its standard input if given, and `stdout` takes its output, whatever bytes
    those are.
    The process and its children are killed when the time is over or the caller is interrupted.
    Raises ProgramFailed, with the program's first error line, when it fails, and ToolError when
    it cannot be started or takes longer than `timeout_s` seconds.
    """
    program = Path(argv[0]).name
    inherited = {key: value for key, value in os.environ.items() if key not in _INFLUENCES}
    process: subprocess.Popen[str] | None = None
    try:
        with contextlib.ExitStack() as files, deferred():
            source = files.enter_context(stdin.open("rb")) if stdin else subprocess.DEVNULL
            sink = files.enter_context(stdout.open("wb")) if stdout else subprocess.PIPE
            process = subprocess.Popen(
                argv,
                cwd=cwd,
                env={**inherited, "LC_ALL": "C", **(environment or {})},
                stdin=source,
                stdout=sink,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        output, complaints = process.communicate(timeout=timeout_s)
    except OSError as error:
        raise ToolError(f"{program}: cannot be started ({error.strerror})") from error
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{program}: no end after {timeout_s:g} s; killed") from error
    finally:
        if process is not None and process.poll() is None:
            _kill(process)
    code = process.returncode
    if code != 0:
        raise ProgramFailed(f"{program}: {first_error(complaints) or f'exit code {code}'}", code)
    return output or ""


def _kill(process: subprocess.Popen[str]) -> None:
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.communicate()


def first_error(text: str) -> str:
    """The first line of a program's complaint that speaks of an error, else its first line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = (line for line in lines if "error" in line.lower() or "undefined" in line.lower())
    return next(errors, lines[0] if lines else "")[:300]
