"""The tutorials, run as a reader would: their files written, their commands given, what they
say comes out looked for in what came out."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).parent.parent / "docs" / "tutorials").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """One command of a console block, and the lines that are to come out in this order."""

    line: str
    output: tuple[str, ...]


def commands(block: str) -> Iterator[Command]:
    """The commands of a console block: `$ ` begins one, a backslash goes on with it."""
    for part in re.split(r"^\$ ", block.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
        line, *output = part.rstrip().splitlines()
        yield Command(line, tuple(each.strip() for each in output if each.strip()))


def pattern(expected: str) -> re.Pattern[str]:
    """A line of a tutorial as a pattern: `…` stands for anything, blanks for any blanks."""
    parts = (re.escape(part) for part in re.split(r"…", expected))
    return re.compile(re.sub(r"(\\ )+", r"\\s+", ".*".join(parts)))


def missing(command: Command, printed: str) -> str | None:
    """The first expected line that did not come out where it should."""
    lines = iter(printed.splitlines())
    for expected in command.output:
        if expected == "…":
            continue
        wanted = pattern(expected)
        if not any(wanted.search(line) for line in lines):
            return expected
    return None


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial(path: Path, tmp_path: Path) -> None:
    environment = dict(os.environ, COLUMNS="120", OMP_NUM_THREADS="1")
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    ran = 0
    for language, name, block in BLOCK.findall(path.read_text(encoding="utf-8")):
        if name:
            (tmp_path / name).write_text(block, encoding="utf-8")
        elif language == "console":
            for command in commands(block):
                ran += 1
                done = subprocess.run(
                    command.line,
                    shell=True,
                    cwd=tmp_path,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    timeout=600,
                )
                assert done.returncode == 0, f"$ {command.line}\n{done.stdout}"
                absent = missing(command, done.stdout)
                assert absent is None, f"$ {command.line}\nlacks {absent!r} in\n{done.stdout}"
    assert ran > 0


def test_a_line_that_does_not_come_out_is_missed() -> None:
    command = Command("run", ("one …", "three"))
    assert missing(command, "one  1\ntwo\nthree\n") is None
    assert missing(command, "three\none 1\n") == "three"
