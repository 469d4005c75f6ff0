from collections.abc import Callable
from importlib.resources import files

import h5py
import numpy as np
import pytest

from edgerl.policies.plants import Step

FreshPolicy = Callable[[int], Step]


@pytest.fixture(scope="session")
def published_policy() -> FreshPolicy:
    """Makes steps of the published policy, each for a number of vehicles and from reset."""
    with h5py.File(str(files("foundation_policy") / "blob/checkpoint.h5")) as file:
        layers = file["actor/layers"]
        w0, b0, wi, bi, wh, bh, w2, b2 = (
            layers[f"{name}/parameters"][()]
            for name in (
                "0/weights",
                "0/biases",
                "1/weights_input",
                "1/biases_input",
                "1/weights_hidden",
                "1/biases_hidden",
                "2/weights",
                "2/biases",
            )
        )

    def fresh(count: int) -> Step:
        h = np.zeros((count, 16), dtype=np.float32)

        def step(observation: np.ndarray) -> np.ndarray:
            nonlocal h
            x = np.maximum(observation @ w0.T + b0, 0.0)
            of_x, of_h = x @ wi.T + bi, h @ wh.T + bh
            gates = 1.0 / (1.0 + np.exp(-(of_x[:, :32] + of_h[:, :32])))
            r, z = gates[:, :16], gates[:, 16:]
            new = np.tanh(of_x[:, 32:] + r * of_h[:, 32:])
            h = z * h + (1.0 - z) * new
            return h @ w2.T + b2

        return step

    return fresh
