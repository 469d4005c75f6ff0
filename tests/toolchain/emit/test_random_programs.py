"""Any program: the host's portable C, the core's assembly and the core's portable C give the
same bits, take the same instructions for every input, and compute what the program says.

`--hypothesis-profile=thorough` looks at 800 programs, at other ones each time.
"""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from graphs import models
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from one_build import CoreImage, HostProgram, on_core, on_host, package
from random_programs import aliases, feedforward, programs, recurrent

from edgerl.policies.onnx_file import parse
from edgerl.toolchain import interpreter, ir
from edgerl.toolchain.build import first_difference
from edgerl.toolchain.emit import Package
from edgerl.toolchain.emulators import count
from edgerl.toolchain.lowering import lower

# Programs that share a build, and the steps each is run.
BATCH, STEPS = 8, 14
THOROUGH = settings.get_current_profile_name() == "thorough"


def lowered() -> st.SearchStrategy[ir.Program]:
    """What lowering makes of random graphs."""
    return models().map(lambda model: lower(parse(model.SerializeToString(), "random.onnx")))


policies = st.tuples(
    st.one_of(programs(), programs(), lowered()),
    st.booleans(),
    st.sampled_from(["saturate", "hold", "fallback"]),
    st.sampled_from(["hold", "fallback"]),
    st.sampled_from([(-4.0, 4.0), (-1.0, 2.5), (0.0, 3.0)]),
)


@settings(
    max_examples=100 if THOROUGH else 3,
    deadline=None,
    derandomize=not THOROUGH,
    database=None,
    phases=(Phase.generate,),  # a batch is shrunk for minutes; the note says which program it was
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(policies, min_size=BATCH, max_size=BATCH), st.integers(0, 2**32 - 1))
def test_random_programs(drawn: list[tuple], seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = []
    for k, (program, fused, out_of_range, non_finite, limits) in enumerate(drawn):
        seen = {"name": "seen", "size": program.size(program.observation), "range": limits}
        pairs.append(
            twins(
                program,
                f"p{k}",
                fused=fused,
                observation=(seen,),
                out_of_range=out_of_range,
                non_finite=non_finite,
            )
        )
    with tempfile.TemporaryDirectory() as folder:
        host, core = built(pairs, Path(folder))
        for k, pair in enumerate(pairs):
            note(f"program {k}")
            check(drawn[k][0], host[pair[1].name], core, pair, rng)


LARGE = {
    "offsets_beyond_4095_bytes": feedforward((22, 520, 520, 4), "tanh"),
    "gru_256": recurrent(("gru",), 22, 256),
    "lstm_256": recurrent(("lstm",), 22, 256),
}
if THOROUGH:
    LARGE["mlp_of_three_512"] = feedforward((300, 512, 512, 512, 4), "relu")


@pytest.mark.parametrize("name", LARGE)
def test_large_programs(name: str, tmp_path: Path) -> None:
    pair = twins(LARGE[name], name, fused=name != "gru_256")
    host = on_host(pair[1:], tmp_path / "host")
    # One image each: two of these would not fit the flash together.
    image = on_core(pair[:1], tmp_path / "core")
    check(LARGE[name], host[pair[1].name], image, pair[:1], np.random.default_rng(0), wild=3)


def test_small_programs_with_a_shape_of_their_own(tmp_path: Path) -> None:
    programs = {
        "gru_7": recurrent(("gru",), 9, 7),
        "lstm_13": recurrent(("lstm",), 9, 13),
        "two_gru": recurrent(("gru", "gru"), 22, 24),
        "many_seen": feedforward((300, 33, 2), "tanh"),
        **aliases(),
    }
    pairs = {name: twins(program, name, fused=True) for name, program in programs.items()}
    host, core = built(list(pairs.values()), tmp_path)
    for name, pair in pairs.items():
        rng = np.random.default_rng(0)
        check(programs[name], host[pair[1].name], core, pair, rng)


def twins(program: ir.Program, name: str, *, fused: bool, **spec: object) -> list[Package]:
    """The same package twice, for a core's assembly and for its portable C."""
    return [
        package(program, f"{name}_{twin}", fused=fused, **spec) for twin in ("assembly", "portable")
    ]


def built(pairs: list[list[Package]], folder: Path) -> tuple[dict[str, HostProgram], CoreImage]:
    portable = [pair[1] for pair in pairs]
    core = on_core(
        [made for pair in pairs for made in pair],
        folder / "core",
        portable=[made.name for made in portable],
    )
    return on_host(portable, folder / "host"), core


def check(
    program: ir.Program,
    host: HostProgram,
    image: CoreImage,
    pair: list[Package],
    rng: np.random.Generator,
    wild: int = 11,
) -> None:
    """Everything that must hold of one program; `wild` inputs are counted."""
    n = program.size(program.observation)
    observations = moderate(rng, n)
    resets = np.zeros(STEPS, np.bool_)
    resets[[0, STEPS // 2]] = True
    expected = host.trace(observations, resets, "evaluate")
    faulty = with_faults(rng, observations)
    guarded = host.trace(faulty, resets, "step")
    assert np.isfinite(guarded.actions).all()
    for made in pair:
        core = image.core(made.name)
        found = core.trace(observations, resets, "evaluate")
        assert first_difference(expected, found) is None, made.name
        assert first_difference(guarded, core.trace(faulty, resets, "step")) is None, made.name
        counted_inputs = np.concatenate([extremes(n), faulty])[:wild]
        for mode in ("evaluate", "step"):
            counted = count(core, counted_inputs, mode).spread
            assert counted.min == counted.max, (made.name, mode)
    follows_definition(program, observations, resets, expected.actions)


def moderate(rng: np.random.Generator, n: int) -> np.ndarray:
    observations = rng.normal(size=(STEPS, n)).astype(np.float32).clip(-4, 4)
    observations[2] = 0.0
    observations[3] *= np.float32(1e-39)
    observations[4, rng.random(n) < 0.5] = -0.0
    return observations


def with_faults(rng: np.random.Generator, observations: np.ndarray) -> np.ndarray:
    faulty = observations.copy()
    values = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, -np.nan, 1e-45, 7.0], np.float32)
    rows = rng.permutation(len(faulty))[: len(values)]
    faulty[rows, rng.integers(0, faulty.shape[1], len(rows))] = values
    return faulty


def extremes(n: int) -> np.ndarray:
    values = np.array([0.0, -0.0, 3e38, -3e38, 1e-45, np.inf, np.nan, 1e4, -1e4], np.float32)
    return np.repeat(values[:, np.newaxis], n, axis=1)


def follows_definition(
    program: ir.Program, observations: np.ndarray, resets: np.ndarray, actions: np.ndarray
) -> None:
    """The actions are those of the program's definition. How much rounding a program amplifies
    is taken from its definition in single precision."""
    runs = {}
    for dtype in (np.float64, np.float32):
        states, rows = interpreter.reset(program), []
        for observation, reset in zip(observations, resets, strict=True):
            states = interpreter.reset(program) if reset else states
            action, states = interpreter.run(program, observation, states, dtype)
            rows.append(action)
        runs[dtype] = np.array(rows, np.float64)
    exact = runs[np.float64]
    rounding = np.abs(runs[np.float32] - exact).max()
    tolerance = 50.0 * rounding + 1e-4 * (1.0 + np.abs(exact).max())
    assert np.abs(actions - exact).max() <= tolerance
