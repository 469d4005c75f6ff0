"""Any program: the host's portable C, the core's assembly and the core's portable C give the
same bits, take the same instructions for every input, and compute what the program says."""

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from one_build import CoreImage, HostProgram, on_core, on_host, package
from random_programs import programs

from edgerl.toolchain import interpreter, ir
from edgerl.toolchain.build import first_difference
from edgerl.toolchain.emit import Package
from edgerl.toolchain.emulators import count

# Programs that share a build, and the steps each is run.
BATCH, STEPS = 8, 14
THOROUGH = settings.get_current_profile_name() == "thorough"

policies = st.tuples(
    programs(),
    st.sampled_from(["saturate", "hold", "fallback"]),
    st.sampled_from(["hold", "fallback"]),
    st.sampled_from([(-4.0, 4.0), (-1.0, 2.5), (0.0, 3.0)]),
)


@settings(
    max_examples=100 if THOROUGH else 4,
    deadline=None,
    derandomize=not THOROUGH,
    database=None,
    phases=(Phase.generate,),  # a batch is shrunk for minutes; the note says which program it was
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(policies, min_size=BATCH, max_size=BATCH), st.integers(0, 2**32 - 1))
def test_random_programs(drawn: list[tuple[ir.Program, str, str, tuple]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        made = {}
        for k, (program, out_of_range, non_finite, limits) in enumerate(drawn):
            n = program.size(program.observation)
            signal = {"name": "seen", "size": n, "range": limits}
            for fused in (True, False):
                made[k, fused] = [
                    package(
                        program,
                        f"p{k}_{'fused' if fused else 'plain'}_{twin}",
                        fused=fused,
                        observation=(signal,),
                        out_of_range=out_of_range,
                        non_finite=non_finite,
                    )
                    for twin in ("assembly", "portable")
                ]
        pairs = list(made.values())
        portable = [pair[1] for pair in pairs]
        host = on_host(portable, Path(folder) / "host")
        core = on_core(
            [p for pair in pairs for p in pair],
            Path(folder) / "core",
            portable=[p.name for p in portable],
        )
        for (k, fused), pair in made.items():
            note(f"program {k}, {'fused' if fused else 'unfused'}")
            check(drawn[k][0], host[pair[1].name], core, pair, rng)


def check(
    program: ir.Program,
    host: HostProgram,
    image: CoreImage,
    pair: list[Package],
    rng: np.random.Generator,
) -> None:
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
        wild = np.concatenate([faulty[:6], extremes(n)])
        for mode in ("evaluate", "step"):
            counted = count(core, wild, mode).spread
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
