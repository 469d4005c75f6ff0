"""The shape of the package: which way imports point, and what an import costs."""

import ast
import getpass
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import edgerl

ROOT = Path(edgerl.__file__).parent
SOURCES = {
    ".".join(("edgerl", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in sorted(ROOT.rglob("*.py"))
}

# What each room may import of ours beside itself. What lies in no room stands on top.
BELOW = {
    "errors": set(),
    "documents": {"errors"},
    "targets": {"errors", "documents"},
    "policies": {"errors", "documents"},
    "toolchain": {"errors", "documents", "targets", "policies"},
    "compress": {"errors", "documents", "targets", "policies", "toolchain"},
    "hil": {"errors", "documents", "targets", "policies", "toolchain"},
}
ENTRANCES = {
    "cli": {"__main__"},
    "verbs": {"cli"},
    "listing": {"verbs"},
    "options": {"verbs", "listing"},
    "console": {"verbs", "listing"},
    "exits": {"cli", "verbs", "listing"},
}

HEAVY = {
    "capstone", "flwr", "gymnasium", "h5py", "mujoco", "nncf", "onnxruntime", "pysindy", "ray",
    "stable_baselines3", "torch", "unicorn", "ziglang",
}  # fmt: skip
UNIX_ONLY = {
    "crypt", "curses", "fcntl", "grp", "nis", "ossaudiodev", "posix", "pty", "pwd", "readline",
    "resource", "spwd", "syslog", "termios", "tty",
}  # fmt: skip
LONGEST_MODULE = 450


def imported(tree: ast.AST, modules: set[str]) -> set[str]:
    """Modules that the code imports, a name in a package as the module that it is, if it is."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in modules else str(node.module))
    return found


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The statements of a module that run when it is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        yield from at_import(child)


def room(module: str) -> str:
    return [*module.split("."), ""][1]


def trespasses(module: str, names: set[str]) -> set[str]:
    """Imports of ours that `module` must not have."""
    here = room(module)
    ours = {name for name in names if name.split(".")[0] == "edgerl"}
    if here in BELOW:
        return {name for name in ours if room(name) not in BELOW[here] | {here}}
    return {n for n in ours if room(n) in ENTRANCES and here not in ENTRANCES[room(n)]}


TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}
IMPORTS = {name: imported(tree, set(SOURCES)) for name, tree in TREES.items()}


def test_the_reader_of_imports_sees_what_it_should():
    tree = ast.parse(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import torch\n"
        "try:\n    import fcntl\nexcept ImportError:\n    pass\n"
        "class A:\n    import unicorn\n"
        "def f():\n    from edgerl.toolchain import ir\n"
    )
    names = {name for node in at_import(tree) for name in imported(node, set())}
    assert names == {"typing", "fcntl", "unicorn"}
    assert "edgerl.toolchain.ir" in imported(tree, set(SOURCES))
    assert trespasses("edgerl.policies.x", imported(tree, set(SOURCES))) == {"edgerl.toolchain.ir"}
    assert trespasses("edgerl.targets.x", {"edgerl.policies.spec"})
    assert trespasses("edgerl.hil.x", {"edgerl.compress.y"})
    assert trespasses("edgerl.pipeline", {"edgerl.cli"})
    assert not trespasses("edgerl.pipeline", {"edgerl.toolchain.ir", "edgerl.policies"})


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_down(module):
    assert not trespasses(module, IMPORTS[module])


def test_no_module_imports_itself_by_a_detour():
    graph = {name: names & set(SOURCES) for name, names in IMPORTS.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(error.args[1]))


@pytest.mark.parametrize("module", SOURCES)
def test_nothing_heavy_and_nothing_unix_only_at_import(module):
    names = {
        name.split(".")[0]
        for node in at_import(TREES[module])
        for name in imported(node, set(SOURCES))
    }
    assert not names & (HEAVY | UNIX_ONLY)


@pytest.mark.parametrize("module", SOURCES)
def test_modules_are_short(module):
    lines = SOURCES[module].read_text(encoding="utf-8").count("\n")
    assert lines <= LONGEST_MODULE


def test_no_file_names_a_place_on_a_machine():
    place = re.compile(
        r"(?<![\w.}])/(home|root|tmp|work|Users|mnt|srv|opt|var|usr)/|[A-Z]:\\|/repo/|\.cache/pip"
    )
    owner = re.compile(rf"(?<!\w){re.escape(getpass.getuser())}@")
    assert place.search('x = "/home/me/x"')
    for path in ROOT.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            text = path.read_text(encoding="utf-8")
            found = place.search(text) or owner.search(text)
            assert not found, f"{path.relative_to(ROOT)}: {found[0]}"


def loaded_by(code: str) -> set[str]:
    """Top-level packages in the interpreter after it ran `code`."""
    show = "import sys; print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}"], capture_output=True, text=True, check=True
    )
    return set(done.stderr.split())


def test_importing_edgerl_imports_next_to_nothing():
    loaded = loaded_by("import edgerl")
    assert "edgerl" in loaded
    assert not loaded & (HEAVY | {"numpy", "onnx", "pydantic", "jinja2", "rich", "typer"})


def test_help_is_quick():
    loaded = loaded_by("import edgerl.cli; edgerl.cli.run(['--help'])")
    assert "typer" in loaded
    assert not loaded & (HEAVY | {"numpy", "onnx", "pydantic", "jinja2", "elftools"})


def test_public_names_are_there():
    for name in edgerl.__all__:
        assert getattr(edgerl, name) is not None
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", edgerl.__version__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = edgerl.nothing
