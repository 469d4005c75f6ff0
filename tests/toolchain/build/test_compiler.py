"""Compilers are found, or one line says how to get them."""

import importlib.util
from pathlib import Path

import pytest

from edgerl.errors import ToolError
from edgerl.targets.model import target
from edgerl.toolchain.build import cache_folder, find

CORE = target("crazyflie21").core
NATIVE = target("host").core


def test_zig_says_both_versions() -> None:
    assert find("zig", CORE).version.startswith("zig 0.")
    assert "(clang " in find("zig", CORE).version


@pytest.mark.parametrize(
    ("core", "command"),
    [(CORE, "apt-get install gcc-arm-none-eabi"), (NATIVE, "apt-get install gcc")],
)
def test_missing_gcc(core, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match=f"{command}$"):
        find("gcc", core)


def test_missing_zig(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolError, match=r"pip install 'edgerl\[emu\]'"):
        find("zig", CORE)


def test_unknown_compiler() -> None:
    with pytest.raises(ToolError, match="unknown compiler 'tcc'; known: zig, gcc"):
        find("tcc", CORE)


def test_core_without_flags() -> None:
    with pytest.raises(ToolError, match="zig has no flags for core odd"):
        find("zig", CORE.model_copy(update={"name": "odd", "zig": ()}))


def test_first_error_line_of_the_compiler(tmp_path: Path) -> None:
    (tmp_path / "bad.c").write_text("int f(void) { return nothing; }\n")
    with pytest.raises(ToolError, match=r"^zig .* failed: bad\.c:1:\d+: error: .*nothing"):
        find("zig", CORE).compile("bad.c", cwd=tmp_path)


def test_warnings_are_errors(tmp_path: Path) -> None:
    (tmp_path / "loose.c").write_text("int f(float x); int f(float x) { return x; }\n")
    with pytest.raises(ToolError, match="conver"):
        find("zig", CORE).compile("loose.c", cwd=tmp_path)


def test_cache_folder_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGERL_CACHE", str(tmp_path / "file"))
    with pytest.raises(ToolError, match="set EDGERL_CACHE"):
        cache_folder("zig")


def test_compilers_cache_where_they_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGERL_CACHE", str(tmp_path / "cache"))
    assert cache_folder("zig") == tmp_path / "cache" / "zig"
    assert cache_folder("zig").is_dir()
