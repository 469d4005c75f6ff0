"""A user's own board: read from a file, refused by key, and carried through to the report."""

import json
from pathlib import Path

import pytest

import edgerl
from edgerl import cli
from edgerl.errors import UserError
from edgerl.pipeline import run
from edgerl.recipe import load_recipe
from edgerl.targets import Region, find_target, is_board_file, load_board, target

BOARD = """
name = "my-board"
about = "a vehicle of our own"
core = "cortex-m7"
clock_hz = 216_000_000
flash = { base = 0x08000000, size = 0x80000 }
application = { base = 0x08010000, size = 0x70000 }
ram = { base = 0x20000000, size = 0x40000 }
"""


def write(folder: Path, old: str = "", new: str = "") -> Path:
    assert old in BOARD
    path = folder / "my_board.toml"
    path.write_text(BOARD.replace(old, new) if old else BOARD, encoding="utf-8")
    return path


def test_a_file_stands_for_a_name(tmp_path):
    row = find_target(str(write(tmp_path)))
    assert row == load_board(tmp_path / "my_board.toml")
    assert (row.name, row.core) == ("my-board", target("cortex-m7").core)
    assert row.application.base == 0x08010000
    assert is_board_file("my_board.TOML") and not is_board_file("pico")


def test_what_a_file_leaves_out(tmp_path):
    row = load_board(write(tmp_path, "application = { base = 0x08010000, size = 0x70000 }"))
    assert row.application == row.flash
    assert (row.stand_in, row.verified_by) == ("cortex-m7", "same-binary")
    own = write(tmp_path, "clock_hz = 216_000_000", 'qemu_machine = "mps2-an500"')
    assert (load_board(own).stand_in, load_board(own).clock_hz) == ("", 0)


def test_under_linux_there_is_nothing_to_map(tmp_path):
    path = tmp_path / "sbc.toml"
    path.write_text('name = "sbc"\ncore = "aarch64"\n', encoding="utf-8")
    row, bare = load_board(path), target("aarch64")
    assert (row.flash, row.application, row.ram) == (bare.flash, bare.application, bare.ram)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("cortex-m7", "cortex-m8", "core: unknown core 'cortex-m8'; did you mean 'cortex-m"),
        ("cortex-m7", "native", "core: unknown core 'native'"),
        ("clock_hz", "clock_hertz", "clock_hertz: unknown key; did you mean 'clock_hz'?"),
        ("size = 0x70000", "sise = 0x70000", "application.sise: unknown key; did you mean 'size'?"),
        ('name = "my-board"', "", "name: missing; give the name of the board"),
        ('name = "my-board"', 'name = "my board"', "name: 'my board' is not a usable name"),
        ('name = "my-board"', 'name = "pico"', "name: 'pico' is a target of edgerl's own"),
        ("ram = { base = 0x20000000, size = 0x40000 }", "", "ram: missing; an image for a cortex"),
        ("base = 0x20000000", "base = 0x0807FFFF", "0x08000000 to 0x0807ffff, and ram, 0x0807ffff"),
        ("size = 0x70000", "size = 0x80000", "application, 0x08010000 to 0x0808ffff, leaves"),
        ("size = 0x40000", "size = 0", "ram.size: must be more than 0, not 0"),
        ("size = 0x40000", "size = 0xFFFFFFFF", "ram: 0x20000000 to"),
        ("216_000_000", '"fast"', "clock_hz: must be a whole number, not 'fast'"),
        ("{ base = 0x20000000, size = 0x40000 }", "5", "ram: must be a table, not 5"),
        ("clock_hz", 'stand_in = "pico"\nclock_hz', "stand_in: pico has the core cortex-m0plus"),
        ("clock_hz", 'stand_in = "cortexm7"\nclock_hz', "did you mean 'cortex-m7'?"),
        ("clock_hz", 'verified_by = "hope"\nclock_hz', "must be 'same-binary', 'relinked"),
        ("clock_hz", "[", "not TOML"),
    ],
)
def test_one_line_names_file_and_key(old, new, says, tmp_path):
    path = write(tmp_path, old, new)
    with pytest.raises(UserError) as caught:
        load_board(path)
    line = str(caught.value)
    assert line.startswith(str(path)) and "\n" not in line
    assert says in line


def test_a_board_cannot_claim_more_than_its_core_shows(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\ncore = "xtensa-lx7"\nverified_by = "same-binary"\n')
    with pytest.raises(UserError, match="more than emulators can show of a xtensa-lx7: 'host-only"):
        load_board(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.toml: cannot be read"):
        find_target(str(tmp_path / "nowhere.toml"))


def test_it_is_explained(tmp_path, capsys):
    assert cli.run(["targets", "--explain", str(write(tmp_path))]) == 0
    out = capsys.readouterr().out
    assert "a vehicle of our own" in out and "448 kB at 0x08010000" in out


def test_a_recipe_names_it_relative_to_itself(tmp_path, small_policy, monkeypatch):
    """The artifact is whole without the board file, and its check says what stood in for what."""
    folder = tmp_path / "project"
    (folder / "boards").mkdir(parents=True)
    board = write(folder / "boards")
    recipe = folder / "recipe.toml"
    recipe.write_text(
        f"[source]\npolicy = '{small_policy.as_posix()}'\n"
        '[target]\nname = "boards/my_board.toml"\nfma = "on"\noutput = "out"\n',
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    made = run(load_recipe(recipe))
    assert made.report.target == "my-board"
    stated = json.loads((folder / "out" / "manifest.json").read_text())["target"]
    assert stated["application"] == {"base": 0x08010000, "size": 0x70000}
    board.unlink()
    report = edgerl.check(folder / "out")
    assert report.ok and report.verified_by == "same-binary"
    assert "zig/unicorn" in report.parity.between
    crossed = [name for name in report.parity.between if name.endswith("/qemu")]
    said = [note for note in report.notes if "linked for the stand-in cortex-m7" in note]
    assert bool(crossed) == bool(said)
    assert all(name in said[0] for name in crossed)


def test_a_stand_in_that_is_too_small_is_told_and_fails_nothing(
    tmp_path, small_policy, monkeypatch
):
    made = edgerl.compile(
        small_policy, target=str(write(tmp_path)), fma="on", output=tmp_path / "out"
    )
    whole = target("cortex-m7")
    tiny = whole.model_copy(update={"application": Region(base=whole.flash.base, size=512)})
    monkeypatch.setattr("edgerl.subject.target", lambda name: tiny)
    report = edgerl.check(made.artifact.folder)
    assert report.ok and "zig/unicorn" in report.parity.between
    assert not any(name.endswith("/qemu") for name in report.parity.between)
    assert any(
        "not cross-checked" in note and "cortex-m7 has 512 B" in note for note in report.notes
    )


def test_a_board_whose_image_does_not_fit_is_named(tmp_path, small_policy):
    path = write(tmp_path, "size = 0x70000", "size = 0x200")
    with pytest.raises(UserError, match="my-board has 512 B"):
        edgerl.compile(small_policy, target=str(path), fma="on", output=tmp_path / "out")
