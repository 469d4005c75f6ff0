"""Fine-tuning: what is trained is what the integers compute, and it gets better."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from fixed_steps import Singles, Step, difference, fixed_step

from edgerl.errors import UserError
from edgerl.policies import Policy
from edgerl.policies.graph import GraphBuilder
from edgerl.policies.onnx_file import parse
from edgerl.toolchain import interpreter, quantisation
from edgerl.toolchain.ir import Program
from edgerl.toolchain.lowering import lower
from edgerl.toolchain.quantisation.differentiable import (
    Differentiable,
    weights_of,
    with_weights_of,
)
from edgerl.toolchain.quantisation.fine_tuning import FineTuned, FineTuning, fine_tune, readings
from edgerl.toolchain.quantisation.program import FixedProgram
from edgerl.toolchain.quantisation.rescaling import (
    effective,
    proved_with_weights,
    with_weights,
)
from edgerl.toolchain.quantisation.rewriting import prepared
from edgerl.toolchain.quantisation.serialisation import serialize
from edgerl.toolchain.quantisation.trained import trained_integers, with_integers
from edgerl.toolchain.raising import raised

KINDS = ("feed-forward", "gru", "lstm")
FORMATS = ("w16a16", "w8a16", "w4a16")


def recurrent(kind: str, seed: int = 0) -> Policy:
    """A small policy: a layer, a cell if there is one, a layer."""
    rng = np.random.default_rng(seed)
    build = GraphBuilder()

    def matrix(rows: int, columns: int) -> Singles:
        return rng.normal(scale=1.5 * columns**-0.5, size=(rows, columns)).astype(np.float32)

    def bias(rows: int) -> Singles:
        return rng.normal(scale=0.3, size=rows).astype(np.float32)

    x = build.input("observation", 6)
    states = [build.input(name, 10) for name in {"gru": "h", "lstm": "hc"}.get(kind, "")]
    x = build.activation(build.dense(x, matrix(12, 6), bias(12)), "relu")
    after: tuple[str, ...] = ()
    if kind == "gru":
        weights = (matrix(30, 12), matrix(30, 10), bias(30), bias(30))
        after = (build.gru(x, states[0], *weights),)
    elif kind == "lstm":
        weights = (matrix(40, 12), matrix(40, 10), bias(40), bias(40))
        after = build.lstm(x, states[0], states[1], *weights)
    last = after[0] if after else build.activation(build.dense(x, matrix(10, 12), bias(10)), "tanh")
    build.output(build.dense(last, matrix(2, 10), bias(2)), "action", 2)
    for name, state in zip("hc", after, strict=False):
        build.output(state, f"{name}_next", 10)
    return parse(build.finished().SerializeToString(), f"{kind.replace('-', '_')}.onnx")


def sequences(seed: int, steps: int = 40, count: int = 32) -> Singles:
    rng = np.random.default_rng(seed)
    held = rng.normal(size=(steps // 5, count, 6)).repeat(5, axis=0)
    return (held + 0.2 * rng.normal(size=held.shape)).astype(np.float32)


@cache
def integers(kind: str, number_format: str) -> tuple[Program, FixedProgram]:
    policy = recurrent(kind)
    program = prepared(lower(policy, integers=True))
    return program, quantisation.quantise(
        program, sequences(1, count=128), number_format, spec=policy.spec
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_raised_program_is_lowered_to_itself(kind: str) -> None:
    policy = recurrent(kind)
    program = lower(policy)
    again = lower(raised(program, policy))
    assert [repr(op) for op in again.operations] == [repr(op) for op in program.operations]
    assert all(
        np.array_equal(w, weights_of(again)[name]) for name, w in weights_of(program).items()
    )


@pytest.mark.parametrize("number_format", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_integer_weights_are_read_and_written_alike(kind: str, number_format: str) -> None:
    program, fixed = integers(kind, number_format)
    real = effective(fixed, program)
    # All but biases, which have more bits than a float32 holds.
    biased = with_weights_of(
        program,
        {
            name: weights_of(program)[name] if w.ndim == 1 else w
            for name, w in weights_of(real).items()
        },
    )
    again = effective(with_weights(fixed, biased), biased)
    for name, w in weights_of(again).items():
        assert w.ndim == 1 or np.array_equal(w, weights_of(real)[name]), name
    wide = 2.0 if number_format == "w4a16" else 1.0
    assert difference(real, fixed, sequences(2)).max() <= wide * 2e-2


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_16_bits_come_to_what_the_quantiser_makes_of_them(kind: str) -> None:
    program, fixed = integers(kind, "w16a16")
    assert serialize(with_weights(fixed, program)) == serialize(fixed)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_grew_are_brought_back_until_they_are_proved(kind: str) -> None:
    program, fixed = integers(kind, "w8a16")
    grown = {name: np.float32(1.7) * w for name, w in weights_of(program).items()}
    larger = with_weights_of(program, grown)
    with pytest.raises(UserError, match="may overflow"):
        quantisation.require_no_overflow(with_weights(fixed, larger))
    made, shrunk = proved_with_weights(fixed, larger)
    assert quantisation.require_no_overflow(made) < 1.0
    assert serialize(with_weights(made, shrunk)) == serialize(made)


@pytest.mark.parametrize("number_format", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_torch_computes_what_the_integers_do(kind: str, number_format: str) -> None:
    program, fixed = integers(kind, number_format)
    form = Differentiable(program, readings(fixed))
    weights = {
        name: torch.from_numpy(w) for name, w in weights_of(effective(fixed, program)).items()
    }
    seen = sequences(3)
    states, step = form.reset(seen.shape[1]), fixed_step(fixed)
    for observation in seen:
        action, states = form.step(weights, torch.from_numpy(observation), states)
        assert np.abs(action.numpy() - step(observation)).max() <= 2e-2


@pytest.fixture(scope="module", params=KINDS)
def tuned(request: pytest.FixtureRequest) -> tuple[Policy, FixedProgram, FineTuned]:
    """A policy, its integers as quantised, and as fine-tuned, on one recording."""
    policy = recurrent(request.param)
    settings = FineTuning(rounds=2, passes=12, segment=20, sequences=128, rate=3e-3)
    reported: list[tuple[int, int]] = []
    made = fine_tune(
        policy,
        sequences(1, count=128),
        "w4a16",
        settings=settings,
        progress=lambda done, total, loss: reported.append((done, total)),
    )
    assert len(reported) == 24 and reported == sorted(reported)
    return policy, integers(request.param, "w4a16")[1], made


def test_it_errs_less_on_what_it_never_saw(tuned: tuple[Policy, FixedProgram, FineTuned]) -> None:
    policy, before, made = tuned
    program, fresh = lower(policy), sequences(9, count=64)

    def error(fixed: FixedProgram) -> float:
        states, step, total = interpreter.reset(program, (64,)), fixed_step(fixed), 0.0
        for observation in fresh:
            action, states = interpreter.run(program, observation, states)
            total += float(np.square(step(observation) - action).mean())
        return total

    assert error(made.fixed) <= 0.98 * error(before)
    assert np.isfinite(made.losses).all()


def test_the_policy_comes_to_the_integers_that_were_trained(
    tuned: tuple[Policy, FixedProgram, FineTuned],
) -> None:
    _, _, made = tuned
    again = parse(made.policy.serialized(), "again.onnx")
    assert again.formats == {"default": "w4a16"}
    fixed = trained_integers(again)
    assert fixed is not None
    assert serialize(fixed) == serialize(made.fixed)
    # And its weights, in floats, are the ones that multiply.
    program = prepared(lower(again, integers=True))
    for name, w in weights_of(effective(fixed, program)).items():
        assert w.ndim == 1 or np.array_equal(w, weights_of(program)[name]), name


def test_other_weights_than_were_trained_are_refused() -> None:
    policy = recurrent("gru")
    program, fixed = integers("gru", "w8a16")
    made, program = proved_with_weights(fixed, program)
    carried = with_integers(raised(program, policy), made)
    assert trained_integers(policy) is None
    assert trained_integers(carried) is not None
    changed = {name: np.float32(1.1) * w for name, w in weights_of(program).items()}
    other = raised(with_weights_of(program, changed), carried)
    with pytest.raises(UserError, match="gru: its weights do not come to the integers"):
        trained_integers(other)
    with pytest.raises(UserError, match="gru: not a program of integers"):
        trained_integers(replace(carried, integers='{"schema": 1, "program": []}'))


def test_formats_of_other_arithmetics_are_refused() -> None:
    with pytest.raises(UserError, match="int16 activations"):
        fine_tune(recurrent("feed-forward"), sequences(1), "w8a8", settings=FineTuning(rounds=1))


def test_flights_are_asked_for_every_round() -> None:
    flown: list[Singles] = []

    def flights(step: Step) -> Singles:
        seen = sequences(len(flown), steps=10, count=8)
        for observation in seen:
            assert step(observation).shape == (8, 2)
        flown.append(seen)
        return seen

    settings = FineTuning(rounds=2, passes=1, segment=10, sequences=8)
    made = fine_tune(recurrent("gru"), sequences(1), "w8a16", flights=flights, settings=settings)
    assert len(flown) == 2
    # The calibration's segments in both rounds, those of one flight, then of two.
    assert len(made.losses) == 2 * (4 * 4) + 1 + 2
