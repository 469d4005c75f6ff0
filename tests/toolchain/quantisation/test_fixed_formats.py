"""Number formats: which bits each layer's weights get, and what is refused."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from edgerl.errors import UserError
from edgerl.toolchain.ir import Dense, Program, Tensor
from edgerl.toolchain.quantisation import quantise
from edgerl.toolchain.quantisation.formats import NumberFormat, number_format_of
from edgerl.toolchain.quantisation.program import FixedDense, FixedProgram


def chain(layers: int) -> Program:
    """Layers of 6 tanh units, "layer_0" and so on; the last writes the action."""
    rng = np.random.default_rng(layers)
    names = ["observation", *(f"layer_{k}" for k in range(layers - 1)), "action"]
    operations = tuple(
        Dense(
            ((x, rng.normal(scale=0.4, size=(6, 6)).astype(np.float32)),),
            rng.normal(scale=0.1, size=6).astype(np.float32),
            y,
            "tanh",
        )
        for x, y in pairwise(names)
    )
    tensors = {name: Tensor(6) for name in names}
    return Program("net", "observation", "action", (), operations, tensors)


def stored(fixed: FixedProgram) -> list[int]:
    return [op.rows.products[0].stored for op in fixed.operations if isinstance(op, FixedDense)]


@pytest.mark.parametrize(
    ("layers", "given", "bits"),
    [
        (3, "w16a16", [16, 16, 16]),
        (4, "w8a16", [16, 8, 8, 16]),
        (2, "w8a16", [8, 16]),
        (1, "w8a16", [8]),
        (3, "w4a16", [4, 4, 4]),
        (3, {"default": "w8a16", "layer_0": "w4a16"}, [4, 8, 16]),
        (3, {"layer_1": "w4a16"}, [16, 4, 16]),
        (3, NumberFormat("w4a16", {"action": "w8a16"}), [4, 4, 8]),
    ],
)
def test_each_layer_has_the_bits_that_the_format_says(
    layers: int, given: Any, bits: list[int]
) -> None:
    seen = np.random.default_rng(0).normal(size=(256, 6)).astype(np.float32)
    fixed = quantise(chain(layers), seen, given)
    assert stored(fixed) == bits
    assert fixed.number_format == (given if isinstance(given, str) else fixed.number_format)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("w8a61", "number format 'w8a61' is unknown.*did you mean 'w8a16'"),
        ({"default": "f16"}, "number format 'f16' is unknown"),
        ({"layer_1": "w2a16"}, "tensor 'layer_1': number format 'w2a16' is unknown"),
        ({"default": "w8a16", "layr_1": "w4a16"}, "'layr_1' is no tensor.*mean 'layer_1'"),
        ({"default": "w8a16", "observation": "w4a16"}, "'observation' is no tensor that a layer"),
        ({"default": "w32a32", "layer_1": "w8a16"}, "layer_1 cannot be w8a16 in .* w32a32"),
        ({"default": "w8a16", "layer_1": "w8a8"}, "layer_1 cannot be w8a8 in .* w8a16"),
    ],
)
def test_a_format_that_there_is_not(given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        number_format_of(given, chain(3))
    assert "\n" not in str(caught.value)


def test_a_format_says_what_departs_from_it() -> None:
    assert str(number_format_of("w8a16", chain(3))) == "w8a16"
    mixed = number_format_of({"default": "w8a16", "layer_1": "w4a16"}, chain(3))
    assert str(mixed) == "w8a16 (layer_1 w4a16)"
