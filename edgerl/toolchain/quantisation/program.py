"""FixedProgram: exactly which integers an emitted program computes.

Three kinds of vectors exist at run time. An int16 vector stands for (integer + offset) * lsb,
element by element; `offset` is 1/2 where what made it rounds down, which its readers' biases
make up for, else 0. It uses `bits` of its 16, fewer where that lets the weights that multiply it
use more of theirs. An int32 vector carries what leaves the program. A recurrent state is int32
of 30 bits, read by matrices as its upper bits, the int16 that `state >> (30 - bits)` gives: a
hidden state is Q29 and Q15, an LSTM's cell has an exponent of its own.

That is the arithmetic of 16 bits. A program of another `width` has int32 or int8 vectors where
int16 is said, of 32 or 8 bits; no shift is to the left, so that 32 bits have states and what the
table gives whole. What else is different says so (`arithmetic.py`).

Everything is two's complement, `>>` is an arithmetic shift (it rounds down), and rounding
constants live in the biases. `interpretation.run` is the definition; the operations below say
the same in words. Tensors keep the names of the Program that the integers came from.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgerl.toolchain.quantisation.arithmetic import Weights, Width
from edgerl.toolchain.quantisation.cubic import CubicTable
from edgerl.toolchain.quantisation.table import Table

Doubles = npt.NDArray[np.float64]
Words = npt.NDArray[np.int32]
Halves = npt.NDArray[np.int16]

# Of a hidden state, the fraction that it has.
STATE_FRACTION = 29
# Of an int16 vector, its bits where nothing asks for fewer.
WIDTH = 16

# What becomes of a row's int32 result, and the width that it has then. The int16 ones use as many
# bits as their vector does, their sign included; 16 gives the numbers in brackets.
#   signed     int16  saturated to [-2^(bits - 1), 2^(bits - 1) - 1]
#   relu       int16  saturated to [0, 2^(bits - 1) - 1]
#   tanh       int16  table(result) >> (31 - bits), Q(bits - 1)               [>> 15, Q15]
#   sigmoid    int16  (table(result) + 2^30) >> (32 - bits), Q(bits - 1)      [>> 16, Q15]
#   curve      int16  curve(result) >> (32 - bits), in units of its own          [>> 16]
#   wide       int32  as it is
#   wide_relu  int32  the larger of it and 0
#   wide_tanh  int32  table(result), Q30
#   wide_sigmoid  int32  table(result) + 2^30, Q31
Form = Literal[
    "signed", "relu", "tanh", "sigmoid", "curve", "wide", "wide_relu", "wide_tanh", "wide_sigmoid"
]


@dataclass(frozen=True)
class Halfword:
    """How an int16 vector is read: (integer + offset [size]) * lsb [size]; its integers are
    within [-2^(bits - 1), 2^(bits - 1) - 1]."""

    lsb: Doubles
    offset: Doubles
    bits: int = WIDTH

    @property
    def size(self) -> int:
        """Number of elements."""
        return len(self.lsb)


# Bits that a weight takes in flash.
Stored = Literal[4, 8, 16, 32]


@dataclass(frozen=True)
class Product:
    """One stretch of an accumulation: acc += weights [rows, len(x)] @ x, then acc >>= shift.

    `weights` are the integers that multiply, whatever they take in flash. Where they are stored
    in 8 or 4 bits and multiply int16, a word has those of 4 or 8 columns of a row, and what
    multiplies are its halves, of the word as it is and shifted left by `stored` bits again and
    again: the weight in the upper bits of a half, and below it neighbours, known when it was
    chosen (`storage.py`).

    Each int32 weight times its int32 element counts by its upper half, to nearest:
    acc += (w * x + 2^31) >> 32.
    """

    x: str
    weights: Weights
    shift: int
    stored: Stored = 16

    @property
    def dropped(self) -> int:
        """Lower bits that each single product loses, to nearest."""
        return 32 if self.stored == 32 else 0


@dataclass(frozen=True)
class Rows:
    """An accumulation in int32: acc = bias [rows], then each product in order. Where rows have a
    lift, then acc = acc << lift, acc saturated before to [-2^(31 - lift), 2^(31 - lift) - 1].
    Where rows have multipliers [rows], in the end acc = (acc * multiplier + 2^31) >> 32, to
    nearest.

    No weight is -32768 (nor -2^31, nor -128). Where a stretch is proved, every one of its partial
    sums fits in int32 in any order of its columns, so a kernel may take them in whichever suits it.
    """

    bias: Words
    products: tuple[Product, ...]
    multipliers: Words | None = None
    lift: int = 0

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(self.bias)


@dataclass(frozen=True)
class FixedInput:
    """y = the float observation as int16: x * 2^exponent rounded towards zero, saturated to
    y's bits, [-32768, 32767] at 16; NaN gives 0. One exponent for each element, equal within a
    signal.

    Where it has a guard, x is converted so to bits + guard bits with exponent + guard, and then
    y = (that + 2^(guard - 1)) >> guard, to nearest, saturated to y's bits.
    """

    x: str
    exponents: tuple[int, ...]
    y: str
    guard: int = 0


@dataclass(frozen=True)
class FixedDense:
    """y = form(rows). With form `curve`, `curve` names the program's table that it reads as all
    forms read theirs: the result saturated to the argument's bits.

    An element-wise operation is one with a diagonal matrix for each operand.
    """

    rows: Rows
    form: Form
    y: str
    curve: str | None = None


@dataclass(frozen=True)
class FixedGru:
    """A gated recurrent unit on a Q29 state, sigmoid(v) taken as 1/2 + tanh(v/2)/2.

    Rows `update` are those of the gate negated, so that its table gives 1 - z. With t = table():

        t_r  = t(reset)                            Q30, r = (t_r / 2^30 + 1) / 2
        g    = t(update) + 2^30                    Q31, the share of the new value
        gh   = hidden                              twice the scale of `candidate`
        acc  = candidate.bias + (gh >> 2)
        acc  = acc + ((t_r * gh) >> 32)            exact 64-bit product, rounded down
        n    = t(acc, then candidate's products)   Q30
        d    = n - 2 h
        h'   = h + ((d * g + 2^31) >> 32)          to nearest; Q29

    A step moves h towards n/2 and never beyond, whatever the inputs, so |h| stays below 2^29. It
    moves unless |d| * g < 2^31, which is |n - h| < 2^-30 / (1 - z) in units of the state.
    """

    x: str
    h: str
    h_next: str
    reset: Rows
    update: Rows
    hidden: Rows
    candidate: Rows


@dataclass(frozen=True)
class FixedLstm:
    """A long short-term memory, sigmoid(v) taken as 1/2 + tanh(v/2)/2. With t = table():

        i, f, o = t(input) + 2^30, t(forget) + 2^30, t(output) + 2^30        Q31
        g  = t(new)                                                          Q30
        p  = (2 c * f + 2^31) >> 32               exact 64-bit products, to nearest
        q  = (i * g + 2^31) >> 32                 Q29
        c' = p + (q >> shift)                     saturated to [-2^29, 2^29 - 1], Q(29 - shift)
        h' = (o * t((c' * factor + 2^31) >> 32)) >> 32                       Q29

    `factor` takes the cell's units to the table's. Where there is a lift, the table's argument is
    what it is of rows that have one.
    """

    x: str
    h: str
    c: str
    h_next: str
    c_next: str
    input: Rows
    forget: Rows
    new: Rows
    output: Rows
    shift: int
    factor: int
    lift: int = 0


@dataclass(frozen=True)
class FixedGather:
    """y[i] = sources[k][j] for the i-th (k, j) of `picks`; int16 vectors only. y may be a kept
    state."""

    sources: tuple[str, ...]
    picks: tuple[tuple[int, int], ...]
    y: str


@dataclass(frozen=True)
class FixedClip:
    """y[i] = min(max(x[i], low[i]), high[i]), of an int16 vector read as before or an int32 one."""

    x: str
    low: Words
    high: Words
    y: str


@dataclass(frozen=True)
class FixedMultiply:
    """y[i] = (a[i] * b[i] + 2^(shift - 1)) >> shift, the product in int32, saturated to int16;
    with shift 0 the product alone. int16 vectors; what operands lost to rounding down stays lost.
    """

    a: str
    b: str
    shift: int
    y: str


@dataclass(frozen=True)
class FixedArgMax:
    """y [1] = the index of the first largest element of the int32 vector x, an int16 of lsb 1."""

    x: str
    y: str


@dataclass(frozen=True)
class FixedOutput:
    """y = the int32 vector x as float32 (to nearest, ties to even) times 2^-exponent (exact)."""

    x: str
    exponent: int
    y: str


FixedOperation = (
    FixedInput
    | FixedDense
    | FixedGru
    | FixedLstm
    | FixedGather
    | FixedClip
    | FixedMultiply
    | FixedArgMax
    | FixedOutput
)


@dataclass(frozen=True)
class FixedProgram:
    """A quantised program: float32 observation in, float32 action out, integers between.

    `halfwords` has every int16 vector, packed states among them; `states` pairs each state
    with the one that replaces it, as in `ir.Program`. `table` is that of every tanh and sigmoid,
    `curves` has those of all other activations by name.

    A state that a gated unit or an LSTM writes is int32 as above. Any other is kept: an int16
    vector, whole, which a gather writes.
    """

    name: str
    number_format: str
    observation: str
    action: str
    states: tuple[tuple[str, str], ...]
    operations: tuple[FixedOperation, ...]
    halfwords: dict[str, Halfword]
    table: Table | CubicTable
    width: Width = 16
    curves: Mapping[str, Table] = field(default_factory=dict)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all matrix products in one step."""
        rows: list[Rows] = []
        for operation in self.operations:
            match operation:
                case FixedDense():
                    rows.append(operation.rows)
                case FixedGru() | FixedLstm():
                    rows += [each for _, each in gates(operation)]
        return sum(product.weights.size for each in rows for product in each.products)

    @property
    def recurrent(self) -> frozenset[str]:
        """The states, before and after, that are int32; all others are kept."""
        names: set[str] = set()
        for operation in self.operations:
            match operation:
                case FixedGru(h=h, h_next=h_next):
                    names |= {h, h_next}
                case FixedLstm(h=h, c=c, h_next=h_next, c_next=c_next):
                    names |= {h, c, h_next, c_next}
        return frozenset(names)


def gates(unit: FixedGru | FixedLstm) -> tuple[tuple[str, Rows], ...]:
    """The accumulations of a recurrent unit in order, by name."""
    match unit:
        case FixedGru():
            names = ("reset", "update", "hidden", "candidate")
        case FixedLstm():
            names = ("input", "forget", "new", "output")
    return tuple((name, getattr(unit, name)) for name in names)
