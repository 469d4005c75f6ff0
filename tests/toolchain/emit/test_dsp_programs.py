"""Programs of int16 or int32 vectors in DSP assembly: on cores with FPU and without, the same bits
as their portable C on this machine, which follows the definition, and the same instructions for
every input.

`--hypothesis-profile=thorough` looks at 400 random programs, at other ones each time.
"""

import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from one_build import HostProgram, on_core, on_host
from random_programs import Builder, programs
from test_integer_programs import Made, check, inputs, made

from edgerl.errors import UserError
from edgerl.targets import target
from edgerl.toolchain import ir
from edgerl.toolchain.build import build_firmware, find, first_difference, worst_stack
from edgerl.toolchain.emulators import QemuCore, UnicornCore

ASSEMBLY = "cortex_m_dsp"
FORMATS = ("w16a16", "w8a16", "w4a16", "w32a32")
# With FPU; without, where C has a part in every step that touches floats.
CORES = ("cortex-m4f", "cortex-m4")
BATCH = 4
THOROUGH = settings.get_current_profile_name() == "thorough"


def every_kind() -> ir.Program:
    """Every form; tiles of four, two and one; rows that are loops and rows that are not; units on
    an input right behind their state and on one elsewhere."""
    b = Builder(4)
    observation = b.tensor(13)
    b.values[observation] = 4.0
    x = b.dense([observation], 23, "relu", 1.0)
    skipped = b.dense([x], 7, "sigmoid", 1.0)
    x = b.dense([x, skipped], 34, None, 1.0)
    x = b.gru(b.dense([x], 8, "tanh", 1.0), 7)
    x = b.lstm(b.gru(x, 3), 5)
    return b.program(observation, b.dense([x, skipped], 3, "sigmoid", 1.0))


@pytest.fixture(scope="module")
def every_format() -> list[Made]:
    program = every_kind()
    return [made(program, number_format, number_format, 3, ASSEMBLY) for number_format in FORMATS]


@pytest.fixture(scope="module")
def on_this_machine(
    every_format: list[Made], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, HostProgram]:
    return on_host([each.package for each in every_format], tmp_path_factory.mktemp("host"))


@pytest.mark.parametrize(
    ("core", "family"), [("cortex-m4f", "zig"), ("cortex-m4", "zig"), ("cortex-m33", "gcc")]
)
def test_each_kind_of_step(
    core: str,
    family: str,
    every_format: list[Made],
    on_this_machine: dict[str, HostProgram],
    tmp_path: Path,
) -> None:
    packages = [each.package for each in every_format]
    image = on_core(packages, tmp_path, family, board=target(core))
    for each in every_format:
        check(each, on_this_machine[each.package.name], [image], 5)


@settings(
    max_examples=50 if THOROUGH else 1,
    deadline=None,
    derandomize=not THOROUGH,
    database=None,
    phases=(Phase.generate,),  # a batch is shrunk for minutes; the note says which program it was
    suppress_health_check=list(HealthCheck),
)
@given(
    st.lists(
        st.tuples(programs(), st.sampled_from(FORMATS)), min_size=2 * BATCH, max_size=2 * BATCH
    ),
    st.integers(0, 2**32 - 1),
)
def test_random_programs(drawn: list[tuple[ir.Program, str]], seed: int) -> None:
    taken: list[Made] = []
    for program, number_format in drawn:
        with suppress(UserError):
            taken.append(made(program, f"p{len(taken)}", number_format, seed, ASSEMBLY))
    taken = taken[:BATCH]
    if not taken:
        return
    packages = [each.package for each in taken]
    with tempfile.TemporaryDirectory() as folder:
        host = on_host(packages, Path(folder) / "host")
        images = [on_core(packages, Path(folder) / core, board=target(core)) for core in CORES]
        for each in taken:
            note(f"program {each.package.name}: {each.fixed}")
            check(each, host[each.package.name], images, seed)


def test_qemu_agrees_and_the_stack_is_as_its_code_says(
    every_format: list[Made], tmp_path: Path
) -> None:
    package = every_format[1].package
    for name, text in package.files.items():
        (tmp_path / name).write_text(text)
    board = target("cortex-m4f")
    compiler = find("zig", board.core)
    image = build_firmware(
        tmp_path, package.name, board, compiler, tmp_path / "out", build_id="0" * 64
    )
    observations, resets = inputs(package.plan.observation_size, 11)
    ours = UnicornCore(image, board)
    for mode in ("evaluate", "step"):
        found = ours.trace(observations, resets, mode)
        theirs = QemuCore(image, board).trace(observations, resets, mode)
        assert first_difference(found, theirs) is None, mode
    painted = ours.stack_used(observations)
    assert painted == worst_stack(image, f"{package.name}_step").bytes
