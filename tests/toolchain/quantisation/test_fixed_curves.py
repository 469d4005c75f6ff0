"""Tables of any activation: their error where they are read, and who shares one."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerl.errors import UserError
from edgerl.toolchain import interpreter, quantisation
from edgerl.toolchain.ir import Activation, Dense, Program, Tensor
from edgerl.toolchain.quantisation.curve import MOST_INDEX_BITS, curve_table

ACTIVATIONS = get_args(Activation)
POSITIVE = ("sqrt", "reciprocal")


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(ACTIVATIONS),
    st.floats(-12.0, 12.0),
    st.floats(0.05, 16.0),
    st.integers(4, 8),
    st.integers(0, 2**32 - 1),
)
def test_a_curve_keeps_its_error(
    activation: Activation, low: float, width: float, index_bits: int, seed: int
) -> None:
    if activation in POSITIVE:
        low = abs(low) + 0.05
    try:
        table = curve_table(activation, 0.7, low, low + width, index_bits)
    except UserError as refused:
        assert activation in (*POSITIVE, "exp") and "too steep" in str(refused)
        return
    assert index_bits <= table.index_bits <= MOST_INDEX_BITS
    half = 1 << (table.argument_bits - 1)
    v = np.random.default_rng(seed).integers(-half, half, 1 << 14)
    y = table.look_up(v)
    ends = table.ends
    assert -(2**31) <= ends[0] <= y.min() and y.max() <= ends[1] < 2**31
    x = v / table.scale + table.centre
    inside = (x >= low) & (x <= low + width)
    wanted = interpreter.activate(activation, x[inside], 0.7)
    off = np.abs(y[inside] * table.unit - wanted)
    # The grid that measures the error misses no more than this of a smooth function.
    assert off.max(initial=0.0) <= 1.01 * table.error
    assert table.error <= 2.0**-9 * 2.0**31 * table.unit


@pytest.mark.parametrize("activation", ["relu", "abs", "leaky_relu", "hard_sigmoid"])
def test_kinks_lie_between_cells(activation: Activation) -> None:
    """What is made of straight pieces is exact but for rounding, half a unit of 16 bits."""
    table = curve_table(activation, 0.1, -5.3, 3.9, 7)
    assert table.index_bits == 7
    assert table.error <= 0.6 * 2.0**16 * table.unit


def test_cells_are_added_until_the_error_is_small() -> None:
    coarse = curve_table("sin", 1.0, -30.0, 30.0, 7)
    assert coarse.index_bits == MOST_INDEX_BITS and coarse.error < 2.0**-9
    assert curve_table("elu", 1.0, -4.0, 4.0, 7).index_bits == 7


def network(activation: Activation, gains: tuple[float, ...]) -> Program:
    """Layers side by side on one observation, each with its activation, and their sum."""
    rng = np.random.default_rng(4)
    tensors = {"observation": Tensor(3), "action": Tensor(2)}
    layers = []
    for k, gain in enumerate(gains):
        w = (gain * rng.normal(size=(5, 3))).astype(np.float32)
        layers.append(Dense((("observation", w),), w[:, 0], f"layer_{k}", activation, 0.5))
        tensors[f"layer_{k}"] = Tensor(5)
    head = tuple((layer.y, rng.normal(size=(2, 5)).astype(np.float32)) for layer in layers)
    last = Dense(head, np.zeros(2, np.float32), "action")
    return Program("net", "observation", "action", (), (*layers, last), tensors)


def test_layers_of_one_kind_share_a_table_where_their_ranges_are_alike() -> None:
    seen = np.random.default_rng(0).normal(size=(512, 3)).astype(np.float32)
    fixed = quantisation.quantise(network("elu", (1.0, 0.8, 0.1)), seen)
    read = [op.curve for op in fixed.operations if hasattr(op, "curve") and op.curve]
    assert read == ["elu_0", "elu_0", "elu_1"]
    assert list(fixed.curves) == ["elu_0", "elu_1"]


@pytest.mark.parametrize("activation", [a for a in ACTIVATIONS if a not in POSITIVE])
def test_a_network_of_it_is_close_to_the_float_one(activation: Activation) -> None:
    # A margin on the range of an exponential is one on its logarithm: it costs bits.
    program = network(activation, (0.3, 0.2) if activation == "exp" else (1.0, 0.5))
    seen = np.random.default_rng(1).normal(size=(1024, 3)).astype(np.float32)
    fixed = quantisation.quantise(program, seen)
    ours, _ = quantisation.run(fixed, seen, ())
    theirs, _ = interpreter.run(program, seen, ())
    assert np.abs(ours - theirs).max() <= 2e-3 * np.abs(theirs).max()


@pytest.mark.parametrize("activation", POSITIVE)
def test_away_from_its_pole_it_is_a_curve_too(activation: Activation) -> None:
    program = network(activation, (1.0,))
    (layer, last) = program.operations
    assert isinstance(layer, Dense)
    w = np.abs(layer.sources[0][1])
    away = Dense((("observation", w),), np.full(5, 2.0, np.float32), layer.y, activation)
    program = Program("net", "observation", "action", (), (away, last), program.tensors)
    seen = np.random.default_rng(1).uniform(0.1, 1.0, size=(512, 3)).astype(np.float32)
    fixed = quantisation.quantise(program, seen)
    ours, _ = quantisation.run(fixed, seen, ())
    theirs, _ = interpreter.run(program, seen, ())
    assert np.abs(ours - theirs).max() <= 2e-3 * np.abs(theirs).max()
