"""The emitted files inside other people's builds: their warnings, their fast-math, their LTO."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgerl.policies import load
from edgerl.targets import target
from edgerl.toolchain.build import build_firmware, build_host, find
from edgerl.toolchain.emit import emit
from edgerl.toolchain.emulators import UnicornCore
from edgerl.toolchain.lowering import lower

TARGET = target("crazyflie21")
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror", "-ffp-contract=off"]
CORTEX = ["-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"]
ZIG = [sys.executable, "-m", "ziglang"]
HARSH = ("-Ofast -ffast-math", "-O3 -funroll-loops -ffast-math", "-Os", "-O0 -ffinite-math-only")


def _write(folder: Path, fused: bool) -> Path:
    policy = load("raptor")
    folder.mkdir(exist_ok=True)
    made = emit(policy, lower(policy), fused=fused, assembly="cortex_m_fpu")
    for name, text in made.files.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module", params=[True, False], ids=["fma", "mul"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write(tmp_path_factory.mktemp("raptor"), request.param)


@pytest.mark.parametrize("language", ["c99", "c++11", "c++17"])
@pytest.mark.parametrize("tool", ["gcc", "zig", "arm-none-eabi-gcc", "arm portable"])
def test_no_warning_as_c_and_as_cxx(source: Path, tool: str, language: str) -> None:
    as_cxx = language.startswith("c++")
    if tool == "zig":
        command = [*ZIG, "c++" if as_cxx else "cc"]
    else:
        compiler = "arm-none-eabi-gcc" if tool.startswith("arm") else "gcc"
        if shutil.which(compiler) is None:
            pytest.skip(f"{compiler} is not installed")
        if as_cxx and shutil.which(compiler.replace("gcc", "g++")) is None:
            pytest.skip(f"{compiler.replace('gcc', 'g++')} is not installed")
        command = [compiler, *(CORTEX if tool.startswith("arm") else [])]
        command += ["-DRAPTOR_PORTABLE"] if tool == "arm portable" else []
    kind = "c++" if as_cxx else "c"
    for name in ("raptor.c", "raptor.h"):
        output = f"{tool}-{language}-{name}.o".replace(" ", "-")
        arguments = ["-x", kind, f"-std={language}", "-O2", *WARNINGS, "-c", name, "-o", output]
        result = subprocess.run(
            [*command, *arguments], cwd=source, capture_output=True, text=True, timeout=120
        )
        assert result.returncode == 0, result.stderr[:2000]


@pytest.mark.parametrize("portable", [False, True], ids=["assembly", "portable"])
@pytest.mark.parametrize("family", ["zig", "gcc"])
@pytest.mark.parametrize("harsh", HARSH)
def test_golden_bits_and_guard_under_harsh_flags(
    tmp_path: Path, family: str, harsh: str, portable: bool
) -> None:
    if family == "gcc" and shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is not installed")
    # The form that leaves the compiler more to spoil: sums and products in C, fused in assembly.
    source = _write(tmp_path / "src", fused=not portable)
    _same_as_twin(source, tmp_path, family, harsh.split(), portable)


@pytest.mark.parametrize("fused", [True, False], ids=["fma", "mul"])
def test_golden_bits_and_guard_under_link_time_optimisation(tmp_path: Path, fused: bool) -> None:
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is not installed")
    source = _write(tmp_path / "src", fused)
    _same_as_twin(source, tmp_path, "gcc", ["-ffast-math", "-flto"], True)


def _same_as_twin(
    source: Path, folder: Path, family: str, flags: list[str], portable: bool
) -> None:
    twin = build_host(source, "raptor", folder / "host")
    image = build_firmware(
        source,
        "raptor",
        TARGET,
        find(family, TARGET.core),
        folder / "out",
        build_id="0" * 64,
        portable=portable,
        flags=flags,
    )
    core = UnicornCore(image, TARGET)
    rng = np.random.default_rng(1)
    observations = rng.normal(size=(128, 22)).astype(np.float32)
    resets = np.arange(128) % 40 == 0
    plain = core.trace(observations, resets, "evaluate")
    assert plain.actions.tobytes() == twin.trace(observations, resets, "evaluate").actions.tobytes()
    faults = np.array([np.nan, np.inf, -np.inf, 1e30, -np.nan, 1e-42, -0.0, 40.0], np.float32)
    rows = np.arange(0, 128, 3)
    observations[rows, rng.integers(0, 22, len(rows))] = faults[rng.integers(0, 8, len(rows))]
    guarded, expected = core.trace(observations, resets), twin.trace(observations, resets)
    assert guarded.actions.tobytes() == expected.actions.tobytes()
    assert guarded.status.tolist() == expected.status.tolist()
    assert ((guarded.status & 2) != 0).tolist() == (~np.isfinite(observations).all(axis=1)).tolist()
