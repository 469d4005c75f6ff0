"""The emitted files inside other people's builds: their warnings, their fast-math, their LTO."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from one_build import BOARD, on_core, on_host, package, zig_caches
from random_programs import Builder, feedforward, one_of_each, recurrent

from edgerl.toolchain import ir
from edgerl.toolchain.build import Run, first_difference
from edgerl.toolchain.emit import Package

WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror", "-ffp-contract=off")
# What flight stacks and libraries add.
MORE_WARNINGS = (
    "-Wshadow",
    "-Wundef",
    "-Wcast-qual",
    "-Wdouble-promotion",
    "-Wmissing-declarations",
)
ZIG = [sys.executable, "-m", "ziglang"]
CORTEX = list(BOARD.core.gcc)
ZIG_CORTEX = list(BOARD.core.zig)
HARSH = (
    "-O0",
    "-Os -ffinite-math-only -fno-signed-zeros -freciprocal-math",
    "-O3 -funroll-loops -ffast-math -ffp-contract=fast",
    "-Ofast -ffast-math -flto",
)


def need(tool: str) -> str:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    return tool


def constant() -> ir.Program:
    b = Builder(7)
    return b.program(b.tensor(3), b.linear([], 2))


def copied() -> ir.Program:
    b = Builder(7)
    observation = b.tensor(3)
    return b.program(observation, b.copy(observation))


def blind() -> ir.Program:
    """A program that never looks at its observation."""
    b = Builder(7)
    observation, state = b.tensor(3), b.state(4, 1.0)
    b.follow(state, b.dense([state], 4, "tanh", 1.0))
    return b.program(observation, b.dense([state], 2, None, 1.0))


PROGRAMS = {
    "every": one_of_each(),
    "narrow": feedforward((3, 5, 2), "sigmoid"),
    "gru": recurrent(("gru",), 22, 16),
    "lstm": recurrent(("lstm",), 5, 11),
    "elu": feedforward((24, 33, 17, 4), "elu"),
    "constant": constant(),
    "copied": copied(),
    "blind": blind(),
}
# Whatever a spec can ask for leaves other functions without a caller.
SPECS: dict[str, dict[str, object]] = {
    "hold": {},
    "mixed": {"out_of_range": "fallback", "observation_range": (0.0, 2.0)},
    "other": {"out_of_range": "hold", "non_finite": "fallback", "action_range": (-1.0, 0.0)},
    "fallback": {"out_of_range": "fallback", "non_finite": "fallback"},
}


def packages() -> list[Package]:
    """Each program by one of the specs, some without assembly."""
    made = []
    for k, (name, program) in enumerate(PROGRAMS.items()):
        kind = list(SPECS)[k % len(SPECS)]
        spec = dict(SPECS[kind])
        for signal, row, tensor in (
            ("observation", "seen", program.observation),
            ("action", "done", program.action),
        ):
            if limits := spec.pop(f"{signal}_range", None):
                size = program.size(tensor)
                spec[signal] = ({"name": row, "size": size, "range": limits},)
        made.append(package(program, f"{name}_{kind}", fused=kind != "other", **spec))
    made += [
        package(PROGRAMS[name], f"{name}_plain", fused=True, assembly="") for name in ("gru", "elu")
    ]
    return made


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with all packages, and their names."""
    folder = tmp_path_factory.mktemp("packages")
    made = packages()
    for each in made:
        for name, text in each.files.items():
            (folder / name).write_text(text)
    return folder, [each.name for each in made]


def compiled(command: Sequence[str], folder: Path) -> str:
    """What the compiler has to say; empty when it is content."""
    result = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **zig_caches(folder), "LC_ALL": "C"},
    )
    assert result.stderr or result.returncode == 0
    return result.stderr[:2000]


COMPILERS = {
    "gcc": (["gcc"], ["g++"]),
    "zig": ([*ZIG, "cc"], [*ZIG, "c++"]),
    "arm gcc": (["arm-none-eabi-gcc", *CORTEX], ["arm-none-eabi-g++", *CORTEX]),
    "arm zig": ([*ZIG, "cc", *ZIG_CORTEX], [*ZIG, "c++", *ZIG_CORTEX]),
}


@pytest.mark.parametrize("language", ["c99", "c++11"])
@pytest.mark.parametrize(
    ("compiler", "portable"),
    [("gcc", False), ("zig", False), *((c, p) for c in ("arm gcc", "arm zig") for p in (0, 1))],
)
def test_no_warning_as_c_and_as_cxx(
    compiler: str, language: str, portable: bool, sources: tuple[Path, list[str]]
) -> None:
    as_c, as_cxx = COMPILERS[compiler]
    command = as_c if language == "c99" else as_cxx
    need(command[0])
    folder, names = sources
    flags = [f"-std={language}", "-O2", *WARNINGS, *MORE_WARNINGS, "-c"]
    flags += ["-x", "c" if language == "c99" else "c++"]
    flags += ["-ffreestanding"] if compiler.startswith("arm") else []
    flags += [f"-D{name.upper()}_PORTABLE" for name in names] if portable else []
    files = [f"{name}.c" for name in names]
    headers = folder / "headers.c"
    headers.write_text("".join(f'#include "{name}.h"\n' for name in names) * 2)
    assert compiled([*command, *flags, *files, headers.name], folder) == ""


@pytest.mark.parametrize("level", ["-O0", "-Os", "-O3"])
@pytest.mark.parametrize("family", ["zig", "gcc"])
def test_no_warning_at_other_levels(
    family: str, level: str, sources: tuple[Path, list[str]]
) -> None:
    command = COMPILERS["arm zig" if family == "zig" else "arm gcc"][0]
    need(command[0])
    folder, names = sources
    files = ["every_hold.c", "gru_plain.c"]
    portable = [f"-D{name.upper()}_PORTABLE" for name in names]
    flags = ["-std=c99", *WARNINGS, level, "-ffreestanding", *portable, "-c"]
    assert compiled([*command, *flags, *files], folder) == ""


def test_the_check_for_warnings_sees_them(tmp_path: Path) -> None:
    for name in ("good.c", "bad.c"):
        (tmp_path / name).write_text("static int unused(void) { return 1; }\n" * (name == "bad.c"))
    command = [*COMPILERS["zig"][0], "-std=c99", "-Wall", "-Werror", "-c", "good.c", "bad.c"]
    assert "unused" in compiled(command, tmp_path)


@pytest.fixture(scope="module")
def program() -> ir.Program:
    return one_of_each()


@pytest.fixture(scope="module")
def made(program: ir.Program) -> list[Package]:
    """With assembly and as portable C, and in the other arithmetic."""
    return [
        package(program, "assembly", fused=True),
        package(program, "portable", fused=True),
        package(program, "unfused", fused=False),
    ]


@pytest.fixture(scope="module")
def inputs(program: ir.Program) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observations without and with faults, and reset marks."""
    rng = np.random.default_rng(8)
    plain = rng.normal(size=(40, program.size(program.observation))).astype(np.float32)
    plain[5] = 0.0
    plain[6] *= np.float32(1e-39)
    faulty = plain.copy()
    faults = np.array([np.nan, np.inf, -np.inf, 99.0, -np.nan, 1e30, -0.0, 1e-42], np.float32)
    faulty[np.arange(3, 35, 4), rng.integers(0, plain.shape[1], 8)] = faults
    return plain, faulty, np.arange(40) % 17 == 0


@pytest.fixture(scope="module")
def golden(
    made: list[Package], inputs: tuple, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Run, Run]]:
    """What the host answers, compiled with no such flags."""
    plain, faulty, resets = inputs
    twins = on_host(made, tmp_path_factory.mktemp("host"))
    return {
        name: (twin.trace(plain, resets, "evaluate"), twin.trace(faulty, resets, "step"))
        for name, twin in twins.items()
    }


def assert_golden(
    compiler: str, flags: Sequence[str], made: list[Package], inputs: tuple, golden: dict, at: Path
) -> None:
    plain, faulty, resets = inputs
    portable = [each.name for each in made if each.name != "assembly"]
    image = on_core(made, at, compiler, flags, portable=portable)
    for name, (evaluated, stepped) in golden.items():
        core = image.core(name)
        assert first_difference(evaluated, core.trace(plain, resets, "evaluate")) is None, name
        guarded = core.trace(faulty, resets, "step")
        assert first_difference(stepped, guarded) is None, name
        broken = ~np.isfinite(faulty).all(axis=1)
        outside = broken | (np.abs(faulty) > 8.0).any(axis=1)
        assert guarded.status.tolist() == (outside + 2 * broken).tolist(), name
        assert np.isfinite(guarded.actions).all()


@pytest.mark.parametrize("harsh", HARSH)
@pytest.mark.parametrize("family", ["zig", "gcc"])
def test_golden_bits_and_guard_under_harsh_flags(
    family: str, harsh: str, made: list[Package], inputs: tuple, golden: dict, tmp_path: Path
) -> None:
    if family == "gcc":
        need("arm-none-eabi-gcc")
    assert_golden(family, harsh.split(), made, inputs, golden, tmp_path)


@pytest.mark.parametrize("family", ["zig", "gcc"])
def test_compiled_as_cxx_it_links_with_its_assembly(
    family: str, made: list[Package], inputs: tuple, golden: dict, tmp_path: Path
) -> None:
    if family == "gcc":
        need("arm-none-eabi-gcc")
    image = on_core(made[:1], tmp_path, family, ["-x", "c++", "-std=c++11", "-fno-exceptions"])
    plain, _, resets = inputs
    found = image.core("assembly").trace(plain, resets, "evaluate")
    assert first_difference(golden["assembly"][0], found) is None


PRAGMAS = re.compile(r"#pragma (clang fp|GCC optimize).*")


@pytest.mark.parametrize("family", ["zig", "gcc"])
def test_without_its_pragmas_it_would_not_stand_fast_math(
    family: str, made: list[Package], inputs: tuple, golden: dict, tmp_path: Path
) -> None:
    if family == "gcc":
        need("arm-none-eabi-gcc")
    bare = [
        Package(**{**vars(each), "files": {n: PRAGMAS.sub("", t) for n, t in each.files.items()}})
        for each in made
        if each.name == "portable"
    ]
    expected = {"portable": golden["portable"]}
    with pytest.raises(AssertionError, match="portable"):
        assert_golden(family, ["-Ofast", "-ffast-math"], bare, inputs, expected, tmp_path)


def refusal(command: Sequence[str], folder: Path, name: str = "gru_plain") -> str:
    return compiled([*command, "-c", f"{name}.c"], folder)


def test_excess_precision_is_refused(sources: tuple[Path, list[str]]) -> None:
    if "-m32" not in compiled([need("gcc"), "-m32", "-###", "-c", "gru_plain.c"], sources[0]):
        pytest.skip("this gcc has no 32-bit target")
    x87 = ["gcc", "-m32", "-mfpmath=387", "-mno-sse", "-ffreestanding", "-std=c99"]
    assert "FLT_EVAL_METHOD" in refusal(x87, sources[0])
    assert refusal(["gcc", "-std=c99"], sources[0]) == ""


def test_excess_precision_is_refused_by_clang_too(sources: tuple[Path, list[str]]) -> None:
    x87 = [*ZIG, "cc", "-target", "x86-freestanding", "-mcpu=i586", "-ffreestanding", "-std=c99"]
    assert "FLT_EVAL_METHOD" in refusal(x87, sources[0])
    assert "FLT_EVAL_METHOD" in refusal([*x87, "-ffast-math"], sources[0])


def test_fast_math_that_cannot_be_switched_off_is_refused(
    sources: tuple[Path, list[str]],
) -> None:
    old = [*ZIG, "cc", "-U__clang_major__", "-D__clang_major__=17", "-std=c99"]
    old += ["-Wno-builtin-macro-redefined"]
    assert refusal(old, sources[0]) == ""
    assert "fast-math" in refusal([*old, "-ffast-math"], sources[0])
