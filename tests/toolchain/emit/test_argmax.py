"""Discrete actions: numpy's index on every build, whatever the values; one path; no saturation."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from one_build import HostProgram, on_core, on_host, package

from edgerl.toolchain import ir
from edgerl.toolchain.build import first_difference
from edgerl.toolchain.emulators import count

N = 6
TINY = np.float32(1e-45)
ODD = np.array(
    [0.0, -0.0, 1.0, -1.0, TINY, -TINY, 3.4e38, -3.4e38, np.inf, -np.inf, np.nan, -np.nan],
    np.float32,
)


def chosen(sizes: tuple[int, ...]) -> ir.Program:
    """The index of the largest element of each slice of the observation."""
    operations: list[ir.Operation] = []
    tensors, first = {"o": ir.Tensor(sum(sizes)), "a": ir.Tensor(len(sizes))}, 0
    for k, size in enumerate(sizes):
        tensors |= {f"x{k}": ir.Tensor(size), f"y{k}": ir.Tensor(1)}
        picks = tuple((0, j) for j in range(first, first + size))
        operations += [ir.Gather(("o",), picks, f"x{k}"), ir.ArgMax(f"x{k}", f"y{k}")]
        first += size
    indices = tuple(f"y{k}" for k in range(len(sizes)))
    operations.append(ir.Gather(indices, tuple((k, 0) for k in range(len(sizes))), "a"))
    return ir.Program("chosen", "o", "a", (), tuple(operations), tensors)


def observations() -> np.ndarray:
    """Every pair of odd values in every two places, equal values, and ordinary ones."""
    rng = np.random.default_rng(0)
    rows = [np.full(N, value) for value in ODD]
    for a in ODD:
        for b in ODD:
            row = np.full(N, -2.0, np.float32)
            row[rng.permutation(N)[:2]] = a, b
            rows.append(row)
    rows += list(rng.integers(-2, 3, (200, N)))
    rows += list(rng.choice(ODD, (200, N)))
    return np.array(rows, np.float32)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> HostProgram:
    made = package(ir.Program(**{**vars(chosen((N,))), "name": "one"}), "one", fused=False)
    return on_host([made], tmp_path_factory.mktemp("host"))["one"]


@settings(max_examples=200, deadline=None)
@given(arrays(np.float32, (8, N), elements=st.floats(width=32) | st.sampled_from(list(ODD))))
def test_the_host_gives_the_index_that_numpy_gives(host: HostProgram, values: np.ndarray) -> None:
    actions = host.trace(values, np.ones(len(values), np.bool_), "evaluate").actions
    np.testing.assert_array_equal(actions[:, 0], values.argmax(axis=1))


def test_a_core_gives_the_same_on_one_path(tmp_path: Path) -> None:
    """Assembly's calls and portable C; a spec from 0 to the last index saturates no index."""
    rows = observations()
    resets = np.ones(len(rows), np.bool_)
    last = (0.0, float(N - 1))
    spec = {
        "observation": ({"name": "seen", "size": N, "range": (-3.0, 3.0)},),
        "action": ({"name": "gear", "size": 1, "range": last},),
        "non_finite": "fallback",
        "fallback": (3.0,),
    }
    pair = [package(chosen((N,)), f"c_{k}", fused=False, **spec) for k in ("asm", "c")]
    wide = package(chosen((2, 1, 3)), "wide", fused=False, action=(
        {"name": "gears", "size": 3, "range": (0.0, 2.0)},
    ))  # fmt: skip
    image = on_core([*pair, wide], tmp_path / "core", portable=["c_c"])
    host = on_host([pair[1], wide], tmp_path / "host")
    for mode in ("evaluate", "step"):
        expected = host["c_c"].trace(rows, resets, mode)
        for made in pair:
            core = image.core(made.name)
            assert first_difference(expected, core.trace(rows, resets, mode)) is None
            counted = count(core, rows[:120], mode).spread
            assert counted.min == counted.max
    np.testing.assert_array_equal(
        host["c_c"].trace(rows, resets, "evaluate").actions[:, 0], rows.argmax(axis=1)
    )
    bad = ~np.isfinite(rows).all(axis=1)
    indices = np.where(bad, 3.0, rows.clip(-3.0, 3.0).argmax(axis=1))
    np.testing.assert_array_equal(expected.actions[:, 0], indices)

    together = image.core("wide").trace(rows, resets, "evaluate").actions
    parts = (rows[:, :2], rows[:, 2:3], rows[:, 3:])
    np.testing.assert_array_equal(together, np.stack([p.argmax(axis=1) for p in parts], axis=1))
