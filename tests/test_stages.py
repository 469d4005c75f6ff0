"""Stages: what is kept of them, and what a person sees of them."""

import os
from dataclasses import dataclass

import pytest

from edgerl import console, stages
from edgerl.stages import Silence, StageCache, edition, installed, watched


@dataclass(frozen=True)
class Figure:
    value: float
    names: tuple[str, ...] = ()


@pytest.fixture
def cache(tmp_path) -> StageCache:
    return StageCache(tmp_path / "stages")


def forbidden() -> Figure:
    raise AssertionError("computed again")


def test_a_finished_stage_is_kept_by_its_inputs(cache):
    first = Figure(0.1 + 0.2, ("a", "b"))
    assert cache.get("count", {"x": 1}, Figure, lambda: first) == first
    assert cache.get("count", {"x": 1}, Figure, forbidden) == first
    assert cache.get("count", {"x": 2}, Figure, lambda: Figure(2.0)) == Figure(2.0)
    assert cache.get("other", {"x": 1}, Figure, lambda: Figure(3.0)) == Figure(3.0)
    assert cache.get("flag", {}, bool, lambda: False) is False
    assert cache.get("flag", {}, bool, lambda: True) is False


def test_another_edition_of_edgerl_keeps_its_own(cache, monkeypatch):
    cache.get("count", {}, Figure, lambda: Figure(1.0))
    monkeypatch.setattr(stages, "edition", lambda: "0" * 64)
    assert cache.get("count", {}, Figure, lambda: Figure(2.0)) == Figure(2.0)


def test_the_edition_is_the_code(tmp_path, monkeypatch):
    assert edition() == edition()
    package = tmp_path / "package"
    package.mkdir()
    monkeypatch.setattr(stages, "__file__", str(package / "stages.py"))
    seen = set()
    for text in ("a = 1", "a = 2"):
        (package / "stages.py").write_text(text)
        edition.cache_clear()
        seen.add(edition())
    (package / "template.j2").write_text("x")
    edition.cache_clear()
    seen.add(edition())
    edition.cache_clear()
    assert len(seen) == 3


def test_nothing_is_kept_without_a_folder():
    cache = StageCache(None)
    assert cache.get("count", {}, Figure, lambda: Figure(1.0)) == Figure(1.0)
    assert cache.get("count", {}, Figure, lambda: Figure(2.0)) == Figure(2.0)


@pytest.mark.parametrize("content", [b"", b"{", b'{"value": "no number"}', b"\xff\xfe", b"null"])
def test_a_broken_file_is_computed_again(cache, content):
    cache.get("count", {}, Figure, lambda: Figure(1.0))
    (path,) = cache.folder.iterdir()
    path.write_bytes(content)
    assert cache.get("count", {}, Figure, lambda: Figure(2.0)) == Figure(2.0)
    assert cache.get("count", {}, Figure, forbidden) == Figure(2.0)


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_an_unfinished_stage_leaves_nothing(cache, error):
    def fail() -> Figure:
        raise error

    with pytest.raises(type(error)):
        cache.get("count", {}, Figure, fail)
    assert not cache.folder.exists()


def test_an_interrupted_write_leaves_nothing(cache, monkeypatch):
    def interrupt(one: str, other: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupt)
    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache.get("count", {}, Figure, lambda: Figure(1.0))
    assert list(cache.folder.iterdir()) == []


def test_a_cache_that_cannot_be_written_costs_no_result(tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache = StageCache(tmp_path / "file" / "stages")
    for value in (1.0, 2.0):
        assert cache.get("count", {}, Figure, lambda value=value: Figure(value)) == Figure(value)


def test_versions_of_what_is_here():
    assert [line.split()[0] for line in installed("numpy", "no-such-package-of-ours")] == ["numpy"]


def test_silence_watches_nothing():
    watcher = Silence()
    watcher.say("anything")
    with watched(watcher, "stage") as advance:
        advance(1, 2)


@pytest.mark.parametrize(("spent", "lines"), [(0.9, 0), (1.0, 1), (75.0, 1)])
def test_a_line_for_a_stage_over_a_second(spent, lines, monkeypatch, capfd):
    clock = iter([10.0, 10.0 + spent])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with watched(console.Console(), "parity [x]") as advance:
        advance(1, 2)
    out, err = capfd.readouterr()
    assert out == ""
    assert err == f"  done parity [x] {spent:.1f} s\n" * lines


def test_a_failing_stage_is_not_done(monkeypatch, capfd):
    clock = iter([0.0, 5.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with pytest.raises(ValueError, match="no"), watched(console.Console(), "parity"):
        raise ValueError("no")
    assert capfd.readouterr() == ("", "")


def test_a_quiet_console_says_nothing(monkeypatch, capfd):
    quiet = console.Console(quiet=True)
    quiet.say("a remark")
    with watched(quiet, "parity") as advance:
        advance(1, 1)
    assert capfd.readouterr() == ("", "")


def test_a_remark_is_made_once_and_as_it_is(capfd):
    talking = console.Console()
    talking.say("assumed: [bold] rate")
    talking.say("assumed: [bold] rate")
    assert capfd.readouterr() == ("", "  assumed: [bold] rate\n")
