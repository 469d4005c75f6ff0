"""Rewriting: a float Program in the few operations that integers have.

Each pass keeps what the program computes. In the end there are dense layers, whose activation is
none, relu, tanh or sigmoid; activations of any other kind, each on a dense layer of its own;
gated units and LSTMs; gathers, limits, products of two vectors, and the largest element's index.
A dense layer writes the action, or limits on one of its own, and nothing reads the action.
Gathers write kept states.

A layer of integers costs the same whatever its matrix means, so an element-wise operation that no
matrix can absorb becomes a dense layer with a diagonal one.
"""

from collections import Counter
from dataclasses import replace
from typing import TypeGuard

import numpy as np

from edgerl.errors import UserError
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
    Matrix,
    Operation,
    Program,
    Softmax,
    Tensor,
    Vector,
    reads,
    renamed,
    writes,
)
from edgerl.toolchain.passes import dead_code
from edgerl.toolchain.quantisation.separation import separated_states

# The activations that a dense layer has by itself; all others have a table of their own.
PLAIN = (None, "relu", "tanh", "sigmoid")
# A diagonal matrix is written out.
_MOST_ELEMENTS = 2048


def prepared(program: Program) -> Program:
    """The program in the operations above, without what nothing needs.

    Raises UserError where an element-wise operation has more than 2048 elements.
    """
    program = separated_states(program)
    for rewrite in (_plain_choice, _without_pairs, _limits_first, _absorbed, _dense, _activated):
        program = dead_code(rewrite(program))
    return dead_code(_kept(_leaving(program)))


def layer_names(lowered: Program, rewritten: Program) -> dict[str, str]:
    """By the first tensor that a layer of the rewritten program writes, that of the layer of the
    lowered program that it was; what only rewriting made is not among them."""
    made = _producers(rewritten)
    found = {}
    for op in lowered.operations:
        if isinstance(op, Dense | Gru | Lstm):
            name = writes(op)[0]
            layer = made.get(name)
            if _is_copy(layer) and not _is_copy(op):
                layer = made.get(reads(layer)[0])
            if isinstance(layer, Activate):
                layer = made[layer.x]
            if layer is not None:
                found[writes(layer)[0]] = name
    return found


def inner_layers(program: Program) -> dict[str, Dense]:
    """The layers of a rewritten program that are part of what alone reads them: an activation
    apart, the choice of the largest, limits that leave."""
    counts, made = readers(program), _producers(program)
    found = {}
    for op in program.operations:
        leaving = isinstance(op, Clip) and op.y == program.action and counts[op.x] == 1
        if leaving or isinstance(op, Activate | ArgMax):
            (x,) = reads(op)
            layer = made.get(x)
            if isinstance(layer, Dense):
                found[x] = layer
    return found


def readers(program: Program) -> Counter[str]:
    """How often each tensor is read; once more for what leaves the step."""
    counts = Counter(name for op in program.operations for name in set(reads(op)))
    counts.update([program.action, *(after for _, after in program.states)])
    return counts


class _Writer:
    """A program's new operations, and names for what they make."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.tensors = dict(program.tensors)
        self.operations: list[Operation] = []

    def name(self, beside: str, size: int) -> str:
        """A new tensor."""
        number = 0
        while (fresh := f"{beside}_{number}") in self.tensors:
            number += 1
        self.tensors[fresh] = Tensor(size)
        return fresh

    def size(self, name: str) -> int:
        """Elements of a tensor, new ones among them."""
        return self.tensors[name].size

    def linear(self, beside: str, bias: float, *terms: tuple[float, str]) -> str:
        """bias + the sum of scale * x."""
        size = self.size(terms[0][1])
        y = self.name(beside, size)
        scaled = tuple((x, np.full(size, scale, np.float32)) for scale, x in terms)
        self.operations.append(Linear(scaled, np.full(size, bias, np.float32), y))
        return y

    def finished(self) -> Program:
        """The program rewritten."""
        return replace(self.program, operations=tuple(self.operations), tensors=dict(self.tensors))


def _producers(program: Program) -> dict[str, Operation]:
    return {name: op for op in program.operations for name in writes(op)}


def _plain_choice(program: Program) -> Program:
    """The largest of a softmax is the largest of its argument."""
    made = _producers(program)

    def before(x: str) -> str:
        operation = made.get(x)
        return operation.x if isinstance(operation, Softmax) else x

    return replace(
        program,
        operations=tuple(
            replace(op, x=before(op.x)) if isinstance(op, ArgMax) else op
            for op in program.operations
        ),
    )


def _without_pairs(program: Program) -> Program:
    """min(a, b) = a - relu(a - b), max(a, b) = a + relu(b - a), a / b = a * (1 / b)."""
    build = _Writer(program)
    for op in program.operations:
        match op:
            case Binary("mul"):
                build.operations.append(op)
            case Binary("div", a, b, y):
                inverse = build.name(y, build.size(b))
                build.operations += [
                    Activate("reciprocal", b, inverse),
                    Binary("mul", a, inverse, y),
                ]
            case Binary(kind, a, b, y):
                sign = 1.0 if kind == "min" else -1.0
                gap = build.linear(y, 0.0, (sign, a), (-sign, b))
                above = build.name(y, build.size(a))
                build.operations.append(Activate("relu", gap, above))
                whole = np.ones(build.size(a), np.float32)
                terms = ((a, whole), (above, np.float32(-sign) * whole))
                build.operations.append(Linear(terms, np.zeros_like(whole), y))
            case _:
                build.operations.append(op)
    return build.finished()


def _limits_first(program: Program) -> Program:
    """Limits on s x + b as limits on x, so that a matrix can absorb s and b."""
    build = _Writer(program)
    made = _producers(program)
    outside = {program.action, *(after for _, after in program.states)}
    for op in program.operations:
        source = made.get(op.x) if isinstance(op, Clip) else None
        if not (isinstance(op, Clip) and isinstance(source, Linear)) or op.y in outside:
            build.operations.append(op)
            continue
        scale = source.terms[0][1].astype(np.float64) if len(source.terms) == 1 else np.zeros(1)
        if not scale.all():
            build.operations.append(op)
            continue
        ends = [(end - source.bias.astype(np.float64)) / scale for end in (op.low, op.high)]
        low, high = np.minimum(*ends), np.maximum(*ends)
        x = source.terms[0][0]
        limited = build.name(op.y, build.size(x))
        build.operations.append(Clip(x, low.astype(np.float32), high.astype(np.float32), limited))
        build.operations.append(replace(source, terms=((limited, source.terms[0][1]),), y=op.y))
    return build.finished()


def _absorbed(program: Program) -> Program:
    """Matrices that read s x + b read x."""
    made = _producers(program)
    operations: list[Operation] = []
    for op in program.operations:
        match op:
            case Dense():
                while (folded := _folded(op, made)) is not op:
                    op = folded
            case Gru(x=x):
                found = _affine(made.get(x))
                if found is not None:
                    x, scale, bias = found
                    w = op.w_input.astype(np.float64)
                    op = replace(
                        op,
                        x=x,
                        w_input=(w * scale).astype(np.float32),
                        b_input=(op.b_input + w @ bias).astype(np.float32),
                    )
            case Lstm(x=x):
                found = _affine(made.get(x))
                if found is not None:
                    x, scale, bias = found
                    w = op.w_input.astype(np.float64)
                    op = replace(
                        op,
                        x=x,
                        w_input=(w * scale).astype(np.float32),
                        bias=(op.bias + w @ bias).astype(np.float32),
                    )
        operations.append(op)
    return replace(program, operations=tuple(operations))


def _affine(op: Operation | None) -> tuple[str, Matrix, Vector] | None:
    """x, scale and bias of an operation that is s x + b; None of any other."""
    if not (isinstance(op, Linear) and len(op.terms) == 1):
        return None
    ((x, scale),) = op.terms
    return x, scale.astype(np.float64), op.bias.astype(np.float64)


def _folded(dense: Dense, made: dict[str, Operation]) -> Dense:
    """The layer with one of its sources absorbed, or the layer itself."""
    for name, w in dense.sources:
        found = _affine(made.get(name))
        if found is None:
            continue
        x, scale, bias = found
        matrices = {other: v.astype(np.float64) for other, v in dense.sources if other != name}
        wide = w.astype(np.float64)
        matrices[x] = matrices.get(x, 0.0) + wide * scale
        return replace(
            dense,
            sources=tuple((other, v.astype(np.float32)) for other, v in matrices.items()),
            bias=(dense.bias + wide @ bias).astype(np.float32),
        )
    return dense


def _dense(program: Program) -> Program:
    """What is left of element-wise sums as layers with diagonal matrices."""
    operations: list[Operation] = []
    for op in program.operations:
        if isinstance(op, Linear):
            sources = tuple((x, _diagonal(scale, op.y)) for x, scale in op.terms)
            op = Dense(sources, op.bias, op.y)
        operations.append(op)
    return replace(program, operations=tuple(operations))


def _diagonal(scale: Vector, where: str) -> Matrix:
    if len(scale) > _MOST_ELEMENTS:
        raise UserError(
            f"{where}: an element-wise operation on {len(scale)} elements has no integer form "
            f"({_MOST_ELEMENTS} at most); compile this policy with format f32"
        )
    return np.diag(scale).astype(np.float32)


def _copy(x: str, y: str, size: int) -> Dense:
    """A layer that changes nothing."""
    return Dense(((x, _diagonal(np.ones(size, np.float32), y)),), np.zeros(size, np.float32), y)


def _is_copy(op: Operation | None) -> TypeGuard[Dense]:
    """Whether an operation is a layer that changes nothing."""
    if not isinstance(op, Dense) or len(op.sources) != 1 or op.activation is not None:
        return False
    ((_, w),) = op.sources
    return w.shape[0] == w.shape[1] and np.array_equal(w, np.eye(len(w))) and not op.bias.any()


def _activated(program: Program) -> Program:
    """Each activation in a dense layer, or by itself on one that nothing else reads."""
    build = _Writer(program)
    counts, made = readers(program), _producers(program)
    place: dict[str, int] = {}

    def layer(x: str, y: str) -> str:
        """A plain layer with the value of x that only its reader reads."""
        operation = made.get(x)
        private = isinstance(operation, Dense) and operation.activation is None
        if private and counts[x] == 1:
            return x
        copy = build.name(y, build.size(x))
        place[copy] = len(build.operations)
        build.operations.append(_copy(x, copy, build.size(x)))
        return copy

    for op in program.operations:
        match op:
            case Dense(y=y, activation=activation) if activation not in PLAIN:
                inner = build.name(y, build.size(y))
                build.operations.append(replace(op, y=inner, activation=None, alpha=1.0))
                assert activation is not None
                op = Activate(activation, inner, y, op.alpha)
            case Activate(activation, x, y) if activation in PLAIN:
                x = layer(x, y)
                dense = build.operations.pop(place[x])
                assert isinstance(dense, Dense)
                place = {name: k - (k > place[x]) for name, k in place.items()}
                op = replace(dense, y=y, activation=activation)
            case Activate(x=x, y=y):
                op = replace(op, x=layer(x, y))
            case ArgMax(x, y):
                op = replace(op, x=layer(x, y))
        place.update({name: len(build.operations) for name in writes(op)})
        build.operations.append(op)
    return build.finished()


def _leaving(program: Program) -> Program:
    """The action by itself: written by a dense layer, or by limits on a private one."""
    counts, made = readers(program), _producers(program)
    action, last = program.action, made[program.action]
    inner = made.get(last.x) if isinstance(last, Clip) and counts[last.x] == 1 else last
    # What has no integer form keeps its name, by which it is refused.
    if isinstance(last, Softmax | LayerNorm) or (counts[action] == 1 and isinstance(inner, Dense)):
        return program
    build = _Writer(program)
    name = build.name(action, build.size(action))
    build.operations = [renamed(op, {action: name}) for op in program.operations]
    build.operations.append(_copy(name, action, build.size(action)))
    return build.finished()


def _kept(program: Program) -> Program:
    """Limits and constants that write a state with a gather after them."""
    build = _Writer(program)
    after = {name for _, name in program.states}
    for op in program.operations:
        constant = isinstance(op, Dense) and not op.sources
        if (isinstance(op, Clip) or constant) and writes(op)[0] in after:
            (y,) = writes(op)
            source = build.name(y, build.size(y))
            build.operations.append(renamed(op, {y: source}))
            op = Gather((source,), tuple((0, k) for k in range(build.size(y))), y)
        build.operations.append(op)
    return build.finished()
