"""Programs of int8 and int16 vectors in MVE assembly: on an M55 the same bits as their portable C
on this machine, which follows the definition, the same instructions for every input, and no more
stack than the call graph says.

`--hypothesis-profile=thorough` looks at 100 random programs, at other ones each time.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, note, settings
from hypothesis import strategies as st
from one_build import on_host
from random_programs import Builder, programs
from test_figures import mlp
from test_integer_programs import Made, follows_definition, inputs, made

from edgerl.errors import UserError
from edgerl.policies import load
from edgerl.targets import target
from edgerl.toolchain import ir
from edgerl.toolchain.build import build_firmware, find, first_difference, footprint, worst_stack
from edgerl.toolchain.emit import Package
from edgerl.toolchain.emulators import QemuCore, count
from edgerl.toolchain.lowering import lower

ASSEMBLY = "mve"
BOARD = target("cortex-m55-mve")
FORMATS = ("w8a8", "w16a16", "w8a16", "w4a16")
FAMILIES = ("zig", "gcc")
THOROUGH = settings.get_current_profile_name() == "thorough"
pytestmark = pytest.mark.skipif(
    shutil.which(BOARD.core.qemu) is None, reason=f"{BOARD.core.qemu} is not installed"
)
# The most instructions of `_evaluate` and bytes of flash.
RAPTOR = {"w8a8": (770, 5_500), "w16a16": (970, 7_400), "w8a16": (990, 6_100)}
MLP = {"w8a8": (1_650, 9_700), "w16a16": (2_200, 15_300), "w8a16": (2_250, 11_200)}


def every_kind() -> ir.Program:
    """Every form; last tiles of three, two and one row; rows that loops run through and rows that
    none does; cells that begin a tile and cells that do not fill one."""
    b = Builder(4)
    observation = b.tensor(13)
    b.values[observation] = 4.0
    x = b.dense([observation], 23, "relu", 1.0)
    skipped = b.dense([x], 7, "sigmoid", 1.0)
    x = b.dense([x, skipped], 330, None, 1.0)
    x = b.gru(b.dense([x], 8, "tanh", 1.0), 7)
    x = b.lstm(b.gru(x, 3), 5)
    return b.program(observation, b.dense([x, skipped], 2, "sigmoid", 1.0))


def on_m55(package: Package, folder: Path, family: str, *, portable: bool = False) -> QemuCore:
    source = folder / "src"
    source.mkdir(parents=True, exist_ok=True)
    for name, text in package.files.items():
        (source / name).write_text(text, encoding="utf-8", newline="\n")
    compiler = find(family, BOARD.core)
    image = build_firmware(
        source, package.name, BOARD, compiler, folder / family, build_id="00" * 32,
        portable=portable,
    )  # fmt: skip
    return QemuCore(image, BOARD)


def check(each: Made, folder: Path, families: tuple[str, ...]) -> None:
    """The definition, the host and the core."""
    host = on_host([each.package], folder / "host")[each.package.name]
    observations, resets = inputs(host.observation_size, 5)
    expected = host.trace(observations, resets, "evaluate")
    follows_definition(each, observations, resets, expected)
    guarded = host.trace(observations, resets, "step")
    for family in families:
        core = on_m55(each.package, folder, family)
        for mode, believed in (("evaluate", expected), ("step", guarded)):
            found = core.trace(observations, resets, mode)
            assert first_difference(believed, found) is None, (family, mode)
            bound = worst_stack(core.image, f"{each.package.name}_{mode}").bytes
            assert bound - 16 <= core.stack_used(observations, mode) <= bound
        counted = count(core, observations).spread
        assert counted.min == counted.max


@pytest.mark.parametrize("number_format", FORMATS)
def test_each_kind_of_step(number_format: str, tmp_path: Path) -> None:
    families = FAMILIES if number_format == "w8a8" else ("zig",)
    check(made(every_kind(), "kinds", number_format, 3, ASSEMBLY), tmp_path, families)


def test_portable_c_with_the_vectors_of_a_compiler(tmp_path: Path) -> None:
    each = made(every_kind(), "kinds", "w8a8", 3, ASSEMBLY)
    host = on_host([each.package], tmp_path / "host")["kinds"]
    observations, resets = inputs(host.observation_size, 5)
    twin = on_m55(each.package, tmp_path, "gcc", portable=True)
    for mode in ("evaluate", "step"):
        expected = host.trace(observations, resets, mode)
        assert first_difference(expected, twin.trace(observations, resets, mode)) is None


@settings(
    max_examples=100 if THOROUGH else 4,
    deadline=None,
    derandomize=not THOROUGH,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
@given(programs(), st.sampled_from(FORMATS), st.integers(0, 2**32 - 1))
def test_random_programs(program: ir.Program, number_format: str, seed: int) -> None:
    try:
        each = made(program, "net", number_format, seed, ASSEMBLY)
    except UserError:
        assume(False)
    note(f"{number_format}: {each.fixed}")
    with tempfile.TemporaryDirectory() as folder:
        check(each, Path(folder), ("zig",))


@pytest.mark.parametrize("number_format", RAPTOR)
def test_figures_of_raptor(number_format: str, tmp_path: Path) -> None:
    measure(made(lower(load("raptor")), "raptor", number_format, 0, ASSEMBLY), tmp_path,
            *RAPTOR[number_format])  # fmt: skip


@pytest.mark.parametrize("number_format", MLP)
def test_figures_of_mlp(number_format: str, tmp_path: Path) -> None:
    _, program = mlp()
    measure(made(program, "mlp", number_format, 0, ASSEMBLY), tmp_path, *MLP[number_format])


def measure(each: Made, folder: Path, instructions: int, flash: int) -> None:
    core = on_m55(each.package, folder, "zig")
    observations = np.random.default_rng(0).normal(size=(20, 22)).astype(np.float32)
    assert core.count(observations).max() <= instructions, core.count(observations)
    assert footprint(core.image).flash_bytes <= flash
