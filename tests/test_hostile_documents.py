"""TOML and CSV files that would take the square of their length, or more than memory."""

import os
from pathlib import Path

import pytest

from edgerl import recording
from edgerl.documents import read_bytes, read_toml
from edgerl.errors import UserError
from edgerl.policies.memory import load_spec
from edgerl.policies.spec import PolicySpec
from edgerl.recording import read_recording

ACTION = '\naction = [{ name = "act", size = 4, range = [-1, 1] }]\n'
DOCUMENTS = {
    "dotted key": ("a" + ".a" * 64 + " = 1", "a key of more than 64 parts"),
    "quoted parts": ("'a' . " * 64 + '"b" = 1', "a key of more than 64 parts"),
    "header": ("[a" + ".a" * 400_000 + "]", "a key of more than 64 parts"),
    "in a table": ("a = { a" + ".1" * 64 + " = 1 }", "a key of more than 64 parts"),
    "decimal": ("a = 1" + "9" * 5000, "a number with thousands of digits"),
    "hexadecimal": ("a = [{ b = 0x" + "f" * 90_000 + " }]", "an integer of more than 64 bits"),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents(name: str, tmp_path: Path) -> None:
    content, message = DOCUMENTS[name]
    path = tmp_path / "x.toml"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as refused:
        read_toml(path, "spec")
    assert "\n" not in str(refused.value)


def test_documents_within_the_bounds(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(
        "a" + ".a" * 63 + " = 1\nb = [" + "0.5, " * 1000 + "]\nc = -9223372036854775808"
    )
    rows = read_toml(path, "spec")
    assert len(rows["b"]) == 1000 and rows["c"] == -(1 << 63)


def test_a_long_key_is_cut_in_the_message(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('"' + "k" * 100_000 + '" = 1')
    with pytest.raises(UserError, match="k…: unknown key") as refused:
        load_spec(path)
    assert len(str(refused.value)) < 2000


def test_twenty_thousand_signals(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    rows = ", ".join(f'{{name="s{k}", size=1, range=[0,1]}}' for k in range(20_000))
    path.write_text(f'name = "a"\nobservation = [{rows}]{ACTION}')
    assert load_spec(path).observation_size == 20_000
    again = '{name="s0", size=1, range=[0,1]}'
    path.write_text(f'name = "a"\nobservation = [{rows}, {again}]{ACTION}')
    with pytest.raises(UserError, match="signal 's0' appears twice"):
        load_spec(path)


def test_a_name_that_no_file_has() -> None:
    with pytest.raises(UserError, match=r"a\?b: no file has such a name"):
        read_bytes(Path("a\0b"), 1, "a\0b", "too large")


def test_rows_over_many_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Line ends in quotes make a row of any length, of which every cell is an object."""
    monkeypatch.setattr(recording, "_LONGEST_LINE", 1000)
    spec = PolicySpec.model_validate(
        {
            "name": "a",
            "observation": [{"name": "s", "size": 1, "range": (0, 1)}],
            "action": [{"name": "act", "size": 1, "range": (-1, 1)}],
        }
    )
    path = tmp_path / "log.csv"
    path.write_text("s,note\n" + '1,"a\nb"\n' * 500)
    assert len(read_recording(path, spec).observations) == 500
    for long in ('"a\n",' * 500, '"' + "a\n" * 600 + '"'):
        path.write_text(f"s,note\n1,{long}\n")
        with pytest.raises(UserError, match="a row of more than"):
            read_recording(path, spec)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    os.mkfifo(path)
    with pytest.raises(UserError, match="no regular file"):
        read_bytes(path, 100, "net.onnx", "too large")
