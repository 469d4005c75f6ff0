"""The command line: what it prints where, what it refuses, and how it ends."""

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jsonschema
import pytest

from edgerl import cli
from edgerl.errors import ToolError
from edgerl.pipeline import Outcome
from edgerl.targets import Region, target, targets
from edgerl.toolchain.artifact import read_artifact, write_manifest

Result = tuple[int, str, str]
POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
BIN = Path(sys.executable).parent
EDGERL = (sys.executable, "-m", "edgerl")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Obeys a command line in this process; exit code, standard output, standard error."""

    def obey(*arguments: object) -> Result:
        code = cli.run([str(a) for a in arguments])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return obey


def edgerl(*arguments: object, **more: object) -> subprocess.CompletedProcess[str]:
    """Runs the command as a process of its own."""
    return subprocess.run(
        [*EDGERL, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        **more,
    )


def without(module: str, *arguments: object, patch: str = "") -> subprocess.CompletedProcess[str]:
    """Runs the command in an interpreter that cannot import `module`."""
    code = (
        f"import sys; sys.modules[{module!r}] = None; {patch}\nfrom edgerl.cli import main; main()"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )


def one_line(err: str) -> str:
    """The complaint, which is one line; lines of finished stages may come before it."""
    *before, last = err.splitlines()
    assert all(line.startswith("  ") for line in before), err
    assert last.startswith("edgerl: ")
    return last


# What is printed


REPORT = json.loads(Path(__file__).with_name("report.schema.json").read_text(encoding="utf-8"))


def strict(text: str) -> object:
    """JSON as the standard has it: NaN and Infinity are refused, and so is anything after it."""

    def refuse(word: str) -> object:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_report_keeps_its_keys(raptor: Outcome):
    data = strict((raptor.artifact.folder / "report.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(REPORT).validate(data)
    assert data["policy"]["name"] == "raptor"
    assert data["policy"]["parameters"] == 2084
    assert data["policy"]["sha256"] == raptor.artifact.manifest.files["policy.onnx"]
    assert data["target"] == "crazyflie21"
    assert data["measured"]["instructions"]["min"] == data["measured"]["instructions"]["max"]
    assert data["measured"]["state_bytes"] <= 136
    assert data["parity"]["bit_exact"] and data["parity"]["steps"] >= 10_000
    assert data["parity"]["between"][:3] == ["golden.bin", "host", "zig/unicorn"]
    assert data["closed_loop"]["episodes"] == 256 and data["closed_loop"]["seeds"] == [1000]
    assert {c["value"] for n, c in data["certificates"].items() if n == "build_id"} == {True}
    assert all(limit["ok"] for limit in data["limits"]) and data["ok"]


def test_figures_that_are_not_finite_are_null(raptor: Outcome):
    from dataclasses import replace

    from edgerl.toolchain.report.model import Difference, Limit, Parity, Reference

    broken = replace(
        raptor.report,
        reference=Reference("a library", math.nan, errors=(math.inf, 1.0)),
        parity=Parity(False, 1, ("a", "b"), Difference(0, "action", 0, (math.nan, 1.0))),
        limits=(Limit("error", math.nan, "<= 1", False),),
    )
    data = strict(json.dumps(broken.to_json()))
    assert data["reference"]["max_abs_error"] is None
    assert data["reference"]["errors"] == [None, 1.0]
    assert data["parity"]["first_difference"]["values"] == [None, 1.0]
    assert data["limits"][0]["value"] is None and not data["ok"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("compile", "{policy}", "-t", "host", "-o", "{out}"),
        ("check", "{artifact}", "--limit", "ram_bytes=64"),
        ("evaluate", "raptor", "--suite", "hover", "-n", "8"),
        ("inspect", "{policy}"),
        ("targets",),
        ("targets", "--explain", "crazyflie21"),
        ("policies",),
        ("doctor",),
    ],
    ids=lambda a: " ".join(a[:1] + a[2:3]),
)
def test_json_is_all_there_is_on_standard_output(arguments, small_policy, small_artifact, tmp_path):
    names = {"policy": small_policy, "artifact": small_artifact, "out": tmp_path / "a"}
    done = edgerl(*(a.format(**names) for a in arguments), "--json")
    assert done.returncode == 0, done.stderr
    data = strict(done.stdout)
    assert data
    if arguments[0] in ("compile", "check"):
        jsonschema.Draft202012Validator(REPORT).validate(data)
        assert data["checked"] == (arguments[0] == "check")
    assert "Traceback" not in done.stderr
    assert not set(done.stderr) & set("\x1b\r")
    assert "" not in done.stderr.splitlines()


def test_quiet_says_nothing_beside_the_result(run, recurrent_policy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("compile", recurrent_policy, "-t", "host", "-q")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == str(Path("build", "recurrent-host-f32", "report.html"))


def test_assumptions_are_said_once_and_on_standard_error(run, small_policy, tmp_path):
    code, out, err = run("compile", small_policy, "-t", "host", "-o", tmp_path / "a")
    assert code == 0
    assert "assumed" not in out
    assert err.count("assumed: rate 100 Hz") == 1
    assert "not checked: add --check" in err


def test_the_table_fits_eighty_columns(raptor: Outcome, capfd, monkeypatch):
    from rich.console import Console as Screen

    from edgerl.console import Console

    console = Console(quiet=True)
    console._out = Screen(width=80, highlight=False, soft_wrap=True)
    console.report(raptor.report, Path("build/raptor-crazyflie21-f32"))
    lines = capfd.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    table = "\n".join(lines)
    for start in ("instructions  ", "cycles  ", "flash  ", "RAM  ", "stack  ", "parity  "):
        assert f"\n{start}" in table
    assert " B  " in table and " %  " in table and " cm  " in table
    # Each line begins with a figure's name or continues the last column below itself.
    begin = lines[1].index("_evaluate")
    assert all(line[:begin].strip() == "" for line in lines[1:] if line.startswith(" "))
    assert lines[-2].startswith("all ") and lines[-2].endswith("limits held")
    assert lines[-1] == str(Path("build/raptor-crazyflie21-f32/report.html"))


@pytest.mark.parametrize("verb", ["compile", "check", "evaluate", "inspect", "targets", "policies"])
def test_help_has_an_example(run, verb):
    code, out, err = run(verb, "-h")
    assert (code, err) == (0, "")
    assert f"Example:  edgerl {verb}" in out


def test_no_arguments_show_help(run):
    code, out, _ = run()
    assert code == 0
    assert "Examples:" in out and "compile" in out
    assert run("--version")[1].startswith("edgerl ")


def test_names_complete():
    command = shutil.which("edgerl", path=str(BIN))
    assert command
    shown = subprocess.run([command, "--show-completion", "bash"], capture_output=True, text=True)
    assert shown.returncode == 0
    assert "_EDGERL_COMPLETE" in shown.stdout and "complete " in shown.stdout
    words = "edgerl compile raptor --target craz"
    asked = {"_EDGERL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "4"}
    completed = subprocess.run([command], capture_output=True, text=True, env=os.environ | asked)
    assert completed.stdout.split() == ["crazyflie21"]


@POSIX
def test_completion_installs(tmp_path):
    home = os.environ | {"HOME": str(tmp_path)}
    done = edgerl("--install-completion", "bash", env=home)
    assert done.returncode == 0, done.stderr
    assert any(path.is_file() for path in tmp_path.rglob("*"))


def test_a_target_is_explained(run):
    code, out, _ = run("targets", "--explain", "crazyflie21")
    assert code == 0
    row = target("crazyflie21")
    assert row.about in out.replace("\n             ", " ")
    assert f"{row.application.size // 1024:,} kB at {row.application.base:#010x}" in out
    assert all(name in run("targets")[1] for name in targets())


# What is refused


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("compile", "raptor", "-t", "crazyfly21"), ["'crazyfly21'", "'crazyflie21'"]),
        (("compile", "raptor"), ["--target", "edgerl targets"]),
        (("compile", "rapter", "-t", "host"), ["'rapter'", "raptor"]),
        (("compile", "missing.onnx", "-t", "host"), ["missing.onnx", "No such file"]),
        (("compile", "raptor", "-t", "host", "--limit", "foo=1"), ["'foo'", "instructions"]),
        (("compile", "raptor", "-t", "host", "--limit", "flash_byte=1"), ["'flash_bytes'"]),
        (("compile", "raptor", "-t", "host", "--limit", "flash_bytes=nan"), ["flash_bytes=nan"]),
        (("compile", "raptor", "-t", "host", "--limit", "flash_bytes=-1"), ["flash_bytes=-1"]),
        (("compile", "raptor", "-t", "host", "--limit", "flash_bytes=inf"), ["flash_bytes=inf"]),
        (("compile", "raptor", "-t", "host", "--limit", "flash_bytes"), ["name=number"]),
        (
            ("compile", "raptor", "-t", "host", "--limit", "ram_bytes=1", "--limit", "ram_bytes=2"),
            ["'ram_bytes'", "twice"],
        ),
        (("compile", "raptor", "-t", "host", "--compiler", "msvc"), ["--compiler", "zig", "gcc"]),
        (("compile", "raptor", "-t", "host", "--fma", "maybe"), ["--fma", "auto"]),
        (("compile", "raptor", "-t", "host", "--spec", "no.toml"), ["no.toml"]),
        (("compile", "missing.toml"), ["missing.toml", "No such file"]),
        (("check", "nowhere"), ["nowhere", "manifest.json"]),
        (("evaluate", "raptor", "-s", "hoover"), ["'hoover'", "'hover'"]),
        (("evaluate", "raptor", "-s", "figure8", "-n", "5"), ["figure8", "5"]),
        (("evaluate", "raptor", "-s", "hover", "--limit", "survivals=1"), ["'survival'"]),
        (("evaluate", "raptor", "-s", "hover", "-n", "0"), ["--episodes"]),
        (("evaluate", "raptor"), ["--suite"]),
        (("inspect", "x.pkl"), ["'x.pkl'", ".onnx"]),
        (("targets", "--explain", "cortex-m5"), ["'cortex-m5'", "cortex-m"]),
        (("compile",), ["source", "edgerl compile -h"]),
        (("compiel", "raptor"), ["compiel", "compile"]),
        (("compile", "raptor", "--targt", "host"), ["--targt", "--target"]),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(run, arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    line = one_line(err)
    assert all(word in line for word in says), line
    assert list(tmp_path.iterdir()) == []


def test_debug_adds_the_traceback(run):
    code, out, err = run("compile", "raptor", "-t", "nothing", "--debug")
    assert (code, out) == (2, "")
    assert "Traceback" in err and err.splitlines()[-1].startswith("edgerl: unknown target")


def test_a_folder_that_is_not_ours_is_left_alone(run, small_policy, small_artifact, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("words")
    code, _, err = run("compile", small_policy, "-t", "host", "-o", mine)
    assert code == 2 and str(mine) in one_line(err)

    site = tmp_path / "site"
    site.mkdir()
    (site / "manifest.json").write_text('{"name": "a web page", "icons": []}')
    code, _, err = run("compile", small_policy, "-t", "host", "-o", site)
    assert code == 2 and "not a manifest of edgerl" in one_line(err)

    guest = shutil.copytree(small_artifact, tmp_path / "guest")
    (guest / "notes.txt").write_text("keep me")
    code, _, err = run("compile", small_policy, "-t", "host", "-o", guest)
    assert code == 2 and "notes.txt" in one_line(err)

    file = tmp_path / "file"
    file.write_text("x")
    for output in (file, file / "below"):
        code, _, err = run("compile", small_policy, "-t", "host", "-o", output)
        assert code == 2 and str(output) in one_line(err)

    assert (mine / "thesis.tex").read_text() == "words"
    assert (guest / "notes.txt").read_text() == "keep me"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "guest", "mine", "site"]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a file system nobody writes")
def test_an_unwritable_place_is_named(run, small_policy):
    code, out, err = run("compile", small_policy, "-t", "host", "-o", "/proc/edgerl/a")
    assert (code, out) == (2, "")
    assert "/proc/edgerl/a: cannot be written" in one_line(err)


@pytest.mark.parametrize("file", ["golden.bin", "manifest.json", ".report.html"])
def test_a_full_disk_leaves_nothing_half_written(run, file, small_policy, tmp_path, monkeypatch):
    whole = Path.open

    def full(path: Path, mode: str = "r", *rest: object, **more: object) -> object:
        if path.name.startswith(file) and "w" in mode:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return whole(path, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", full)
    code, out, err = run("compile", small_policy, "-t", "host", "-o", tmp_path / "a")
    assert (code, out) == (3, "")
    assert "No space left on device" in one_line(err)
    monkeypatch.undo()
    # Before the artifact stands there is nothing; after that it is whole.
    if file == ".report.html":
        assert read_artifact(tmp_path / "a").name == "small"
        assert not list((tmp_path / "a").glob(".*"))
    else:
        assert list(tmp_path.iterdir()) == []


@POSIX
def test_a_real_limit_of_the_system_is_one_line(small_policy, tmp_path):
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (250_000, 250_000))\n"
        "from edgerl.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "compile", small_policy, "-t", "host", "-o", tmp_path / "a"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert "File too large" in one_line(done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_missing_tools_are_named_with_the_command_that_brings_them(small_policy, tmp_path):
    output = ("-o", tmp_path / "a")
    done = without("ziglang", "compile", small_policy, "-t", "cortex-m4f", *output)
    assert (done.returncode, done.stdout) == (3, "")
    assert "zig" in one_line(done.stderr) and "pip install 'edgerl[emu]'" in done.stderr

    done = without("unicorn", "compile", small_policy, "-t", "cortex-m33", "--check", *output)
    assert (done.returncode, done.stdout) == (3, "")
    assert "unicorn" in one_line(done.stderr) and "pip install 'edgerl[emu]'" in done.stderr

    absent = (
        "import importlib.metadata as m; find = m.distribution\n"
        "def absent(name):\n"
        "    if name == 'foundation-policy': raise m.PackageNotFoundError(name)\n"
        "    return find(name)\n"
        "m.distribution = absent"
    )
    done = without("foundation_policy", "compile", "raptor", "-t", "host", *output, patch=absent)
    assert (done.returncode, done.stdout) == (3, "")
    assert "foundation-policy" in one_line(done.stderr)
    assert "pip install 'edgerl[raptor]'" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_policy_that_does_not_fit_is_refused_with_the_numbers(
    run, small_policy, tmp_path, monkeypatch
):
    big = target("cortex-m4f")
    flash = Region(base=big.application.base, size=1500)
    ram = Region(base=big.ram.base, size=1024)
    boards = {
        "flash": big.model_copy(update={"name": "tiny", "application": flash}),
        "RAM": big.model_copy(update={"name": "tiny", "ram": ram}),
    }
    for memory, board in boards.items():
        monkeypatch.setattr("edgerl.pipeline.find_target", lambda name, board=board: board)
        code, out, err = run("compile", small_policy, "-t", "tiny", "-o", tmp_path / "a")
        assert (code, out) == (2, "")
        line = one_line(err)
        assert f"B of {memory}, tiny has {1500 if memory == 'flash' else 1024:,} B" in line
        assert list(tmp_path.iterdir()) == []


def test_a_stack_that_overflows_is_refused_with_the_numbers(
    run, small_policy, tmp_path, monkeypatch
):
    from dataclasses import replace

    from edgerl.toolchain import compiling

    measure = compiling.sizes
    monkeypatch.setattr(
        compiling,
        "sizes",
        lambda *a: replace(measure(*a), stack_bytes=target("cortex-m4f").ram.size),
    )
    code, out, err = run(
        "compile", small_policy, "-t", "cortex-m4f", "--fma", "on", "-o", tmp_path / "a"
    )
    assert (code, out) == (2, "")
    assert f"B of RAM, cortex-m4f has {target('cortex-m4f').ram.size:,} B" in one_line(err)
    assert list(tmp_path.iterdir()) == []


def test_a_missed_limit_leaves_artifact_and_report(recurrent_policy, tmp_path):
    """On a console, too, that lacks the character for the bound."""
    folder = tmp_path / "a"
    bound = ("--limit", "flash_bytes=9")
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = edgerl("compile", recurrent_policy, "-t", "host", "-o", folder, *bound, env=ascii_only)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "missed flash_bytes: not obtained, limit ? 9" in done.stdout
    assert read_artifact(folder).name == "recurrent"
    data = strict((folder / "report.json").read_text())
    (limit,) = [each for each in data["limits"] if each["name"] == "flash_bytes"]
    assert limit == {"name": "flash_bytes", "value": None, "limit": "<= 9", "ok": False}
    assert not data["ok"] and (folder / "report.html").is_file()


def test_a_reader_that_leaves_is_no_error():
    command = [*EDGERL, "targets", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 141
    process.stderr.close()


# Interrupts


def interrupted(
    arguments: list[object], moment: Callable[[], bool], environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process group of its own and sends Ctrl-C to the whole group at the
    `moment`."""
    process = subprocess.Popen(
        [*EDGERL, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        start_new_session=True,
    )
    for _ in range(12_000):
        if moment():
            break
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def processes() -> Iterator[str]:
    for place in Path("/proc").glob("[0-9]*/environ"):
        try:
            yield place.read_bytes().decode(errors="replace")
        except OSError:
            continue


def assert_clean(done: subprocess.CompletedProcess[str], temporary: Path, mark: str) -> None:
    """Ended as interrupted, in one line, leaving no file and no process behind."""
    # Python may end itself by the signal, which a shell shows as 130, too.
    assert done.returncode in (130, -signal.SIGINT)
    assert done.stdout == ""
    assert one_line(done.stderr) == "edgerl: interrupted; finished stages are kept, run again"
    assert list(temporary.iterdir()) == []
    assert not any(mark in environment for environment in processes())


def interrupt() -> None:
    raise KeyboardInterrupt


def interrupted_import() -> None:
    try:
        interrupt()
    except KeyboardInterrupt as error:
        raise ImportError("initialization failed") from error


def interrupted_tool() -> None:
    try:
        interrupted_import()
    except ImportError as error:
        raise ToolError("capstone is not installed") from error


@pytest.mark.parametrize("strike", [interrupt, interrupted_import, interrupted_tool])
def test_an_interrupt_is_one_whatever_a_library_makes_of_it(run, strike, monkeypatch):
    monkeypatch.setattr("edgerl.diagnosis.diagnose", strike)
    code, out, err = run("doctor")
    assert (code, out) == (130, "")
    assert one_line(err) == "edgerl: interrupted; finished stages are kept, run again"


def test_a_defect_keeps_its_traceback(run, monkeypatch):
    def defect() -> None:
        raise IndexError("a defect")

    monkeypatch.setattr("edgerl.diagnosis.diagnose", defect)
    with pytest.raises(IndexError):
        run("doctor")


@POSIX
def test_an_interrupted_compile_leaves_nothing(small_policy, tmp_path):
    temporary, place = tmp_path / "temporary", tmp_path / "place"
    temporary.mkdir()
    place.mkdir()
    mark = f"EDGERL_TEST={tmp_path}"
    done = interrupted(
        ["compile", small_policy, "-t", "cortex-m4f", "--fresh", "-o", place / "a"],
        lambda: any(temporary.glob("**/edgerl-build-*/*.c")),
        {"TMPDIR": str(temporary), "EDGERL_TEST": str(tmp_path)},
    )
    assert_clean(done, temporary, mark)
    assert list(place.iterdir()) == []


@POSIX
def test_an_interrupted_check_resumes(run, small_artifact, own_cache, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    artifact = shutil.copytree(small_artifact, tmp_path / "a")
    # Another digest, so that no other test has checked this very artifact.
    manifest = read_artifact(artifact).manifest
    write_manifest(artifact, manifest.model_copy(update={"tools": {"test": "1"}}))
    before = {path: path.read_bytes() for path in artifact.rglob("*") if path.is_file()}
    counted = set(own_cache.glob("stages/count-*.json"))
    done = interrupted(
        ["check", artifact],
        lambda: set(own_cache.glob("stages/count-*.json")) != counted,
        {"TMPDIR": str(temporary), "EDGERL_TEST": str(tmp_path), "EDGERL_CACHE": str(own_cache)},
    )
    assert_clean(done, temporary, f"EDGERL_TEST={tmp_path}")
    assert {path: path.read_bytes() for path in artifact.rglob("*") if path.is_file()} == before

    monkeypatch.setenv("EDGERL_CACHE", str(own_cache))
    monkeypatch.setattr("edgerl.checking.counted", None)  # must not be called again
    code, out, _ = run("check", artifact)
    assert code == 0 and "equal bits" in out


# What it looks like on a terminal


@POSIX
def test_progress_is_drawn_on_a_terminal_and_nowhere_else(small_policy, tmp_path):
    import pty

    ours, theirs = pty.openpty()
    done = subprocess.run(
        [*EDGERL, "compile", small_policy, "-t", "host", "-o", tmp_path / "a"],
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        env=os.environ | {"TERM": "xterm"},
        timeout=300,
    )
    os.close(theirs)
    drawn = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        drawn += part
    os.close(ours)
    assert done.returncode == 0
    assert b"compile" in drawn and b"\x1b[" in drawn
    assert "\x1b" not in done.stdout
