"""Any program in integers: host and cores compute, to the last bit, what its definition says,
and take the same instructions for every input.

`--hypothesis-profile=thorough` looks at 400 programs, at other ones each time.
"""

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from one_build import CoreImage, HostProgram, on_core, on_host, policy_of
from random_programs import programs

from edgerl.errors import UserError
from edgerl.targets import target
from edgerl.toolchain import ir
from edgerl.toolchain.build import Run, first_difference
from edgerl.toolchain.emit import Package, emit
from edgerl.toolchain.emit.integer.plan import IntegerPlan
from edgerl.toolchain.emulators import count
from edgerl.toolchain.quantisation import quantise, reset, run
from edgerl.toolchain.quantisation.program import FixedProgram

BATCH, STEPS = 8, 24
FORMATS = ("w16a16", "w8a16", "w4a16", "w32a32", "w8a8")
CORES = ("cortex-m4f", "cortex-m0plus", "rv32imc")
THOROUGH = settings.get_current_profile_name() == "thorough"


@dataclass(frozen=True)
class Made:
    """A program in integers, emitted."""

    fixed: FixedProgram
    package: Package


def made(program: ir.Program, name: str, number_format: str, seed: int, assembly: str = "") -> Made:
    """UserError where the quantiser refuses the program."""
    rng = np.random.default_rng(seed)
    recording = rng.normal(size=(16, 24, program.size(program.observation))).clip(-4, 4)
    fixed = replace(quantise(program, recording.astype(np.float32), number_format), name=name)
    policy = policy_of(replace(program, name=name))
    return Made(fixed, emit(policy, fixed, assembly=assembly))


@settings(
    max_examples=50 if THOROUGH else 3,
    deadline=None,
    derandomize=not THOROUGH,
    database=None,
    phases=(Phase.generate,),  # a batch is shrunk for minutes; the note says which program it was
    suppress_health_check=list(HealthCheck),
)
@given(
    st.lists(
        st.tuples(programs(), st.sampled_from(FORMATS)),
        min_size=BATCH,
        max_size=BATCH,
    ),
    st.integers(0, 2**32 - 1),
)
def test_random_integer_programs(drawn: list[tuple], seed: int) -> None:
    taken: list[Made] = []
    for program, number_format in drawn:
        with suppress(UserError):
            taken.append(made(program, f"p{len(taken)}", number_format, seed))
    if not taken:
        return
    with tempfile.TemporaryDirectory() as folder:
        host = on_host([each.package for each in taken], Path(folder) / "host")
        images = [image(taken, core, Path(folder)) for core in CORES]
        for each in taken:
            note(f"program {each.package.name}")
            check(each, host[each.package.name], images, seed)


def image(taken: list[Made], core: str, folder: Path) -> CoreImage:
    packages = [each.package for each in taken]
    names = [package.name for package in packages]
    return on_core(packages, folder / core, portable=names, board=target(core))


def check(each: Made, host: HostProgram, images: list[CoreImage], seed: int) -> None:
    observations, resets = inputs(host.observation_size, seed)
    expected = host.trace(observations, resets, "evaluate")
    follows_definition(each, observations, resets, expected)
    guarded = host.trace(observations, resets, "step")
    assert np.isfinite(guarded.actions).all()
    for built in images:
        core = built.core(each.package.name)
        for mode, believed in (("evaluate", expected), ("step", guarded)):
            found = core.trace(observations, resets, mode)
            assert first_difference(believed, found) is None, (built.board.name, mode)
        counted = count(core, observations[:9], "evaluate").spread
        assert counted.min == counted.max, built.board.name


def inputs(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    observations = rng.normal(scale=2.0, size=(STEPS, n)).astype(np.float32)
    wild = [0.0, -0.0, 3e38, -3e38, 1e-45, np.inf, -np.inf, np.nan, 1e4, -1e4]
    for row, value in enumerate(wild):
        observations[row, rng.random(n) < 0.5] = value
    resets = np.zeros(STEPS, np.bool_)
    resets[[0, STEPS // 2]] = True
    return observations, resets


def follows_definition(
    each: Made, observations: np.ndarray, resets: np.ndarray, found: Run
) -> None:
    plan = each.package.plan
    assert isinstance(plan, IntegerPlan)
    assert found.states is not None
    stated = plan.states(found.states)
    for step, (action, states) in enumerate(defined(each.fixed, observations, resets)):
        assert action.tobytes() == found.actions[step].tobytes(), step
        for ours, theirs in zip(states, stated, strict=True):
            assert (ours == theirs[step]).all(), step


def defined(
    fixed: FixedProgram, observations: np.ndarray, resets: np.ndarray
) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, ...]]]:
    states = reset(fixed)
    for observation, starts in zip(observations, resets, strict=True):
        action, states = run(fixed, observation, reset(fixed) if starts else states)
        yield action, states
