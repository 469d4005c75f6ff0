"""Plan: a Program laid out for emission: where every vector lives, in which order every weight
is read, and which kernel runs when.

Both renderers, portable C and assembly, print the same plan, so they agree on memory, on the
order of weights and on the order of arithmetic. Matrices are cut into tiles of eight rows (then
four, two, one). The weights of all tiles form one stream in execution order that a single
pointer walks once a step: for each tile its biases, then column by column its rows' weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgerl.errors import UserError
from edgerl.toolchain import ir
from edgerl.toolchain.emit.tables import Curve, table

Singles = npt.NDArray[np.float32]
Base = Literal["observation", "action", "state", "next", "scratch"]

TILE = 8
# Activations that the matrix kernels apply to a finished tile; others run as a vector step.
TILE_ACTIVATIONS = frozenset({"relu", "tanh", "sigmoid"})
TANH_SCALE = 8.0
SIGMOID_SCALE = 4.0  # sigmoid(x) = 1/2 + 1/2 tanh(x/2): the tanh table at half the argument


@dataclass(frozen=True)
class Slot:
    """A vector in memory: base pointer, offset and length in floats."""

    base: Base
    offset: int
    size: int


@dataclass(frozen=True)
class DenseStep:
    """Matrix times vectors, tile by tile. `tiles` are row counts; sources in order."""

    index: int
    sources: tuple[Slot, ...]
    y: Slot
    tiles: tuple[int, ...]
    activation: Literal["none", "relu", "tanh", "sigmoid"]
    weights: int
    kind: str = "dense"


@dataclass(frozen=True)
class GruStep:
    """One GRU cell; `tiles` cut its hidden units."""

    index: int
    x: Slot
    h: Slot
    y: Slot
    tiles: tuple[int, ...]
    weights: int
    kind: str = "gru"


@dataclass(frozen=True)
class LstmStep:
    """One LSTM cell; `tiles` cut its hidden units."""

    index: int
    x: Slot
    h: Slot
    c: Slot
    y: Slot
    c_next: Slot
    tiles: tuple[int, ...]
    weights: int
    kind: str = "lstm"


@dataclass(frozen=True)
class VectorStep:
    """An element-wise or small vector operation that runs as a C function on every core.

    `constants` are offsets (in floats) into the constant array, in the operation's order.
    """

    index: int
    operation: str
    inputs: tuple[Slot, ...]
    y: Slot
    constants: tuple[int, ...] = ()
    picks: tuple[tuple[int, int, int, int], ...] = ()
    alpha: float = 0.0
    weights: int = 0
    kind: str = "vector"


Step = DenseStep | GruStep | LstmStep | VectorStep


@dataclass(frozen=True)
class Plan:
    """Everything the renderers need. Sizes in floats; `weights` is the stream, `constants`
    what vector steps read, `curves` the tables in use."""

    name: str
    observation_size: int
    action_size: int
    state_size: int
    scratch_size: int
    steps: tuple[Step, ...]
    weights: Singles
    constants: Singles
    curves: tuple[Curve, ...]

    @property
    def weights_by_step(self) -> tuple[int, ...]:
        """Floats of the stream that each step reads."""
        starts = [s.weights for s in self.steps] + [self.weights.size]
        return tuple(
            0 if isinstance(s, VectorStep) else min(n for n in starts if n > s.weights) - s.weights
            for s in self.steps
        )


def tiles(rows: int) -> tuple[int, ...]:
    """Cut `rows` into tiles of eight, then at most one each of four, two and one."""
    rest = tuple(t for t in (4, 2, 1) if rows % TILE & t)
    return (TILE,) * (rows // TILE) + rest


def _stream(
    bias: Singles, matrices: tuple[Singles, ...], cut: tuple[int, ...]
) -> Iterator[list[Singles]]:
    """Per tile: [bias, columns of each matrix…], each flattened in reading order."""
    row = 0
    for height in cut:
        rows = slice(row, row + height)
        yield [bias[rows], *(m[rows].T.reshape(-1) for m in matrices)]
        row += height


def _scaled(values: Singles, scale: float, what: str) -> Singles:
    with np.errstate(over="ignore"):
        result = (values * np.float32(scale)).astype(np.float32)
    if not np.isfinite(result).all():
        raise UserError(f"{what}: weights above 1e37 cannot be scaled; is the policy trained?")
    return result


def pack_dense(op: ir.Dense, cut: tuple[int, ...]) -> Singles:
    """The weight stream of a dense layer, scaled for its activation's table."""
    scale = {"tanh": TANH_SCALE, "sigmoid": SIGMOID_SCALE}.get(op.activation or "", 1.0)
    bias = _scaled(op.bias, scale, op.y)
    matrices = tuple(_scaled(w, scale, op.y) for _, w in op.sources)
    return np.concatenate([part for tile in _stream(bias, matrices, cut) for part in tile])


def pack_gru(op: ir.Gru, cut: tuple[int, ...]) -> Singles:
    """The weight stream of a GRU: per tile the hidden half of n, its input half, r, then z.

    The gates' biases are summed. The hidden half of n is stored at half scale, because with
    r = 1/2 + 1/2 t it enters as g' + t g' (g' its half).
    """
    hidden = op.w_hidden.shape[1]
    wr, wz, wn = (op.w_input[k * hidden : (k + 1) * hidden] for k in range(3))
    ur, uz, un = (op.w_hidden[k * hidden : (k + 1) * hidden] for k in range(3))
    br, bz, bn = (op.b_input[k * hidden : (k + 1) * hidden] for k in range(3))
    cr, cz, cn = (op.b_hidden[k * hidden : (k + 1) * hidden] for k in range(3))
    name = op.h_next

    def gate(b: Singles, w: Singles, u: Singles) -> Iterator[list[Singles]]:
        s = SIGMOID_SCALE
        return _stream(_scaled(b, s, name), (_scaled(w, s, name), _scaled(u, s, name)), cut)

    half = 0.5 * TANH_SCALE
    groups = zip(
        _stream(_scaled(cn, half, name), (_scaled(un, half, name),), cut),
        _stream(_scaled(bn, TANH_SCALE, name), (_scaled(wn, TANH_SCALE, name),), cut),
        gate(br + cr, wr, ur),
        gate(bz + cz, wz, uz),
        strict=True,
    )
    return np.concatenate([part for tile in groups for group in tile for part in group])


def pack_lstm(op: ir.Lstm, cut: tuple[int, ...]) -> Singles:
    """The weight stream of an LSTM: per tile the gates g, i, f, o."""
    hidden = op.w_hidden.shape[1]

    def gate(k: int, scale: float) -> Iterator[list[Singles]]:
        rows = slice(k * hidden, (k + 1) * hidden)
        parts = [_scaled(a[rows], scale, op.h_next) for a in (op.bias, op.w_input, op.w_hidden)]
        return _stream(parts[0], (parts[1], parts[2]), cut)

    groups = zip(
        gate(2, TANH_SCALE),
        gate(0, SIGMOID_SCALE),
        gate(1, SIGMOID_SCALE),
        gate(3, SIGMOID_SCALE),
        strict=True,
    )
    return np.concatenate([part for tile in groups for group in tile for part in group])


def _split_activations(program: ir.Program) -> list[ir.Operation]:
    """Dense layers whose activation no tile kernel has become dense plus activation."""
    result: list[ir.Operation] = []
    for op in program.operations:
        if isinstance(op, ir.Dense) and op.activation not in (None, *TILE_ACTIVATIONS):
            assert op.activation is not None
            result += [
                replace(op, activation=None),
                ir.Activate(op.activation, op.y, op.y, op.alpha),
            ]
        else:
            result.append(op)
    return result


class _Memory:
    """Places every tensor: inputs, states and outputs where the caller has them, the rest in
    scratch, first fit, released after the last read."""

    def __init__(self, program: ir.Program, operations: list[ir.Operation]):
        self.program = program
        self.slots: dict[str, Slot] = {}
        self.copies: list[tuple[str, Slot]] = []
        self.scratch = 0
        self._free: list[tuple[int, int]] = []
        self._last_read = {n: k for k, op in enumerate(operations) for n in ir.reads(op)}
        self._place(program.observation, "observation", 0)
        offset = 0
        for before, after in program.states:
            self._place(before, "state", offset)
            self._place(after, "next", offset)
            offset += program.size(before)
        self.state_size = offset
        self._place(program.action, "action", 0)

    def _place(self, name: str, base: Base, offset: int) -> None:
        slot = Slot(base, offset, self.program.size(name))
        if name in self.slots:
            self.copies.append((name, slot))
        else:
            self.slots[name] = slot

    def result(self, name: str) -> Slot:
        """The slot an operation writes `name` to, reserved now if it is scratch."""
        if name not in self.slots:
            self.slots[name] = self._reserve(self.program.size(name))
        return self.slots[name]

    def _reserve(self, size: int) -> Slot:
        for k, (start, length) in enumerate(self._free):
            if length >= size:
                self._free[k : k + 1] = [(start + size, length - size)] * (length > size)
                return Slot("scratch", start, size)
        slot = Slot("scratch", self.scratch, size)
        self.scratch += size
        return slot

    def release(self, position: int, op: ir.Operation) -> None:
        """Give back the scratch of tensors that `op`, at `position`, was the last to read."""
        for name in set(ir.reads(op)):
            slot = self.slots[name]
            if slot.base == "scratch" and self._last_read[name] == position:
                self._free.append((slot.offset, slot.size))
                self._free = _merged(self._free)


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    result: list[tuple[int, int]] = []
    for start, size in sorted(spans):
        if result and sum(result[-1]) == start:
            result[-1] = (result[-1][0], result[-1][1] + size)
        else:
            result.append((start, size))
    return result


_ACTIVATION_CURVES: dict[str, Curve] = {
    "tanh": "tanh",
    "sigmoid": "tanh",
    "silu": "tanh",
    "gelu": "phi",
    "mish": "mish",
    "elu": "elu",
    "selu": "elu",
    "softplus": "softplus",
}


def plan(program: ir.Program) -> Plan:
    """Lay `program` out for emission.

    Raises UserError for an operation that no kernel computes.
    """
    operations = _split_activations(program)
    memory = _Memory(program, operations)
    weights: list[Singles] = []
    constants: list[Singles] = []
    curves: list[Curve] = []
    steps: list[Step] = []

    def offset(parts: list[Singles]) -> int:
        return sum(p.size for p in parts)

    def constant(values: Singles) -> int:
        constants.append(np.ascontiguousarray(values, np.float32).reshape(-1))
        return offset(constants[:-1])

    def uses(activation: str | None) -> None:
        curve = _ACTIVATION_CURVES.get(activation or "")
        if curve and curve not in curves:
            curves.append(curve)

    for position, op in enumerate(operations):
        at = memory.slots
        k = len(steps)
        start = offset(weights)
        match op:
            case ir.Dense(sources, _, y, activation):
                cut = tiles(program.size(y))
                weights.append(pack_dense(op, cut))
                uses(activation)
                kind = activation if activation in ("relu", "tanh", "sigmoid") else "none"
                inputs = tuple(at[x] for x, _ in sources)
                steps.append(DenseStep(k, inputs, memory.result(y), cut, kind, start))
            case ir.Gru(x, h, h_next):
                cut = tiles(program.size(h))
                weights.append(pack_gru(op, cut))
                uses("tanh")
                steps.append(GruStep(k, at[x], at[h], memory.result(h_next), cut, start))
            case ir.Lstm(x, h, c, h_next, c_next):
                cut = tiles(program.size(h))
                weights.append(pack_lstm(op, cut))
                uses("tanh")
                results = (memory.result(h_next), memory.result(c_next))
                steps.append(LstmStep(k, at[x], at[h], at[c], *results, cut, start))
            case ir.Linear(terms, bias, y):
                inputs = tuple(at[x] for x, _ in terms)
                where = tuple(constant(v) for v in (bias, *(s for _, s in terms)))
                steps.append(VectorStep(k, "linear", inputs, memory.result(y), where))
            case ir.Activate(activation, x, y, alpha):
                if activation not in VECTOR_ACTIVATIONS:
                    raise UserError(
                        f"{program.name}: no kernel computes {activation!r} (tensor {y})"
                    )
                uses(activation)
                source = at[x]
                steps.append(
                    VectorStep(k, activation, (source,), memory.result(y), alpha=alpha)
                )
            case ir.Binary(operation, a, b, y):
                inputs = (at[a], at[b])
                steps.append(VectorStep(k, operation, inputs, memory.result(y)))
            case ir.Clip(x, low, high, y):
                where = (constant(low), constant(high))
                steps.append(VectorStep(k, "clip", (at[x],), memory.result(y), where))
            case ir.Gather(sources, picks, y):
                inputs = tuple(at[x] for x in sources)
                steps.append(
                    VectorStep(k, "gather", inputs, memory.result(y), picks=_runs(picks))
                )
            case ir.Softmax(x, y):
                steps.append(VectorStep(k, "softmax", (at[x],), memory.result(y)))
            case ir.LayerNorm(x, scale, bias, epsilon, y):
                where = (constant(scale), constant(bias))
                source = at[x]
                steps.append(
                    VectorStep(k, "layer_norm", (source,), memory.result(y), where, alpha=epsilon)
                )
        memory.release(position, op)

    for name, slot in memory.copies:
        whole = ((0, 0, 0, slot.size),)
        steps.append(VectorStep(len(steps), "gather", (memory.slots[name],), slot, picks=whole))

    empty = np.zeros(0, np.float32)
    return Plan(
        name=program.name,
        observation_size=program.size(program.observation),
        action_size=program.size(program.action),
        state_size=memory.state_size,
        scratch_size=memory.scratch,
        steps=tuple(steps),
        weights=np.concatenate(weights) if weights else empty,
        constants=np.concatenate(constants) if constants else empty,
        curves=tuple(curves),
    )


VECTOR_ACTIVATIONS = frozenset(_ACTIVATION_CURVES) | {
    "relu", "leaky_relu", "hard_sigmoid", "hard_swish", "softsign", "exp", "abs", "square",
    "reciprocal",
}  # fmt: skip


def _runs(picks: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int, int, int], ...]:
    """Consecutive picks as runs (destination, source, first element, length)."""
    runs: list[tuple[int, int, int, int]] = []
    for destination, (source, element) in enumerate(picks):
        if runs:
            start, last, first, length = runs[-1]
            if last == source and first + length == element:
                runs[-1] = (start, last, first, length + 1)
                continue
        runs.append((destination, source, element, 1))
    return tuple(runs)


def table_bytes(plan: Plan) -> int:
    """Bytes of all activation tables the plan uses."""
    return sum(table(curve).coefficients.nbytes for curve in plan.curves)
