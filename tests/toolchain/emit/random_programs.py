"""Random programs of the intermediate representation, for what the emitter must get right.

`programs()` draws topology and sizes, so that failures shrink; weights come from a drawn seed.
Values stay moderate, so that no infinity is met on the way: what NaN and infinity do is tested
by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

from edgerl.toolchain import ir
from edgerl.toolchain.emit.plan import VECTOR_ACTIVATIONS

MOST = 40
# A value that may be larger than this is clipped before anything else reads it.
TAME = 1e3

Draw = Callable[[st.SearchStrategy], object]


@dataclass
class Builder:
    """A program under construction. `values` are the vectors that may be read, and how large
    their elements can become."""

    seed: int
    name: str = "program"
    tensors: dict[str, ir.Tensor] = field(default_factory=dict)
    operations: list[ir.Operation] = field(default_factory=list)
    states: list[tuple[str, str]] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def tensor(self, size: int) -> str:
        name = f"t{len(self.tensors)}"
        self.tensors[name] = ir.Tensor(size)
        return name

    def size(self, name: str) -> int:
        return self.tensors[name].size

    def normal(self, *shape: int, scale: float = 1.0) -> ir.Matrix:
        return self.rng.normal(scale=scale, size=shape).astype(np.float32)

    def add(self, operation: ir.Operation, bound: float) -> str:
        """Append an operation; the (tamed) vector it writes."""
        self.operations.append(operation)
        (y,) = ir.writes(operation)
        if bound > TAME:
            y, bound = self.clip(y)
        self.values[y] = bound
        return y

    def clip(self, x: str) -> tuple[str, float]:
        y = self.tensor(self.size(x))
        low = -self.rng.uniform(0.5, 3.0, self.size(x)).astype(np.float32)
        high = self.rng.uniform(0.0, 4.0, self.size(x)).astype(np.float32)
        self.operations.append(ir.Clip(x, low, high, y))
        return y, 4.0

    def dense(self, sources: list[str], rows: int, activation: str | None, alpha: float) -> str:
        columns = sum(map(self.size, sources))
        parts = [
            (x, self.normal(rows, self.size(x), scale=1.0 / np.sqrt(columns))) for x in sources
        ]
        bias = self.normal(rows, scale=0.3)
        bound = float(np.abs(bias).max()) + sum(
            self.values[x] * float(np.abs(w).sum(axis=1).max()) for x, w in parts
        )
        y = self.tensor(rows)
        operation = ir.Dense(tuple(parts), bias, y, activation, alpha)
        return self.add(operation, _after(activation, bound) if activation else bound)

    def linear(self, terms: list[str], size: int) -> str:
        scales = [self.normal(size) for _ in terms]
        bias = self.normal(size, scale=0.3)
        bound = float(np.abs(bias).max()) + sum(
            self.values[x] * float(np.abs(s).max()) for x, s in zip(terms, scales, strict=True)
        )
        y = self.tensor(size)
        return self.add(ir.Linear(tuple(zip(terms, scales, strict=True)), bias, y), bound)

    def activate(self, x: str, activation: str, alpha: float) -> str:
        if activation == "reciprocal":
            x = self.away_from_zero(x)
        y = self.tensor(self.size(x))
        operation = ir.Activate(activation, x, y, alpha)
        return self.add(operation, _after(activation, self.values[x]))

    def away_from_zero(self, x: str) -> str:
        """x brought into [1/4, 4], fit to divide by."""
        n, y = self.size(x), self.tensor(self.size(x))
        low, high = np.full(n, 0.25, np.float32), np.full(n, 4.0, np.float32)
        return self.add(ir.Clip(x, low, high, y), 4.0)

    def binary(self, operation: str, a: str, b: str) -> str:
        if operation == "div":
            b = self.away_from_zero(b)
        first, second = self.values[a], self.values[b]
        bound = {"mul": first * second, "div": 4.0 * first}.get(operation, max(first, second))
        y = self.tensor(self.size(a))
        return self.add(ir.Binary(operation, a, b, y), bound)

    def gather(self, sources: list[str], size: int) -> str:
        """`size` elements of the sources: mostly stretches of neighbours, in any order."""
        picks: list[tuple[int, int]] = []
        while len(picks) < size:
            k = int(self.rng.integers(len(sources)))
            n = self.size(sources[k])
            first = int(self.rng.integers(n))
            length = int(self.rng.integers(1, n - first + 1))
            picks += [(k, j) for j in range(first, first + length)]
        y = self.tensor(size)
        operation = ir.Gather(tuple(sources), tuple(picks[:size]), y)
        return self.add(operation, max(self.values[x] for x in sources))

    def copy(self, x: str) -> str:
        """A tensor of its own with the elements of x."""
        y = self.tensor(self.size(x))
        picks = tuple((0, k) for k in range(self.size(x)))
        self.operations.append(ir.Gather((x,), picks, y))
        return y

    def state(self, size: int, bound: float) -> str:
        name = self.tensor(size)
        self.values[name] = bound
        self.states.append((name, ""))
        return name

    def follow(self, state: str, after: str) -> None:
        self.states[[s for s, _ in self.states].index(state)] = (state, after)

    def gru(self, x: str, size: int) -> str:
        h, y, n = self.state(size, 1.0), self.tensor(size), self.size(x)
        scale = 1.0 / np.sqrt(n + size)
        self.operations.append(
            ir.Gru(
                x,
                h,
                y,
                self.normal(3 * size, n, scale=scale),
                self.normal(3 * size, size, scale=scale),
                self.normal(3 * size, scale=0.3),
                self.normal(3 * size, scale=0.3),
            )
        )
        self.follow(h, y)
        self.values[y] = 1.0
        return y

    def lstm(self, x: str, size: int) -> str:
        # A cell grows by one a step at most, and tests are short.
        h, c = self.state(size, 1.0), self.state(size, 100.0)
        y, c_next, n = self.tensor(size), self.tensor(size), self.size(x)
        scale = 1.0 / np.sqrt(n + size)
        self.operations.append(
            ir.Lstm(
                x,
                h,
                c,
                y,
                c_next,
                self.normal(4 * size, n, scale=scale),
                self.normal(4 * size, size, scale=scale),
                self.normal(4 * size, scale=0.3),
            )
        )
        self.follow(h, y)
        self.follow(c, c_next)
        self.values |= {y: 1.0, c_next: 100.0}
        return y

    def program(self, observation: str, action: str) -> ir.Program:
        return ir.Program(
            self.name, observation, action, tuple(self.states), tuple(self.operations), self.tensors
        )


def _after(activation: str, bound: float) -> float:
    """How large an activation's result can be for arguments up to `bound`."""
    match activation:
        case "exp":
            return float(np.exp(min(bound, 88.0)))
        case "square":
            return bound * bound
        case "reciprocal":
            return 4.0
        case "tanh" | "sigmoid" | "softsign" | "hard_sigmoid":
            return 1.0
        case _:
            return 2.0 * bound + 2.0


def _any(b: Builder, draw: Draw) -> str:
    """One of the vectors there are; late ones come up first when an example shrinks."""
    return draw(st.sampled_from(list(reversed(b.values))))


def _some(b: Builder, draw: Draw, most: int) -> list[str]:
    names = list(reversed(b.values))
    return draw(st.lists(st.sampled_from(names), min_size=1, max_size=most, unique=True))


def _fitting(b: Builder, draw: Draw, size: int) -> str:
    """A vector of `size` elements, gathered if need be."""
    x = _any(b, draw)
    return x if b.size(x) == size else b.gather([x], size)


def _size(draw: Draw) -> int:
    return draw(st.integers(1, MOST))


ACTIVATIONS = sorted(VECTOR_ACTIVATIONS)
_ALPHA = st.sampled_from([1.0, 0.25])


def _dense(b: Builder, draw: Draw) -> str:
    activation = draw(st.sampled_from([None, "relu", "tanh", "sigmoid", "elu", "gelu", "mish"]))
    return b.dense(_some(b, draw, 3), _size(draw), activation, draw(_ALPHA))


def _residual(b: Builder, draw: Draw) -> str:
    x = _any(b, draw)
    inner = b.dense([x], b.size(x), draw(st.sampled_from(["tanh", "silu", None])), 1.0)
    return b.linear([x, inner], b.size(x))


def _activate(b: Builder, draw: Draw) -> str:
    return b.activate(_any(b, draw), draw(st.sampled_from(ACTIVATIONS)), draw(_ALPHA))


def _linear(b: Builder, draw: Draw) -> str:
    size = b.size(_any(b, draw))
    terms = {_fitting(b, draw, size) for _ in range(draw(st.integers(0, 5)))}
    return b.linear(sorted(terms), size)


def _binary(b: Builder, draw: Draw) -> str:
    a = _any(b, draw)
    operation = draw(st.sampled_from(["mul", "div", "min", "max"]))
    return b.binary(operation, a, _fitting(b, draw, b.size(a)))


def _clip(b: Builder, draw: Draw) -> str:
    y, bound = b.clip(_any(b, draw))
    b.values[y] = bound
    return y


def _gather(b: Builder, draw: Draw) -> str:
    return b.gather(_some(b, draw, 3), _size(draw))


def _softmax(b: Builder, draw: Draw) -> str:
    x = _any(b, draw)
    return b.add(ir.Softmax(x, b.tensor(b.size(x))), 1.0)


def _layer_norm(b: Builder, draw: Draw) -> str:
    x = _any(b, draw)
    n = b.size(x)
    scale, bias = b.normal(n, scale=0.5), b.normal(n, scale=0.3)
    return b.add(ir.LayerNorm(x, scale, bias, draw(st.sampled_from([1e-1, 1e-2])), b.tensor(n)), 20)


def _argmax(b: Builder, draw: Draw) -> str:
    """Of fresh sums: saturated values would be equal here and nearly so in the definition."""
    x = b.dense([_any(b, draw)], _size(draw), None, 1.0)
    return b.add(ir.ArgMax(x, b.tensor(1)), float(MOST))


def _gru(b: Builder, draw: Draw) -> str:
    return b.gru(_any(b, draw), _size(draw))


def _lstm(b: Builder, draw: Draw) -> str:
    return b.lstm(_any(b, draw), _size(draw))


def _delay(b: Builder, draw: Draw) -> str:
    """A state that is some vector one step ago."""
    x = _any(b, draw)
    state = b.state(b.size(x), b.values[x])
    b.follow(state, b.copy(x))
    return state


def _constant_state(b: Builder, draw: Draw) -> str:
    """A state that nothing changes."""
    state = b.state(_size(draw), 0.0)
    b.follow(state, b.copy(state))
    return state


BLOCKS = (
    _dense, _residual, _activate, _linear, _binary, _clip, _gather, _softmax, _layer_norm, _argmax,
    _gru, _lstm, _delay, _constant_state,
)  # fmt: skip


@st.composite
def programs(draw: Draw, most_blocks: int = 6) -> ir.Program:
    """A random program of up to `most_blocks` blocks, sizes 1 to 40."""
    b = Builder(draw(st.integers(0, 2**32 - 1)))
    observation = b.tensor(_size(draw))
    b.values[observation] = 4.0
    last = observation
    for block in draw(st.lists(st.sampled_from(BLOCKS), max_size=most_blocks)):
        last = block(b, draw)
    end = draw(st.sampled_from(["copy", "dense", "activate", "state"]))
    if end == "dense":
        action = b.dense([last], _size(draw), draw(st.sampled_from([None, "tanh"])), 1.0)
    elif end == "activate":
        action = b.activate(last, draw(st.sampled_from(ACTIVATIONS)), 1.0)
    else:
        action = b.copy(last)
        if end == "state":  # the action is remembered as well
            state = b.state(b.size(last), b.values[last])
            b.follow(state, b.copy(last))
    return b.program(observation, action)


def one_of_each() -> ir.Program:
    """A program with every operation and every activation that a kernel computes."""
    b = Builder(1)
    observation = b.tensor(24)
    b.values[observation] = 4.0
    x = b.dense([observation], 24, None, 1.0)
    tame = [b.clip(b.activate(x, activation, 0.25))[0] for activation in ACTIVATIONS]
    b.values |= dict.fromkeys(tame, 4.0)
    tame += [b.binary(operation, x, tame[3]) for operation in ("mul", "div", "min", "max")]
    chance = b.add(ir.Softmax(x, b.tensor(24)), 1.0)
    level = b.add(ir.LayerNorm(x, b.normal(24), b.normal(24), 1e-2, b.tensor(24)), 20.0)
    first = b.add(ir.ArgMax(x, b.tensor(1)), 24.0)
    gru = b.gru(b.dense(tame[:3], 13, "relu", 1.0), 7)
    lstm = b.lstm(b.dense([chance, level], 9, "sigmoid", 1.0), 13)
    mixed = b.linear(tame[:5], 24)
    y = b.dense([gru, lstm, mixed, first, *tame[5:12]], 40, "tanh", 1.0)
    action = b.linear([y, b.gather(tame[12:], 40), b.linear([], 40)], 40)
    return b.program(observation, b.copy(action))


def feedforward(sizes: tuple[int, ...], activation: str | None, seed: int = 2) -> ir.Program:
    """A stack of dense layers; the last has no activation."""
    b = Builder(seed)
    observation = x = b.tensor(sizes[0])
    b.values[x] = 4.0
    for size in sizes[1:-1]:
        x = b.dense([x], size, activation, 1.0)
    return b.program(observation, b.dense([x], sizes[-1], None, 1.0))


def recurrent(kinds: tuple[str, ...], inputs: int, units: int, seed: int = 3) -> ir.Program:
    """Cells (`gru`, `lstm`) one after the other, then two actions."""
    b = Builder(seed)
    observation = x = b.tensor(inputs)
    b.values[x] = 4.0
    for kind in kinds:
        x = b.gru(x, units) if kind == "gru" else b.lstm(x, units)
    return b.program(observation, b.dense([x], 2, None, 1.0))


def aliases() -> dict[str, ir.Program]:
    """Programs whose tensors play several parts at once: nothing is computed twice."""
    both = Builder(4)
    x = both.tensor(5)
    both.values[x] = 4.0
    state = both.state(3, 1.0)
    y = both.dense([x, state], 3, "tanh", 1.0)
    both.follow(state, y)
    kept = Builder(5)
    k = kept.tensor(3)
    kept.values[k] = 4.0
    memory = kept.state(2, 1.0)
    kept.follow(memory, memory)
    through = Builder(6)
    z = through.tensor(4)
    delayed = through.state(4, 4.0)
    through.follow(delayed, z)
    return {
        "action_is_state": both.program(x, y),
        "state_is_kept": kept.program(k, kept.dense([k, memory], 2, None, 1.0)),
        "action_is_observation": through.program(z, z),
        "action_is_old_state": through.program(z, delayed),
    }
