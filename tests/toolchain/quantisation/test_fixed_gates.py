"""The activation table, the edges of a fixed program, and a state that never stalls."""

import numpy as np
import pytest

from edgerl.toolchain import interpreter, quantisation
from edgerl.toolchain.ir import Dense, Gru, Lstm, Program, Tensor
from edgerl.toolchain.quantisation.program import FixedInput
from edgerl.toolchain.quantisation.table import tanh_table


@pytest.mark.parametrize("index_bits", range(4, 11))
def test_a_table_keeps_its_error_and_its_range(index_bits: int) -> None:
    table = tanh_table(index_bits)
    half = 1 << (table.argument_bits - 1)
    v = np.unique(np.linspace(-half, half - 1, 1 << 18).astype(np.int64))
    y = table.look_up(v)
    assert np.abs(y * 2.0**-30 - np.tanh(v / table.scale)).max() <= table.error
    assert 1.0 - y[-1] * 2.0**-30 <= table.error
    assert table.ends[0] <= y.min() and y.max() <= table.ends[1]
    # The share of a new state is y + 2^30: above zero, and in int32.
    assert table.ends[0] > -(1 << 30) and table.ends[1] < 1 << 30
    slopes = (table.words & 0xFFFF).astype(np.uint16).view(np.int16)
    assert slopes.min() >= 0


def test_tables_improve_to_what_their_values_can_hold() -> None:
    errors = [tanh_table(bits).error for bits in (6, 7, 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[1] < 2.5e-4
    with pytest.raises(ValueError, match="cells"):
        tanh_table(11)


def unit(update_bias: float, target: float) -> Program:
    """One gated unit that moves from wherever it is towards `target`, and a head."""
    zero = np.zeros((3, 1), np.float32)
    bias = np.array([0.0, update_bias, np.arctanh(target)], np.float32)
    one = np.ones((1, 1), np.float32)
    return Program(
        "unit",
        "observation",
        "action",
        (("h", "h_next"),),
        (
            Gru("observation", "h", "h_next", zero, zero, bias, np.zeros(3, np.float32)),
            Dense((("h_next", one),), np.zeros(1, np.float32), "action"),
        ),
        {name: Tensor(1) for name in ("observation", "h", "h_next", "action")},
    )


@pytest.mark.parametrize("update_bias", [3.0, 5.0, 6.5])
@pytest.mark.parametrize("target", [-0.6, 0.3])
def test_a_state_never_stalls(update_bias: float, target: float) -> None:
    """Far from its target or near it, every step of a slow unit moves it there, until the
    distance is below what the definition allows, a four-thousandth of where 16 bits stop."""
    program = unit(update_bias, target)
    noise = np.random.default_rng(0).normal(size=(256, 1)).astype(np.float32)
    fixed = quantisation.quantise(program, noise)
    share = float(1.0 / (1.0 + np.exp(update_bias)))
    measured = None
    starts = np.linspace(-1.0, 1.0, 17)[:, np.newaxis] * (2**29 - 2**16)
    states = (starts.astype(np.int32),)
    quiet = np.zeros((17, 1), np.float32)
    for _ in range(int(18.0 / share)):
        before = states[0].astype(np.int64)
        _, states = quantisation.run(fixed, quiet, states)
        moved = states[0] - before
        if measured is None:
            # A step's length says what the share and the target are to the integers.
            slope = (moved[-1] - moved[0]) / (before[-1] - before[0])
            measured = float(-slope[0])
            rest = float(before[0, 0] + moved[0, 0] / measured)
        away = rest - before
        far = np.abs(away) > 2.0 / measured
        assert (np.sign(moved) == np.sign(away))[far].all()
    assert measured is not None and abs(measured - share) <= fixed.table.error
    assert abs(rest * 2.0**-29 - target) <= 2.0 * fixed.table.error
    assert np.abs(states[0] - rest).max() <= 2.0 / measured


def test_a_cell_never_stalls() -> None:
    """A long short-term memory that forgets and gains slowly settles where a float one does."""
    zero = np.zeros((4, 1), np.float32)
    keep, enter = 5.0, -6.0
    bias = np.array([enter, keep, 0.8, 3.0], np.float32)
    program = Program(
        "unit",
        "observation",
        "action",
        (("h", "h_next"), ("c", "c_next")),
        (
            Lstm("observation", "h", "c", "h_next", "c_next", zero, zero, bias),
            Dense((("h_next", np.ones((1, 1), np.float32)),), np.zeros(1, np.float32), "action"),
        ),
        {name: Tensor(1) for name in ("observation", "h", "h_next", "c", "c_next", "action")},
    )
    noise = np.random.default_rng(0).normal(size=(256, 1)).astype(np.float32)
    fixed = quantisation.quantise(program, noise)
    lsb = fixed.halfwords["c"].lsb[0] * 2.0**-14
    starts = np.array([[-(2**29)], [0], [2**28], [2**29 - 1]], np.int32)
    states: tuple[np.ndarray, ...] = (np.zeros_like(starts), starts)
    for _ in range(4000):
        _, states = quantisation.run(fixed, np.zeros((4, 1)), states)
    expected = np.tanh(0.8) / (1.0 + np.exp(-enter)) * (1.0 + np.exp(keep))
    settled = states[1] * lsb
    assert np.ptp(settled) <= 1e-5
    # A gate that is nearly closed or open has the table's error in what is left of it.
    assert abs(settled[0, 0] / expected - 1.0) <= 0.05


def test_inputs_convert_as_one_instruction_would() -> None:
    program = unit(0.0, 0.5)
    noise = np.random.default_rng(0).normal(size=(256, 1)).astype(np.float32)
    fixed = quantisation.quantise(program, noise)
    entry = fixed.operations[0]
    assert isinstance(entry, FixedInput)
    step = 2.0 ** -entry.exponents[0]
    given = np.array(
        [np.nan, np.inf, -np.inf, 1e30, 1e-42, -0.0, 1.9 * step, -1.9 * step, 40000 * step],
        np.float32,
    )
    states = quantisation.reset(fixed, (len(given),))
    seen = quantisation.trace(fixed, given[:, np.newaxis], states)[entry.y][:, 0]
    assert seen.tolist() == [0, 32767, -32768, 32767, 0, 0, 1, -1, 32767]


def test_a_reset_is_zero_and_an_overflow_is_never_silent() -> None:
    fixed = quantisation.quantise(
        unit(0.0, 0.5), np.random.default_rng(0).normal(size=(256, 1)).astype(np.float32)
    )
    (state,) = quantisation.reset(fixed, (2, 3))
    assert state.shape == (2, 3, 1) and state.dtype == np.int32 and not state.any()
    beyond = np.full((1, 1), 2**31 - 1)
    with pytest.raises(OverflowError, match="leaves int32"):
        quantisation.run(fixed, np.zeros((1, 1)), (beyond,))


def test_the_interpreters_agree_on_shapes() -> None:
    program = unit(1.0, 0.5)
    fixed = quantisation.quantise(
        program, np.random.default_rng(0).normal(size=(256, 1)).astype(np.float32)
    )
    ours = quantisation.run(fixed, np.zeros((2, 3, 1)), quantisation.reset(fixed, (2, 3)))
    theirs = interpreter.run(program, np.zeros((2, 3, 1)), interpreter.reset(program, (2, 3)))
    assert ours[0].shape == theirs[0].shape and ours[1][0].shape == theirs[1][0].shape
    assert ours[0].dtype == np.float32
