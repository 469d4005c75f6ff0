"""The interpreter against torch, in whose terms the program's operations are defined."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from edgerl.toolchain.interpreter import activate, reset, run
from edgerl.toolchain.ir import (
    Activate,
    ArgMax,
    Binary,
    Clip,
    Dense,
    Gather,
    Gru,
    LayerNorm,
    Linear,
    Lstm,
    Operation,
    Program,
    Softmax,
    Tensor,
    writes,
)

N = 5
RNG = np.random.default_rng(0)
SAMPLES = np.concatenate([RNG.normal(scale=4.0, size=200), [0.0, -0.0, -30.0, 30.0, 1e-3]])

ACTIVATIONS = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "elu": lambda x: functional.elu(x, 0.7),
    "selu": torch.selu,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "softplus": lambda x: functional.softplus(x, threshold=100.0),
    "mish": functional.mish,
    "leaky_relu": lambda x: functional.leaky_relu(x, 0.7),
    "hard_sigmoid": functional.hardsigmoid,
    "hard_swish": functional.hardswish,
    "softsign": functional.softsign,
    "exp": torch.exp,
    "abs": torch.abs,
    "square": torch.square,
    "sin": torch.sin,
    "cos": torch.cos,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name: str) -> None:
    expected = ACTIVATIONS[name](torch.from_numpy(SAMPLES)).numpy()
    np.testing.assert_allclose(activate(name, SAMPLES, 0.7), expected, rtol=1e-12, atol=1e-13)
    single = activate(name, SAMPLES.astype(np.float32), 0.7)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, rtol=1e-5, atol=1e-6)


def test_activations_of_positive_numbers() -> None:
    x = np.abs(SAMPLES) + 0.1
    np.testing.assert_allclose(activate("sqrt", x), np.sqrt(x))
    np.testing.assert_allclose(activate("reciprocal", x), 1.0 / x)


def weights(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def program(*operations: Operation, states: tuple[tuple[str, str], ...] = ()) -> Program:
    names = {"x", *(before for before, _ in states)}
    names.update(name for operation in operations for name in writes(operation))
    return Program("p", "x", "y", states, operations, {name: Tensor(N) for name in names})


X = RNG.normal(size=(7, N))


def torch_layer_norm(scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    terms = (torch.from_numpy(v.astype(np.float64)) for v in (scale, bias))
    return functional.layer_norm(torch.from_numpy(X), (N,), *terms, eps=1e-3).numpy()


A, B, W, U = weights(N), weights(N), weights(N, N), weights(N, N)
CASES = {
    "dense": (
        (Dense((("x", W), ("x", U)), A, "y", "elu", 0.7),),
        activate("elu", X @ W.T + X @ U.T + A, 0.7),
    ),
    "linear": ((Linear((("x", A), ("x", B)), A, "y"),), A * X + B * X + A),
    "constant": ((Linear((), A, "y"),), np.broadcast_to(A, X.shape)),
    "activate": ((Activate("tanh", "x", "y"),), np.tanh(X)),
    "clip": ((Clip("x", -np.abs(A), np.abs(A), "y"),), np.clip(X, -np.abs(A), np.abs(A))),
    "gather": ((Gather(("x", "x"), ((1, 0), (0, 3), (1, 3)), "y"),), X[:, [0, 3, 3]]),
    "softmax": ((Softmax("x", "y"),), torch.softmax(torch.from_numpy(X), -1).numpy()),
    "argmax": (
        (ArgMax("x", "y"),), torch.argmax(torch.from_numpy(X), -1, keepdim=True).numpy(),
    ),
    "layer_norm": ((LayerNorm("x", A, B, 1e-3, "y"),), torch_layer_norm(A, B)),
    **{
        kind: (
            (Linear((("x", A),), B, "t"), Binary(kind, "x", "t", "y")),
            function(X, A * X + B),
        )
        for kind, function in (
            ("mul", np.multiply), ("div", np.divide), ("min", np.minimum), ("max", np.maximum),
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_operation(name: str) -> None:
    operations, expected = CASES[name]
    action, states = run(program(*operations), X, ())
    np.testing.assert_allclose(action, expected, rtol=1e-12)
    assert states == ()
    one, _ = run(program(*operations), X[0], ())
    np.testing.assert_allclose(one, expected[0], rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_recurrent_cells(dtype: type) -> None:
    """Torch's own cells over a sequence, batch of 7."""
    gru, lstm = torch.nn.GRUCell(N, N).to(torch.float64), torch.nn.LSTMCell(N, N).to(torch.float64)

    def of(cell: torch.nn.Module) -> list[np.ndarray]:
        return [p.detach().numpy().astype(np.float32) for p in cell.parameters()]

    w, u, b, c = of(gru)
    one = program(Gru("x", "h", "y", w, u, b, c), states=(("h", "y"),))
    w, u, b, c = of(lstm)
    two = program(Lstm("x", "h", "c", "y", "d", w, u, b + c), states=(("h", "y"), ("c", "d")))
    h = hl = cl = torch.zeros(7, N, dtype=torch.float64)
    ours, also_ours = reset(one, (7,)), reset(two, (7,))
    for step in range(5):
        x = X + step
        with torch.no_grad():
            h = gru(torch.from_numpy(x), h)
            hl, cl = lstm(torch.from_numpy(x), (hl, cl))
        action, ours = run(one, x, ours, dtype)
        other, also_ours = run(two, x, also_ours, dtype)
        assert action.dtype == dtype
        np.testing.assert_allclose(action, h.numpy(), atol=2e-6)
        np.testing.assert_allclose(other, hl.numpy(), atol=2e-6)
        np.testing.assert_allclose(also_ours[1], cl.numpy(), atol=2e-6)
