"""Weights of 8 and 4 bits: words that hold them, sums that are proved, and what they cost."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fixed_steps import Singles, difference, fixed_step, float_step
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quantised import Quantised
from random_fixed import observations, programs

from edgerl.errors import UserError
from edgerl.policies.plants import Hover, fly
from edgerl.toolchain import golden, interpreter, quantisation
from edgerl.toolchain.ir import Dense, Program, Tensor, writes
from edgerl.toolchain.quantisation import FixedProgram, storage
from edgerl.toolchain.quantisation.formats import is_layer
from edgerl.toolchain.quantisation.program import (
    FixedDense,
    FixedGru,
    FixedLstm,
    Rows,
    Stored,
    gates,
)
from edgerl.toolchain.quantisation.rounding import Moments, fed_back

Doubles = npt.NDArray[np.float64]
DRAWN = settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
FEW = st.sampled_from([8, 4])


def moments(rng: np.random.Generator, columns: int) -> tuple[Moments, Doubles]:
    """Of correlated operands, and the operands themselves."""
    mixing = rng.normal(size=(columns, columns)) * 0.8 ** np.arange(columns)
    x = rng.normal(size=(4 * columns + 64, columns)) @ mixing.T + rng.normal(size=columns)
    return Moments(x.mean(axis=0), np.cov(x.T, bias=True).reshape(columns, columns)), x


@given(FEW, st.integers(1, 3), st.integers(1, 11), st.integers(1, 11), st.integers(0, 2**32 - 1))
def test_rounded_weights_are_those_of_words(
    stored: Stored, rows: int, first: int, second: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    seen, _ = moments(rng, first + second)
    wanted = rng.normal(scale=9000.0, size=(rows, first + second))
    chosen = fed_back(wanted, (first, second), stored, seen)
    assert np.abs(chosen).max() < 1 << 15
    for part in (slice(0, first), slice(first, None)):
        words = storage.pack(chosen[:, part], stored)
        assert np.array_equal(
            storage.halves(words, stored)[:, : chosen[:, part].shape[1]], chosen[:, part]
        )


@pytest.mark.parametrize("stored", [8, 4])
def test_without_correlation_each_weight_is_within_half_a_step(stored: Stored) -> None:
    rng = np.random.default_rng(stored)
    step = 1 << (16 - stored)
    wanted = rng.uniform(-(2**15) + step, 2**15 - step, size=(64, 24))
    chosen = fed_back(wanted, (13, 11), stored, Moments(np.zeros(24), np.eye(24)))
    assert np.abs(chosen - wanted).max() <= 0.5 * step


@pytest.mark.parametrize("stored", [8, 4])
def test_later_columns_make_up_for_earlier_ones(stored: Stored) -> None:
    rng = np.random.default_rng(3)
    seen, x = moments(rng, 32)
    wanted = rng.normal(scale=6000.0, size=(32, 32))
    step = 1 << (16 - stored)
    centred = x - seen.mean

    def error(chosen: npt.NDArray[Any]) -> float:
        return float((((chosen - wanted) @ centred.T) ** 2).mean())

    nearest = np.rint(wanted / step) * step
    assert error(fed_back(wanted, (32,), stored, seen)) < 0.5 * error(nearest)


def every_rows(fixed: FixedProgram) -> list[Rows]:
    found = []
    for op in fixed.operations:
        if isinstance(op, FixedDense):
            found.append(op.rows)
        elif isinstance(op, FixedGru | FixedLstm):
            found += [rows for _, rows in gates(op)]
    return found


@DRAWN
@given(drawn=programs(), default=st.sampled_from(["w8a16", "w4a16"]), data=st.data())
def test_nothing_leaves_int32_at_the_corners(
    drawn: tuple[Program, int], default: str, data: st.DataObject
) -> None:
    program, seed = drawn
    layers = [writes(op)[0] for op in program.operations if is_layer(op)]
    own = st.sampled_from(["w4a16", "w8a16", "w16a16"])
    formats = data.draw(st.dictionaries(st.sampled_from(layers), own, max_size=2))
    try:
        fixed = quantisation.quantise(
            program, observations(program, seed, 40, 8), {"default": default, **formats}
        )
    except UserError as refused:
        assert "is zero on all of it" in str(refused)
        return
    assert quantisation.require_no_overflow(fixed) < 1.0
    for rows in every_rows(fixed):
        for product in rows.products:
            storage.pack(product.weights, product.stored)
        if rows.multipliers is not None:
            assert rows.multipliers.min() > 0
    rng = np.random.default_rng(seed)
    n = program.size(program.observation)
    far = rng.choice(np.array([-np.inf, -1e30, -7.9, 7.9, 1e30, np.inf, np.nan]), size=(12, 64, n))
    far[:, 0], far[:, 1], far[:, 2] = np.inf, -np.inf, np.nan
    states = quantisation.reset(fixed, (64,))
    for seen in far.astype(np.float32):
        action, states = quantisation.run(fixed, seen, states)
        assert np.isfinite(action).all()


def perceptron(*sizes: int) -> Program:
    """Layers of these sizes with tanh; weights N(0, 1) over the root of the inputs."""
    rng = np.random.default_rng(7)
    names = ["observation", *(f"layer_{k}" for k in range(len(sizes) - 2)), "action"]
    layers = tuple(
        Dense(
            ((x, (rng.normal(size=(rows, columns)) / np.sqrt(columns)).astype(np.float32)),),
            (0.1 * rng.normal(size=rows)).astype(np.float32),
            y,
            "tanh",
        )
        for x, y, columns, rows in zip(names, names[1:], sizes, sizes[1:], strict=False)
    )
    tensors = {name: Tensor(size) for name, size in zip(names, sizes, strict=True)}
    return Program("net", "observation", "action", (), layers, tensors)


@pytest.mark.parametrize(
    ("number_format", "most"), [("w16a16", 1e-3), ("w8a16", 2e-2), ("w4a16", 0.4)]
)
def test_a_perceptron_keeps_its_error(number_format: str, most: float) -> None:
    program = perceptron(22, 64, 64, 4)
    seen = np.random.default_rng(0).normal(size=(2048, 22)).astype(np.float32)
    fresh = np.random.default_rng(1).normal(size=(4096, 22)).astype(np.float32)
    fixed = quantisation.quantise(program, seen, number_format)
    ours, _ = quantisation.run(fixed, fresh, ())
    theirs, _ = interpreter.run(program, fresh, ())
    assert np.abs(ours - theirs).max() <= most


def test_a_row_that_few_bits_cannot_hold_is_named() -> None:
    program = perceptron(22, 8, 4)
    first, last = program.operations
    assert isinstance(first, Dense)
    ((x, w),) = first.sources
    huge = w.copy()
    huge[3] *= 4000.0
    worse = replace(first, sources=((x, huge),))
    seen = np.random.default_rng(0).normal(size=(512, 22)).astype(np.float32)
    with pytest.raises(UserError, match=r"layer_0 row 3: .* smaller") as caught:
        quantisation.quantise(replace(program, operations=(worse, last)), seen, "w4a16")
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module", params=["w8a16", "w4a16"])
def few(request: pytest.FixtureRequest, raptor: Quantised) -> tuple[str, FixedProgram]:
    calibration = (raptor.flown, golden.inputs(raptor.policy, "evaluate")[0][:2048])
    spec = raptor.policy.spec
    return request.param, quantisation.quantise(
        raptor.program, calibration, request.param, spec=spec
    )


def test_raptor_flies_on_few_bits(few: tuple[str, FixedProgram], raptor: Quantised) -> None:
    number_format, fixed = few
    suite = replace(Hover(), episodes=512)
    ours = fly(suite, fixed_step(fixed), feedback="clamped").metrics
    theirs = fly(suite, float_step(raptor.program), feedback="clamped").metrics
    if number_format == "w8a16":
        assert abs(ours["survival"] - theirs["survival"]) <= 0.01
        assert ours["final_error_mean"] <= 0.07
    else:
        assert abs(ours["survival"] - theirs["survival"]) <= 0.03
        assert ours["final_error_mean"] <= 0.1


def test_few_bits_do_not_drift(few: tuple[str, FixedProgram], raptor: Quantised) -> None:
    spread = np.repeat([0.2, 0.6, 0.7, 2.0, 0.5], [3, 9, 3, 3, 4])
    values = np.random.default_rng(1).standard_normal((250, 16, 22)) * spread
    held: Singles = np.repeat(values, 20, axis=0).astype(np.float32)
    windows = difference(raptor.program, few[1], held).reshape(5, 1000).max(axis=1)
    assert windows[-1] <= 1.5 * windows[0]
