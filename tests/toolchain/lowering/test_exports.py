"""What torch exports: every case, by both exporters, becomes few operations with its values."""

import exports
import numpy as np
import pytest
import torch
from parity import difference

from edgerl.policies.onnx_file import parse
from edgerl.toolchain.interpreter import reset, run
from edgerl.toolchain.ir import Program
from edgerl.toolchain.lowering import lower


def kinds(program: Program) -> tuple[str, ...]:
    return tuple(type(operation).__name__ for operation in program.operations)


# The dynamo exporter takes seconds; cases that add nothing to another are left out.
BOTH = [(name, False) for name in exports.CASES] + [
    (name, True) for name in exports.CASES if name not in ("scaled", "gru", "lstm", "residual")
]


@pytest.mark.parametrize(("name", "dynamo"), BOTH)
def test_export_is_lowered(name: str, dynamo: bool) -> None:
    policy = parse(exports.exported(name, dynamo), f"{name}.onnx")
    program = lower(policy)
    assert difference(policy, program, steps=10) < 2e-6
    expected = exports.CASES[name].operations
    if expected:
        assert kinds(program) == expected


@pytest.mark.parametrize("name", ["gru2", "lstm_cell", "hand_gru", "normalised"])
def test_program_matches_torch(name: str) -> None:
    """The chain from torch to the program, without onnxruntime between them."""
    policy = parse(exports.exported(name, False), f"{name}.onnx")
    program, model = lower(policy), exports.module(name)
    theirs = [torch.zeros(shape) for shape in exports.CASES[name].shapes[1:]]
    ours, rng = reset(program), np.random.default_rng(1)
    for _ in range(10):
        observation = rng.normal(size=(1, exports.N)).astype(np.float32)
        with torch.no_grad():
            output = model(torch.from_numpy(observation), *theirs)
        expected, *theirs = output if isinstance(output, tuple) else (output,)
        action, ours = run(program, observation[0], ours)
        np.testing.assert_allclose(action, expected.numpy()[0], atol=2e-6)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other.numpy().reshape(-1), atol=2e-6)


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
def test_no_product_is_computed_twice(dynamo: bool) -> None:
    policy = parse(exports.exported("gru_cell", dynamo), "x.onnx")
    assert lower(policy).macs == 7 * 9 + 3 * 6 * (9 + 6) + 6 * 3


def test_scaling_folds_into_the_first_layer() -> None:
    program = lower(parse(exports.exported("scaled", False), "x.onnx"))
    model = exports.module("scaled")
    first = program.operations[0]
    expected = model.net[0].weight.detach().numpy() / model.scale.numpy()
    np.testing.assert_allclose(first.sources[0][1], expected, rtol=1e-6)
    assert (first.activation, program.operations[1].activation) == ("relu", "tanh")
