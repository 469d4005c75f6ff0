"""Plan: a Program laid out for emission: where every vector lives, in which order every weight
is read, and which kernel runs when.

Both renderers, portable C and assembly, print the same plan, so they agree on memory, on the
order of weights and on the order of arithmetic.
"""

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal

import numpy as np

from edgerl.errors import UserError
from edgerl.toolchain import ir
from edgerl.toolchain.emit import sparse
from edgerl.toolchain.emit.memory import Memory, Slot
from edgerl.toolchain.emit.packing import (
    TILE,
    Singles,
    pack_dense,
    pack_gru,
    pack_lstm,
    scaled_dense,
    tiles,
)
from edgerl.toolchain.emit.sparse import Writings
from edgerl.toolchain.emit.tables import Curve

# Activations that the matrix kernels apply to a finished tile; others run as a vector step.
TILE_ACTIVATIONS = frozenset({"relu", "tanh", "sigmoid"})


class _Tiled:
    """How a step's rows are cut; `tiles` are row counts."""

    tiles: tuple[int, ...]

    @property
    def looped(self) -> int:
        """Whole tiles that a loop runs through; a single one needs no loop."""
        whole = self.tiles.count(TILE)
        return whole if whole > 1 else 0

    @property
    def singles(self) -> list[tuple[int, int]]:
        """The other tiles: height and first row."""
        starts = accumulate(self.tiles, initial=0)
        return list(zip(self.tiles, starts, strict=False))[self.looped :]


@dataclass(frozen=True)
class DenseStep(_Tiled):
    """Matrix times vectors, tile by tile; sources in order."""

    index: int
    sources: tuple[Slot, ...]
    y: Slot
    tiles: tuple[int, ...]
    activation: Literal["none", "relu", "tanh", "sigmoid"]
    weights: int
    kind: str = "dense"

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Every vector the step reads or writes."""
        return (*self.sources, self.y)


@dataclass(frozen=True)
class GruStep(_Tiled):
    """One GRU cell; `tiles` cut its hidden units."""

    index: int
    x: Slot
    h: Slot
    y: Slot
    tiles: tuple[int, ...]
    weights: int
    kind: str = "gru"

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Every vector the step reads or writes."""
        return (self.x, self.h, self.y)


@dataclass(frozen=True)
class LstmStep(_Tiled):
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

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Every vector the step reads or writes."""
        return (self.x, self.h, self.c, self.y, self.c_next)


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

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Every vector the step reads or writes."""
        return (*self.inputs, self.y)


@dataclass(frozen=True)
class SparseStep(VectorStep):
    """A matrix times vectors as straight code; `constants` are biases and weights."""

    activation: Literal["none", "relu", "tanh", "sigmoid"] = "none"
    tiles: tuple[sparse.Tile, ...] = ()


MatrixStep = DenseStep | GruStep | LstmStep
Step = MatrixStep | VectorStep


@dataclass(frozen=True)
class Layer:
    """A step as reports show it: its name, what begins at its label in assembly, what it is, and
    the constants that it alone reads."""

    name: str
    symbol: str
    operation: str
    shape: str
    weight_bytes: int


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
        """Floats of weights that each step reads."""
        starts = [s.weights for s in self.steps] + [self.weights.size]
        return tuple(
            sum(tile.constants for tile in s.tiles)
            if isinstance(s, SparseStep)
            else 0
            if isinstance(s, VectorStep)
            else min(n for n in starts if n > s.weights) - s.weights
            for s in self.steps
        )

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The steps as reports show them."""
        return tuple(
            Layer(
                name=f"layer {s.index}",
                symbol=f"{self.name}_layer_{s.index}",
                operation=s.operation.replace("_", " ") if isinstance(s, VectorStep) else s.kind,
                shape=describe(s),
                weight_bytes=4 * length,
            )
            for s, length in zip(self.steps, self.weights_by_step, strict=True)
        )


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


def plan(program: ir.Program, writings: Writings | None = None) -> Plan:
    """Lay `program` out for emission; `writings` names the layers that are sparse.

    Raises UserError for an operation that no kernel computes.
    """
    operations = _split_activations(program)
    memory = Memory(program, operations)
    weights: list[Singles] = []
    constants: list[Singles] = []
    curves: list[Curve] = []
    steps: list[Step] = []

    def offset(parts: list[Singles]) -> int:
        return sum(p.size for p in parts)

    def constant(values: Singles, y: str) -> int:
        if not np.isfinite(values).all():
            raise UserError(f"{program.name}: a constant of tensor {y} is not finite")
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
                uses(activation)
                kind = activation if activation in ("relu", "tanh", "sigmoid") else "none"
                inputs = tuple(at[x] for x, _ in sources)
                writing = (writings or {}).get(y)
                if writing:
                    bias, matrices = scaled_dense(op)
                    rows = sparse.tiles(matrices, bias.size, writing)
                    stream = constant(sparse.stream(bias, matrices, rows), y)
                    steps.append(
                        SparseStep(
                            k, writing, inputs, memory.result(y), (stream,),
                            activation=kind, tiles=rows,
                        )
                    )  # fmt: skip
                else:
                    cut = tiles(program.size(y))
                    weights.append(pack_dense(op, cut))
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
                where = tuple(constant(v, y) for v in (bias, *(s for _, s in terms)))
                steps.append(VectorStep(k, "linear", inputs, memory.result(y), where))
            case ir.Activate(activation, x, y, alpha):
                if activation not in VECTOR_ACTIVATIONS:
                    raise UserError(
                        f"{program.name}: no kernel computes {activation!r} (tensor {y})"
                    )
                uses(activation)
                source = at[x]
                steps.append(VectorStep(k, activation, (source,), memory.result(y), alpha=alpha))
            case ir.Binary(operation, a, b, y):
                inputs = (at[a], at[b])
                steps.append(VectorStep(k, operation, inputs, memory.result(y)))
            case ir.Clip(x, low, high, y):
                where = (constant(low, y), constant(high, y))
                steps.append(VectorStep(k, "clip", (at[x],), memory.result(y), where))
            case ir.Gather(sources, picks, y):
                # Sources that nothing is picked from drop out.
                read = sorted({source for source, _ in picks})
                inputs = tuple(at[sources[source]] for source in read)
                runs = runs_of(tuple((read.index(source), j) for source, j in picks))
                steps.append(VectorStep(k, "gather", inputs, memory.result(y), picks=runs))
            case ir.Softmax(x, y):
                steps.append(VectorStep(k, "softmax", (at[x],), memory.result(y)))
            case ir.ArgMax(x, y):
                steps.append(VectorStep(k, "argmax", (at[x],), memory.result(y)))
            case ir.LayerNorm(x, scale, bias, epsilon, y):
                where = (constant(scale, y), constant(bias, y))
                source = at[x]
                steps.append(
                    VectorStep(k, "layer_norm", (source,), memory.result(y), where, alpha=epsilon)
                )
            case ir.FakeQuantise(y=y):
                raise UserError(
                    f"{program.name}: it was quantised elsewhere, and no f32 kernel rounds as it "
                    f"does (tensor {y}); compile it with an integer format, such as w8a8 or w8a16"
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


def runs_of(picks: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int, int, int], ...]:
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


def describe(step: Step) -> str:
    """One line about a step, for comments and reports."""
    if isinstance(step, DenseStep | SparseStep):
        sources = step.sources if isinstance(step, DenseStep) else step.inputs
        inputs = " + ".join(str(s.size) for s in sources)
        after = "" if step.activation == "none" else f", {step.activation}"
        return f"dense {inputs} -> {step.y.size}{after}"
    if isinstance(step, VectorStep):
        if step.operation == "argmax":
            return f"argmax of {step.inputs[0].size}"
        return f"{step.operation.replace('_', ' ')} {step.y.size}"
    return f"{step.kind} {step.x.size} -> {step.y.size}"
