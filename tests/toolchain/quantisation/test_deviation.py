"""The error bound of fixed programs: never exceeded by samples, and refused where it is none."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from quantised import Quantised
from random_fixed import observations, programs

from edgerl.errors import UserError
from edgerl.policies.spec import PolicySpec, Signal, StateSignal
from edgerl.toolchain import interpreter, ir, quantisation
from edgerl.toolchain.build.run import Run
from edgerl.toolchain.certify.affine import Form, Unknowns, exact
from edgerl.toolchain.certify.deviation import deviation
from edgerl.toolchain.certify.numbers import of_fixed_program, quantisation_error
from edgerl.toolchain.certify.tensors import integer_ranges, observed, raw_action, side_by_side
from edgerl.toolchain.golden import Trace
from edgerl.toolchain.quantisation import FixedProgram
from edgerl.toolchain.quantisation.program import STATE_FRACTION, FixedDense, FixedLstm

_SAMPLES = 512
FORMATS = ("w16a16", "w32a32", "w8a16", "w4a16", "w8a8")
DRAWN = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


def spec_within(program: ir.Program, limit: float, action: float = 10.0) -> PolicySpec:
    return PolicySpec(
        name=program.name,
        observation=(
            Signal(name="o", size=program.size(program.observation), range=(-limit, limit)),
        ),
        action=(Signal(name="a", size=program.size(program.action), range=(-action, action)),),
        state=tuple(StateSignal(name=s, size=program.size(s)) for s, _ in program.states),
    )


def quantised(program: ir.Program, seed: int, number_format: str) -> FixedProgram:
    try:
        return quantisation.quantise(program, observations(program, seed, 40, 8), number_format)
    except UserError as refused:
        assume("is zero on all of it" not in str(refused))
        raise


def fractions(fixed: FixedProgram) -> dict[str, int]:
    """Of every state's integers."""
    shifts = {
        name: op.shift
        for op in fixed.operations
        if isinstance(op, FixedLstm)
        for name in (op.c, op.c_next)
    }
    names = (name for pair in fixed.states for name in pair)
    return {name: STATE_FRACTION - shifts.get(name, 0) for name in names}


def worst(
    program: ir.Program, fixed: FixedProgram, spec: PolicySpec, rng: np.random.Generator
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The largest errors that samples over the spec's ranges and in any state meet."""
    ranges = np.array(spec.observation_ranges())
    share = rng.random((_SAMPLES, len(ranges)))
    share = np.where(rng.random(share.shape) < 0.4, np.rint(share), share)
    seen = (ranges[:, 0] + share * (ranges[:, 1] - ranges[:, 0])).astype(np.float32)
    at, most = fractions(fixed), (1 << 29) - (1 << 17)
    states = []
    for before, _ in fixed.states:
        state = rng.integers(-most, most, (_SAMPLES, fixed.halfwords[before].size))
        state[:64] = np.sign(state[:64]) * most
        states.append(state)
    reals = [s * 2.0 ** -at[name] for s, (name, _) in zip(states, fixed.states, strict=True)]
    ours, after = quantisation.run(fixed, seen, states)
    theirs, wanted = interpreter.run(program, seen, reals)
    errors = {
        name: np.abs(state * 2.0 ** -at[name] - real).max(axis=0)
        for (_, name), state, real in zip(fixed.states, after, wanted, strict=True)
    }
    return np.abs(ours - theirs).max(axis=0), errors


@DRAWN
@given(programs(), st.sampled_from([0.1, 1.0, 3.0, 10.0]), st.sampled_from(FORMATS))
def test_no_sample_exceeds_the_bound(
    drawn: tuple[ir.Program, int], limit: float, number_format: str
) -> None:
    program, seed = drawn
    fixed = quantised(program, seed, number_format)
    spec = spec_within(program, limit)
    bound = deviation(program, fixed, spec)
    action, states = worst(program, fixed, spec, np.random.default_rng(seed))
    assert (action <= bound.action).all()
    for name, error in states.items():
        assert (error <= bound.states[name]).all(), name


def two_layers(rng: np.random.Generator, gain: float = 1.0) -> ir.Program:
    first, second = rng.normal(size=(12, 5)) * gain / 2.0, rng.normal(size=(3, 12)) / 3.0
    return ir.Program(
        "net",
        "observation",
        "action",
        (),
        (
            ir.Dense(
                (("observation", first.astype(np.float32)),),
                rng.normal(size=12).astype(np.float32),
                "hidden",
                "tanh",
            ),
            ir.Dense((("hidden", second.astype(np.float32)),), np.zeros(3, np.float32), "action"),
        ),
        {"observation": ir.Tensor(5), "hidden": ir.Tensor(12), "action": ir.Tensor(3)},
    )


def trace_of(program: ir.Program, seed: int) -> Trace:
    seen = observations(program, seed, 40, 8)
    resets = np.zeros(320, bool)
    resets[::40] = True
    flat = np.swapaxes(seen, 0, 1).reshape(320, -1)
    none = Run(np.zeros((320, 1), np.float32), np.zeros(320, np.uint32), None)
    return Trace("evaluate", flat, resets, none)


def test_a_small_network_has_a_useful_bound() -> None:
    program = two_layers(np.random.default_rng(2))
    fixed = quantised(program, 2, "w16a16")
    spec = spec_within(program, 4.0)
    bound = deviation(program, fixed, spec).action.max()
    sampled = worst(program, fixed, spec, np.random.default_rng(3))[0].max()
    assert sampled < bound < 30.0 * sampled and bound < 0.02
    said = quantisation_error(program, fixed, spec, trace_of(program, 2))
    assert (said.kind, said.value) == ("proved", pytest.approx(bound))


def test_wrong_weights_raise_the_bound() -> None:
    """The bound follows from the integers: spoiled ones have a larger one, not the same."""
    program = two_layers(np.random.default_rng(2))
    fixed = quantised(program, 2, "w16a16")
    spec = spec_within(program, 4.0)
    entry, first, *rest = fixed.operations
    assert isinstance(first, FixedDense)
    product = first.rows.products[0]
    weights = product.weights.copy()
    weights[0] = 0
    rows = replace(first.rows, products=(replace(product, weights=weights),))
    spoiled = replace(fixed, operations=(entry, replace(first, rows=rows), *rest))
    bound = deviation(program, spoiled, spec).action
    assert (worst(program, spoiled, spec, np.random.default_rng(1))[0] <= bound).all()
    assert bound.max() > 100.0 * deviation(program, fixed, spec).action.max()


def test_a_bound_that_says_nothing_is_not_claimed(raptor: Quantised) -> None:
    """Over all of its spec's ranges RAPTOR's first layer saturates."""
    golden = trace_of(raptor.program, 4)
    said = quantisation_error(raptor.program, raptor.fixed, raptor.policy.spec, golden)
    assert said.kind == "measured" and 0.0 < said.value < 1.0 and "may saturate" in said.method
    assert "golden trace" in said.method and "by" in said.method


def test_another_networks_integers_are_refused() -> None:
    rng = np.random.default_rng(0)
    program = two_layers(rng)
    fixed = quantised(program, 2, "w16a16")
    first, second = program.operations
    assert isinstance(first, ir.Dense)
    other = replace(program, operations=(replace(first, activation="relu"), second))
    with pytest.raises(UserError, match="not covered by the analysis"):
        deviation(other, fixed, spec_within(program, 1.0))


# Ranges


@DRAWN
@given(programs())
def test_no_integer_leaves_its_range(drawn: tuple[ir.Program, int]) -> None:
    program, seed = drawn
    fixed = quantised(program, seed, "w16a16")
    spec = spec_within(program, 2.0)
    numbers = of_fixed_program(program, fixed, spec, clipped(trace_of(program, seed), 2.0))
    for tensor in numbers.tensors:
        assert tensor.proved is not None and tensor.observed is not None
        assert tensor.proved[0] <= tensor.observed[0] <= tensor.observed[1] <= tensor.proved[1]
        assert tensor.observed_bits <= tensor.bits <= tensor.width
    assert numbers.certificates["no_overflow"].value is True
    low, high = raw_action(fixed, integer_ranges(fixed, spec))
    action = numbers.certificates["action_bounds"].value["a"]
    assert action["raw"] == (low.min(), high.max())
    assert -10.0 <= action["saturated"][0] <= action["saturated"][1] <= 10.0


def clipped(golden: Trace, limit: float) -> Trace:
    return replace(golden, observations=np.clip(golden.observations, -limit, limit))


def test_sequences_run_side_by_side_from_their_resets() -> None:
    seen = np.arange(7, dtype=np.float32)[:, np.newaxis]
    resets = np.array([True, False, True, False, False, True, False])
    run = Run(seen, np.zeros(7, np.uint32), None)
    golden = Trace("evaluate", seen, resets, run)
    assert [rows[:, 0].tolist() for rows in side_by_side(golden)] == [
        [2.0, 0.0, 5.0], [3.0, 1.0, 6.0], [4.0],
    ]  # fmt: skip

    def step(observation: np.ndarray, states: list[np.ndarray]) -> dict[str, np.ndarray]:
        return {"sum": states[0] + observation}

    found = observed(step, [("sum", "sum")], [np.zeros((1, 1))], golden)
    assert [float(end[0]) for end in found["sum"]] == [0.0, 11.0]  # 5 + 6


# Forms


@given(st.integers(0, 2**32 - 1))
def test_forms_hold_what_they_are_made_of(seed: int) -> None:
    rng = np.random.default_rng(seed)
    unknowns = Unknowns()
    low = rng.normal(size=4)
    x = unknowns.within(low, low + rng.random(4))
    factor = np.sort(rng.normal(size=(2, 4)), axis=0)
    matrix = rng.normal(size=(3, 4))
    y = unknowns.scaled(x, *factor).under(matrix).plus(x.under(matrix))
    values = rng.uniform(x.low, x.high, (200, 4))
    scaled = values * rng.uniform(factor[0], factor[1], (200, 4))
    made = (scaled + values) @ matrix.T
    slack = 1e-12 * (1.0 + y.size)
    assert (y.low - slack <= made).all() and (made <= y.high + slack).all()


def test_what_cancels_cancels() -> None:
    unknowns = Unknowns()
    x = unknowns.within(np.zeros(2), np.ones(2))
    alone = unknowns.within(np.zeros(2), np.ones(2))
    assert not x.plus(x.times(np.full(2, -1.0))).size.any()
    assert (x.plus(alone.times(np.full(2, -1.0))).size == 1.0).all()
    kept = unknowns.capped(x, np.array([-2.0, -0.1]), np.array([2.0, 0.1]))
    assert kept.size.tolist() == [1.0, pytest.approx(0.1)]
    assert isinstance(exact(3), Form) and not exact(3).size.any()
