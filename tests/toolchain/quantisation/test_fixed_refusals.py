"""What the quantiser refuses, each in one line that says what, where and what to do."""

import re

import numpy as np
import pytest

from edgerl.errors import UserError
from edgerl.policies.spec import PolicySpec, Signal
from edgerl.toolchain import quantisation
from edgerl.toolchain.ir import (
    Dense,
    Gru,
    LayerNorm,
    Operation,
    Program,
    Softmax,
    Tensor,
)

RNG = np.random.default_rng(0)
SPEC = PolicySpec(
    name="net",
    observation=(
        Signal(name="place", size=2, range=(-1.0, 1.0)),
        Signal(name="speed", size=2, range=(-3.0, 3.0)),
    ),
    action=(Signal(name="motor", size=2, range=(-1.0, 1.0)),),
)


def weights(rows: int, columns: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(1).normal(scale=scale, size=(rows, columns)).astype(np.float32)


def network(*, first: np.ndarray | None = None, activation: str = "tanh") -> Program:
    zero = np.zeros(2, np.float32)
    hidden = Dense(
        (("observation", weights(2, 4) if first is None else first),),
        zero,
        "hidden",
        activation,  # type: ignore[arg-type]  # also one that integers have no form for
    )
    return finished(hidden, Dense((("hidden", weights(2, 2)),), zero, "action"))


def finished(*operations: Operation, states: tuple[tuple[str, str], ...] = ()) -> Program:
    sizes = {"observation": 4, "hidden": 2, "action": 2, "h": 2, "h_next": 2}
    tensors = {name: Tensor(size) for name, size in sizes.items()}
    return Program("net", "observation", "action", states, operations, tensors)


def samples(count: int = 256) -> np.ndarray:
    return RNG.normal(size=(count, 4)).astype(np.float32)


def refused(program: Program, calibration: object, message: str, **options: object) -> None:
    with pytest.raises(UserError, match=message) as caught:
        quantisation.quantise(program, calibration, **options)  # type: ignore[arg-type]  # bad on purpose
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite(value: float) -> None:
    bad = samples().reshape(64, 4, 4)
    bad[7, 2, 3] = value
    refused(network(), bad, f"element 3 of step 7, sequence 2 is {value}")


@pytest.mark.parametrize("shape", [(256,), (256, 5), (2, 4, 32, 4), ()])
def test_a_wrong_shape(shape: tuple[int, ...]) -> None:
    refused(network(), np.zeros(shape), re.escape(f"shape is {list(shape)}"))


def test_what_is_no_array() -> None:
    refused(network(), [["a", "b"]], "not an array of numbers")


@pytest.mark.parametrize("count", [0, 1, 127])
def test_too_few_samples(count: int) -> None:
    refused(network(), samples(count), f"{count} samples are too few")


def test_several_recordings_count_together() -> None:
    fixed = quantisation.quantise(network(), (samples(100), samples(28)))
    assert quantisation.require_no_overflow(fixed) < 1.0


@pytest.mark.parametrize("constant", [0.0, 0.7])
def test_a_signal_that_never_changes(constant: float) -> None:
    """Its range is that of the spec; where none is given it is refused."""
    still = samples()
    still[:, 2:] = constant
    free = SPEC.model_copy(
        update={"observation": (SPEC.observation[0], Signal(name="speed", size=2, range=(-1e6, 1)))}
    )
    refused(network(), still, "signal 'speed' never changes", spec=free)
    refused(network(), np.full((256, 4), constant, np.float32), "'observation' never changes")
    fixed = quantisation.quantise(network(), still, spec=SPEC)
    assert fixed.operations[0].exponents[2:] == (13, 13)


def test_a_layer_that_is_never_excited() -> None:
    program = network(first=-np.ones((2, 4), np.float32), activation="relu")
    refused(program, np.abs(samples()), "hidden is zero on all of it")


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_a_scale_that_underflows(scale: float) -> None:
    odd = samples()
    odd[:, :2] *= np.float32(scale)
    refused(network(first=weights(2, 4, 1e-20)), odd, "signal 'place': its scale", spec=SPEC)


def test_a_calibration_that_overflows_the_network() -> None:
    huge = network(first=weights(2, 4, 1e38), activation="relu")
    refused(huge, samples() * 1e30, "becomes infinite|scale|zero")


def test_a_row_that_cannot_be_proved_says_which_and_what_would_help() -> None:
    first = weights(2, 4, 0.1)
    first[1] = 250.0
    refused(network(first=first), samples(), r"hidden row 1: .* 2\^31, .*observation.* smaller")


def test_a_weight_beyond_its_scale() -> None:
    first = weights(2, 4, 0.1)
    first[1, 0] = 1e6
    refused(network(first=first), samples(), "hidden row 1: a weight on observation")


@pytest.mark.parametrize(
    ("operations", "named"),
    [
        ((Softmax("observation", "action"),), "action: Softmax"),
        (
            (
                Dense((("observation", weights(2, 4)),), np.zeros(2, np.float32), "hidden", "elu"),
                LayerNorm("hidden", np.ones(2, np.float32), np.zeros(2, np.float32), 1e-5, "h"),
                Dense((("h", weights(2, 2)),), np.zeros(2, np.float32), "action"),
            ),
            "h: LayerNorm",
        ),
    ],
)
def test_an_operator_without_integers(operations: tuple[Operation, ...], named: str) -> None:
    refused(finished(*operations), samples(), named)


def test_what_32_bits_have_no_table_for() -> None:
    message = "hidden: activation elu of 32 bits has no integer form"
    refused(network(activation="elu"), samples(), message, number_format="w32a32")


@pytest.mark.parametrize("activation", ["reciprocal", "sqrt"])
def test_an_activation_at_its_pole(activation: str) -> None:
    first = np.zeros((2, 4), np.float32)
    first[:, 0] = 40.0
    near = np.abs(samples()) + np.float32(1e-4)
    near[0] = 1e-4
    message = f"hidden: {activation} over .* too steep"
    refused(network(first=first, activation=activation), near, message)


def test_a_state_that_a_dense_layer_writes() -> None:
    zero = np.zeros(2, np.float32)
    program = finished(
        Dense((("h", weights(2, 2)), ("observation", weights(2, 4))), zero, "h_next", "tanh"),
        Dense((("h_next", weights(2, 2)),), zero, "action"),
        states=(("h", "h_next"),),
    )
    refused(program, samples(), "h_next: Dense that writes a recurrent state")


def test_a_gated_unit_on_what_is_not_its_state() -> None:
    arrays = (weights(6, 4), weights(6, 2), np.zeros(6, np.float32), np.zeros(6, np.float32))
    zero = np.zeros(2, np.float32)
    program = finished(
        Dense((("observation", weights(2, 4)),), zero, "hidden", "tanh"),
        Gru("observation", "hidden", "h_next", *arrays),
        Dense((("h_next", weights(2, 2)),), zero, "action"),
    )
    refused(program, samples(), "h_next: Gru on a state that is not the program's")


def test_an_unknown_format() -> None:
    refused(network(), samples(), "did you mean 'w16a16'", number_format="w16a61")


def test_a_spec_gives_each_signal_its_own_scale() -> None:
    program = network()
    seen = samples() * np.array([0.1, 0.1, 1.0, 1.0], np.float32)
    with_spec, without = (
        quantisation.quantise(program, seen, spec=spec).operations[0] for spec in (SPEC, None)
    )
    assert with_spec.exponents[0] == with_spec.exponents[1] > with_spec.exponents[2]
    assert len(set(without.exponents)) == 1
    # Speeds reach their valid 3 wherever these samples end; 4 is what 13 bits hold.
    assert with_spec.exponents[2] <= 13
