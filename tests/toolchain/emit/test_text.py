"""The emitted text: names that stay names, comments that stay comments, lines that fit, and the
same bytes each time."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from one_build import package, policy_of, zig_caches
from pydantic import ValidationError
from random_programs import Builder, feedforward, one_of_each, recurrent

from edgerl.errors import UserError
from edgerl.policies import Policy, PolicySpec, Signal, StateSignal, load
from edgerl.toolchain import ir
from edgerl.toolchain.emit import Package, emit
from edgerl.toolchain.emit.rendering import cfloat, comment, listed
from edgerl.toolchain.lowering import lower

HOSTILE = [
    "*/ int x; /*",
    "*",
    "/",
    "a*/b",
    "/*",
    "//",
    "m\n#error stopped",
    "m\\",
    "m\\\n",
    "??/",
    "m??/\n",
    '"',
    "'",
    "{{ p }}",
    "${x}",
    "`id`",
    "\0",
    "\u2028",
    "\u202e",
    "µ",
    "%s%n",
]


def raptor(name: str = "raptor") -> Package:
    policy = load("raptor")
    assert policy.name == name
    return emit(policy, lower(policy), fused=True, assembly="cortex_m_fpu")


def packages() -> dict[str, Package]:
    return {
        "raptor": raptor(),
        "lander": package(recurrent(("lstm",), 13, 13), "lander", fused=False),
        "walker": package(feedforward((24, 33, 17, 4), "elu"), "walker", fused=True),
        "every": package(one_of_each(), "every", fused=True, out_of_range="fallback"),
        "plain": package(one_of_each(), "plain", fused=True, assembly=""),
    }


@pytest.fixture(scope="module")
def made() -> dict[str, Package]:
    return packages()


@pytest.mark.parametrize("text", HOSTILE)
def test_no_hostile_label_gets_out_of_its_comment(text: str) -> None:
    program = feedforward((3, 2), None)

    def emitted(free: str) -> Package:
        # Past every check of the spec, as a caller who never validates would hand it over.
        signal = Signal.model_construct(
            name="seen", size=3, unit=free, frame=free, range=(-1.0, 1.0), labels=(), spin=()
        )
        changes = {"observation": (signal,), "licence": free}
        spec = policy_of(program).spec.model_copy(update=changes)
        policy = Policy(load("raptor").graph, spec)
        return emit(policy, program, fused=True, assembly="cortex_m_fpu")

    made, harmless = emitted(text), emitted("plain")
    for name, content in made.files.items():
        assert without_comments(content) == without_comments(harmless.files[name])
        assert content.isascii()
    header = made.files["program.h"]
    assert not re.search(r"\?\?/|\\$", header, re.MULTILINE)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_spec_takes_no_label_that_could_end_a_comment(text: str) -> None:
    try:
        Signal(name="seen", size=3, unit=text, range=(-1.0, 1.0))
    except ValidationError:
        return
    assert comment(text) == text


def without_comments(text: str) -> str:
    """What a compiler takes for C, trigraphs and continued lines included."""
    joined = text.replace("??/", "\\").replace("\\\n", "")
    return re.sub(r"/\*.*?\*/", " ", joined, flags=re.DOTALL)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_comment_neither_ends_nor_opens_nor_goes_on(text: str) -> None:
    for around in (text, f"x{text}", f"{text}*{text}", f"*{text}/", f"/{text}*"):
        safe = comment(around)
        assert len(safe.splitlines()) <= 1
        assert not re.search(r"\*/|/\*|\\|\?", safe)
        assert safe.isascii()
        assert safe.isprintable() or not safe


@pytest.mark.parametrize("name", ["*/", "a b", "a-b", "__x", "int", "x;y", "é", "", "9a", "a\n"])
def test_no_hostile_name_reaches_the_emitter(name: str) -> None:
    with pytest.raises(ValidationError):
        PolicySpec.model_validate(
            {"name": name, "observation": [{"name": "o", "size": 1}], "action": [{"name": "motor"}]}
        )
    with pytest.raises(ValidationError):
        StateSignal(name=name, size=1)
    with pytest.raises(ValidationError):
        Signal(name="motor", size=1, range=(-1.0, 1.0), labels=(name,))


def test_the_longest_names_and_labels_compile(tmp_path: Path) -> None:
    name = "n" * 40
    signal = Signal(
        name="s" * 40, size=3, unit="u" * 40, frame="f" * 40, range=(-1.25e-7, 1.0e30),
        labels=("a" * 40, "b" * 40, "c" * 40), spin=(1, -1, 1),
    )  # fmt: skip
    made = package(feedforward((3, 2), "tanh"), name, fused=True, observation=(signal,))
    for file, text in made.files.items():
        (tmp_path / file).write_text(text)
    command = [sys.executable, "-m", "ziglang", "cc", "-std=c99", "-Wall", "-Werror", "-c"]
    result = subprocess.run(
        [*command, f"{name}.c"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**zig_caches(tmp_path), "HOME": str(tmp_path), "PATH": ""},
    )
    assert result.returncode == 0, result.stderr
    for word in ("a" * 40, "c" * 40, "spin +1, -1, +1"):
        assert word in made.files[f"{name}.h"]


def test_the_header_documents_every_signal(made: dict[str, Package]) -> None:
    header = made["raptor"].files["raptor.h"]
    for row in (
        r"0\.\.2 +position_error +m +world-FLU +\+-0\.5",
        r"3\.\.11 +rotation_matrix +1 +body-to-world +\+-1\.001",
        r"18\.\.21 +previous_action +1 +\+-1",
        r"0\.\.3 +motor +1 +\+-1",
        r"fr, br, bl, fl; spin -1, \+1, -1, \+1",
        r"licence MIT",
        r"0\.\.15 +hidden",
    ):
        assert re.search(row, header), row


def test_emitting_twice_gives_the_same_bytes(made: dict[str, Package]) -> None:
    again = packages()
    for name, each in made.items():
        assert each.files == again[name].files


def test_no_file_says_where_or_when_it_was_made(made: dict[str, Package]) -> None:
    here = Path(__file__).resolve().parents[3]
    for each in made.values():
        for name, text in each.files.items():
            assert str(here) not in text, name
            assert str(Path.home()) not in text, name
            assert not re.search(r"\b20\d\d-\d\d|\b\d\d:\d\d:\d\d|/tmp|/usr", text), name


def test_the_text_is_laid_out_well(made: dict[str, Package]) -> None:
    for each in made.values():
        for name, text in each.files.items():
            assert text.endswith("\n"), name
            assert not text.endswith("\n\n"), name
            assert "\n\n\n" not in text, name
            assert "\t" not in text, name
            assert text.isascii(), name
            assert "{{" not in text, name
            lines = text.splitlines()
            assert max(map(len, lines)) <= 100, (name, max(lines, key=len))
            assert not [line for line in lines if line != line.rstrip()], name
            assert not re.search(r"\{\n\n|\n\n *\}", text), name


def test_comments_of_the_assembly_stand_in_one_column(made: dict[str, Package]) -> None:
    for name in ("raptor", "lander", "every"):
        text = made[name].files[f"{name}_cortex_m_fpu.S"]
        columns = {line.index("@") for line in text.splitlines() if "@" in line}
        assert columns == {40}, name


VALUES = [0.0, -0.0, 1.0, -1.5, 0.1, 1e-45, -1e-45, 1.17549435e-38, 3.4028235e38, 16777216.0, 1e10]


@pytest.mark.parametrize("value", VALUES)
def test_a_constant_reads_back_exactly(value: float) -> None:
    literal = cfloat(value)
    assert literal.endswith("f")
    assert re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?f", literal)
    assert re.search(r"[.e]", literal)
    back = np.float32(literal[:-1])
    assert back.view(np.uint32) == np.float32(value).view(np.uint32)


def test_lists_break_into_lines_that_fit() -> None:
    text = listed("    call(", [f"argument{k}" for k in range(20)], ");")
    assert all(len(line) <= 100 for line in text.splitlines())
    assert " ".join(text.split()) == "call(" + ", ".join(f"argument{k}" for k in range(20)) + ");"
    assert all(line.startswith(" " * 9) for line in text.splitlines()[1:])


@pytest.mark.parametrize("activation", ["sin", "cos", "sqrt"])
def test_what_no_kernel_computes_is_refused_by_name(activation: str) -> None:
    b = Builder(1)
    x, y = b.tensor(3), b.tensor(3)
    b.operations.append(ir.Activate(activation, x, y))
    with pytest.raises(UserError, match=activation):
        package(b.program(x, y), "refused", fused=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_weights_that_cannot_be_used_are_refused(value: float) -> None:
    b = Builder(1)
    x, y = b.tensor(3), b.tensor(2)
    weights = np.full((2, 3), value, np.float32)
    b.operations.append(ir.Dense(((x, weights),), np.zeros(2, np.float32), y, "tanh"))
    with pytest.raises(UserError, match=y):
        package(b.program(x, y), "refused", fused=True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_constants_that_are_not_finite_are_refused(value: float) -> None:
    b = Builder(1)
    x, y = b.tensor(3), b.tensor(3)
    b.operations.append(ir.Linear(((x, np.ones(3, np.float32)),), np.full(3, value, np.float32), y))
    with pytest.raises(UserError, match=y):
        package(b.program(x, y), "refused", fused=True)
