"""Program: the static, single-step intermediate representation (DESIGN §1).

Every run-time value is a flat vector with a number format; matrices are constants that live
inside the operation that uses them. Operations stand in execution order and each writes its
result once. A pass is a function `Program -> Program`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float32]

# sigmoid 1/(1+e^-x); relu max(x,0); elu x or alpha(e^x-1); leaky_relu x or alpha x (each for
# x >= 0, else); selu 1.0507(x or 1.67326(e^x-1)); silu x sigmoid(x); gelu x Phi(x), exact;
# softplus ln(1+e^x); mish x tanh(softplus(x)); hard_sigmoid min(max(x/6+1/2,0),1);
# hard_swish x hard_sigmoid(x); softsign x/(1+|x|); square x^2; reciprocal 1/x.
Activation = Literal[
    "tanh", "sigmoid", "relu", "elu", "selu", "silu", "gelu", "softplus", "mish",
    "leaky_relu", "hard_sigmoid", "hard_swish", "softsign", "exp", "abs", "square", "sqrt",
    "reciprocal", "sin", "cos",
]  # fmt: skip

BinaryOperation = Literal["mul", "div", "min", "max"]


@dataclass(frozen=True)
class Tensor:
    """A run-time vector: its element count and its number format (`f32`, later `i16q13`…)."""

    size: int
    format: str = "f32"


@dataclass(frozen=True)
class Dense:
    """y = bias + sum over sources of W @ x, rows of y in order, then `activation` if any
    (`alpha` as in Activate).

    Each source is (x, W [rows, len(x)]). Accumulation order, which numerics depend on: bias,
    then the sources in order, then columns in order.
    """

    sources: tuple[tuple[str, Matrix], ...]
    bias: Vector
    y: str
    activation: Activation | None = None
    alpha: float = 1.0


@dataclass(frozen=True)
class Gru:
    """Gated recurrent unit, gate rows in the order r, z, n, reset applied after the matrix.

    r = sigmoid(Wr x + Ur h + br), z likewise, n = tanh(Wn x + bn + r * (Un h + cn)),
    h' = n + z * (h - n). w_input [3H, X], w_hidden [3H, H], b_input [3H], b_hidden [3H].
    """

    x: str
    h: str
    h_next: str
    w_input: Matrix
    w_hidden: Matrix
    b_input: Vector
    b_hidden: Vector


@dataclass(frozen=True)
class Lstm:
    """Long short-term memory, gate rows in the order i, f, g, o.

    c' = sigmoid(f) * c + sigmoid(i) * tanh(g), h' = sigmoid(o) * tanh(c').
    w_input [4H, X], w_hidden [4H, H], bias [4H] (both of torch's biases summed).
    """

    x: str
    h: str
    c: str
    h_next: str
    c_next: str
    w_input: Matrix
    w_hidden: Matrix
    bias: Vector


@dataclass(frozen=True)
class Linear:
    """Element-wise y = bias + sum of scale * x, every x and scale of y's size, in order.

    Without terms it is a constant.
    """

    terms: tuple[tuple[str, Vector], ...]
    bias: Vector
    y: str


@dataclass(frozen=True)
class Activate:
    """Element-wise y = activation(x). `alpha` is the parameter of elu and leaky_relu."""

    activation: Activation
    x: str
    y: str
    alpha: float = 1.0


@dataclass(frozen=True)
class Binary:
    """Element-wise y = a (operation) b on two run-time vectors of one size."""

    operation: BinaryOperation
    a: str
    b: str
    y: str


@dataclass(frozen=True)
class Clip:
    """Element-wise y = min(max(x, low), high)."""

    x: str
    low: Vector
    high: Vector
    y: str


@dataclass(frozen=True)
class Gather:
    """y[i] = sources[k][j] for the i-th (k, j) of `picks`: slices, splits, concatenations and
    permutations are all this one operation."""

    sources: tuple[str, ...]
    picks: tuple[tuple[int, int], ...]
    y: str


@dataclass(frozen=True)
class Softmax:
    """y = exp(x - max x) / sum, over the whole vector."""

    x: str
    y: str


@dataclass(frozen=True)
class ArgMax:
    """y [1] = the index of the first largest element of x, as a number. Both zeros are equal; a
    NaN counts as larger than everything else."""

    x: str
    y: str


@dataclass(frozen=True)
class LayerNorm:
    """y = (x - mean) / sqrt(variance + epsilon) * scale + bias, over the whole vector."""

    x: str
    scale: Vector
    bias: Vector
    epsilon: float
    y: str


@dataclass(frozen=True)
class FakeQuantise:
    """Element-wise y = (q - zero_point) * scale with q = rint(x / scale) + zero_point, to nearest
    even, limited to low..high: what QuantizeLinear and DequantizeLinear make of x in ONNX."""

    x: str
    scale: float
    zero_point: int
    low: int
    high: int
    y: str


Operation = (
    Dense
    | Gru
    | Lstm
    | Linear
    | Activate
    | Binary
    | Clip
    | Gather
    | Softmax
    | ArgMax
    | LayerNorm
    | FakeQuantise
)


@dataclass(frozen=True)
class GivenRange:
    """The least and largest value of each element [size] of a tensor that integers of `bits`
    bits are to hold."""

    low: Vector
    high: Vector
    bits: int


@dataclass(frozen=True)
class GivenRows:
    """A matrix that came quantised: row i is whole numbers of `bits` bits, their sign included,
    times scale[i]."""

    scale: Vector
    bits: int


@dataclass(frozen=True)
class Given:
    """What a model that was quantised elsewhere says of its numbers, for a quantiser to keep:
    `ranges` by tensor, `rows` by (tensor that the operation writes first, tensor multiplied)."""

    ranges: Mapping[str, GivenRange] = field(default_factory=dict)
    rows: Mapping[tuple[str, str], GivenRows] = field(default_factory=dict)


@dataclass(frozen=True)
class Program:
    """A lowered policy: `tensors` by name, operations in execution order.

    `states` pairs each state input with the tensor that replaces it after the step. The action
    and every next state are different tensors, each written by an operation.
    """

    name: str
    observation: str
    action: str
    states: tuple[tuple[str, str], ...]
    operations: tuple[Operation, ...]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    given: Given = field(default_factory=Given)

    def size(self, tensor: str) -> int:
        """Number of elements of a tensor."""
        return self.tensors[tensor].size

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all matrix products in one step."""
        total = 0
        for op in self.operations:
            match op:
                case Dense():
                    total += sum(w.size for _, w in op.sources)
                case Gru() | Lstm():
                    total += op.w_input.size + op.w_hidden.size
        return total


def reads(op: Operation) -> tuple[str, ...]:
    """Names of the tensors an operation reads."""
    match op:
        case Dense():
            return tuple(x for x, _ in op.sources)
        case Linear():
            return tuple(x for x, _ in op.terms)
        case Gru():
            return (op.x, op.h)
        case Lstm():
            return (op.x, op.h, op.c)
        case Binary():
            return (op.a, op.b)
        case Gather():
            return op.sources
        case _:
            return (op.x,)


def writes(op: Operation) -> tuple[str, ...]:
    """Names of the tensors an operation writes."""
    match op:
        case Gru():
            return (op.h_next,)
        case Lstm():
            return (op.h_next, op.c_next)
        case _:
            return (op.y,)


def renamed(op: Operation, names: Mapping[str, str]) -> Operation:
    """The operation with every tensor name that `names` has replaced."""

    def new(name: str) -> str:
        return names.get(name, name)

    changes: dict[str, Any] = {
        entry: new(getattr(op, entry))
        for entry in ("x", "h", "c", "a", "b", "y", "h_next", "c_next")
        if hasattr(op, entry)
    }
    match op:
        case Dense():
            changes["sources"] = tuple((new(x), w) for x, w in op.sources)
        case Linear():
            changes["terms"] = tuple((new(x), scale) for x, scale in op.terms)
        case Gather():
            changes["sources"] = tuple(new(x) for x in op.sources)
    return replace(op, **changes)
