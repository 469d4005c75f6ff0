"""Foreign programs are bounded, and never left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgerl.errors import ToolError
from edgerl.toolchain.build.process import ProgramFailed, first_error, run

SLEEPER = (
    "import os, pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(600)"
)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def written_pid(folder: Path) -> int:
    deadline = time.monotonic() + 30.0
    while time.monotonic() < deadline:
        if (folder / "pid").exists() and (text := (folder / "pid").read_text()):
            return int(text)
        time.sleep(0.01)
    raise AssertionError("the program did not start")


def test_output_is_returned(tmp_path: Path) -> None:
    assert run([sys.executable, "-c", "print('hello')"], cwd=tmp_path, timeout_s=60) == "hello\n"


def test_failure_names_first_error_line(tmp_path: Path) -> None:
    lines = ("note: a", "x: error: b", "y: error: c")
    script = f"import sys; print(*{lines}, sep='\\n', file=sys.stderr); sys.exit(9)"
    with pytest.raises(ProgramFailed, match=r"x: error: b$") as caught:
        run([sys.executable, "-c", script], cwd=tmp_path, timeout_s=60)
    assert caught.value.code == 9


def test_missing_program(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="no-such-compiler: cannot be started"):
        run(["no-such-compiler"], cwd=tmp_path, timeout_s=60)


def test_overdue_program_is_killed(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="no end after 2 s; killed"):
        run([sys.executable, "-c", SLEEPER], cwd=tmp_path, timeout_s=2)
    assert not alive(written_pid(tmp_path))


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is a signal on POSIX only")
def test_interrupt_kills_the_program(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from edgerl.toolchain.build.process import run\n"
        "run([sys.executable, '-c', sys.argv[1]], cwd=Path.cwd(), timeout_s=600)"
    )
    outer = subprocess.Popen(
        [sys.executable, "-c", script, SLEEPER],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    pid = written_pid(tmp_path)
    outer.send_signal(signal.SIGINT)
    assert outer.wait(timeout=60) != 0
    assert not alive(pid)


def test_shell_settings_do_not_reach_compilers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPATH", "/somewhere")
    monkeypatch.setenv("KEPT", "yes")
    script = "import os; print(os.environ.get('CPATH'), os.environ['KEPT'])"
    assert run([sys.executable, "-c", script], cwd=tmp_path, timeout_s=60) == "None yes\n"


def test_first_error_of_nothing() -> None:
    assert first_error("\n \n") == ""


def test_files_as_input_and_output(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(bytes(range(256)))
    copy = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())"
    said = run(
        [sys.executable, "-c", copy],
        cwd=tmp_path,
        timeout_s=20,
        stdin=tmp_path / "in",
        stdout=tmp_path / "out",
    )
    assert said == ""
    assert (tmp_path / "out").read_bytes() == bytes(range(256))
