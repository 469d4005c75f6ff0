"""Random float programs of the operators that have integers, and observations for them."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from edgerl.toolchain import ir

Singles = npt.NDArray[np.float32]


@dataclass
class Builder:
    """A program under construction; `readable` are the tensors that may be read."""

    rng: np.random.Generator
    tensors: dict[str, ir.Tensor] = field(default_factory=dict)
    operations: list[ir.Operation] = field(default_factory=list)
    states: list[tuple[str, str]] = field(default_factory=list)

    def normal(self, *shape: int, scale: float) -> ir.Matrix:
        return self.rng.normal(scale=scale, size=shape).astype(np.float32)

    def size(self, name: str) -> int:
        return self.tensors[name].size

    def dense(self, y: str, sources: tuple[str, ...], rows: int, activation: str | None) -> str:
        columns = sum(map(self.size, sources))
        gain = float(self.rng.choice([0.3, 1.0, 3.0])) / np.sqrt(columns)
        weights = tuple((x, self.normal(rows, self.size(x), scale=gain)) for x in sources)
        bias = self.normal(rows, scale=0.3)
        self.tensors[y] = ir.Tensor(rows)
        self.operations.append(ir.Dense(weights, bias, y, activation))  # type: ignore[arg-type]  # drawn from its values
        return y

    def gru(self, number: int, x: str, size: int) -> str:
        h, h_next = f"memory_{number}", f"memory_{number}_next"
        self.tensors[h] = self.tensors[h_next] = ir.Tensor(size)
        self.states.append((h, h_next))
        self.operations.append(
            ir.Gru(
                x,
                h,
                h_next,
                self.normal(3 * size, self.size(x), scale=1.5 / np.sqrt(self.size(x))),
                self.normal(3 * size, size, scale=1.0 / np.sqrt(size)),
                self.normal(3 * size, scale=0.3),
                self.normal(3 * size, scale=0.3),
            )
        )
        return h_next

    def lstm(self, number: int, x: str, size: int) -> str:
        names = [f"{kind}_{number}{end}" for end in ("", "_next") for kind in ("memory", "cell")]
        self.tensors.update({name: ir.Tensor(size) for name in names})
        h, c, h_next, c_next = names
        self.states += [(h, h_next), (c, c_next)]
        self.operations.append(
            ir.Lstm(
                x,
                h,
                c,
                h_next,
                c_next,
                self.normal(4 * size, self.size(x), scale=1.5 / np.sqrt(self.size(x))),
                self.normal(4 * size, size, scale=1.0 / np.sqrt(size)),
                self.normal(4 * size, scale=0.5),
            )
        )
        return str(self.rng.choice([h_next, h_next, c_next]))

    def reversed_half(self, y: str, x: str, other: str) -> str:
        picks = [(0, j) for j in reversed(range((self.size(x) + 1) // 2))]
        picks += [(1, j) for j in range(self.size(other))]
        self.tensors[y] = ir.Tensor(len(picks))
        self.operations.append(ir.Gather((x, other), tuple(picks), y))
        return y


@st.composite
def programs(draw: st.DrawFn) -> tuple[ir.Program, int]:
    """A program of dense layers, gated units and gathers, and the seed of its weights."""
    seed = draw(st.integers(0, 2**32 - 1))
    build = Builder(np.random.default_rng(seed))
    build.tensors["observation"] = ir.Tensor(draw(st.integers(1, 24)))
    x = "observation"
    kinds = st.sampled_from(["relu", "tanh", "sigmoid", "linear", "skip", "gru", "lstm", "gather"])
    for number, kind in enumerate(draw(st.lists(kinds, min_size=1, max_size=4))):
        rows, y = draw(st.integers(1, 24)), f"layer_{number}"
        if kind == "gru":
            x = build.gru(number, x, rows)
        elif kind == "lstm":
            x = build.lstm(number, x, rows)
        elif kind == "gather":
            x = build.reversed_half(y, x, "observation")
        elif kind == "skip":
            x = build.dense(y, (x, "observation"), rows, "tanh")
        else:
            x = build.dense(y, (x,), rows, None if kind == "linear" else kind)
    last = draw(st.sampled_from([None, "relu", "tanh", "sigmoid"]))
    build.dense("action", (x,), draw(st.integers(1, 6)), last)
    program = ir.Program(
        "random",
        "observation",
        "action",
        tuple(build.states),
        tuple(build.operations),
        build.tensors,
    )
    return program, seed


def observations(program: ir.Program, seed: int, steps: int, sequences: int) -> Singles:
    """[steps, sequences, n], values of some units that hold for a few steps."""
    rng = np.random.default_rng(seed)
    n = program.size(program.observation)
    held = rng.normal(size=(steps // 5 + 1, sequences, n)).repeat(5, axis=0)[:steps]
    return (held + 0.1 * rng.normal(size=held.shape)).astype(np.float32)
