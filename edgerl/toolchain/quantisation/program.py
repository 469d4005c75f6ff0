"""FixedProgram: exactly which integers an emitted program computes.

Three kinds of vectors exist at run time. An int16 vector stands for (integer + offset) * lsb,
element by element; `offset` is 1/2 where what made it rounds down, which its readers' biases
make up for, else 0. An int32 vector carries what leaves the program. A recurrent state is int32
of 30 bits, read by matrices as its upper bits, the int16 that `state >> 14` gives: a hidden state
is Q29 and Q15, an LSTM's cell has an exponent of its own.

Everything is two's complement, `>>` is an arithmetic shift (it rounds down), and rounding
constants live in the biases. `interpretation.run` is the definition; the operations below say
the same in words. Tensors keep the names of the Program that the integers came from.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgerl.toolchain.quantisation.table import Table

Doubles = npt.NDArray[np.float64]
Words = npt.NDArray[np.int32]
Halves = npt.NDArray[np.int16]

# Of a hidden state: the fraction that it has, and that of its packed form.
STATE_FRACTION = 29
PACKED_FRACTION = 15
PACK_SHIFT = STATE_FRACTION - PACKED_FRACTION

# What becomes of a row's int32 result, and the width that it has then.
#   signed     int16  saturated to [-32768, 32767]
#   relu       int16  saturated to [0, 32767]
#   tanh       int16  table(result) >> 15, Q15
#   sigmoid    int16  (table(result) + 2^30) >> 16, Q15
#   wide       int32  as it is
#   wide_relu  int32  the larger of it and 0
#   wide_tanh  int32  table(result), Q30
#   wide_sigmoid  int32  table(result) + 2^30, Q31
Form = Literal[
    "signed", "relu", "tanh", "sigmoid", "wide", "wide_relu", "wide_tanh", "wide_sigmoid"
]


@dataclass(frozen=True)
class Halfword:
    """How an int16 vector is read: (integer + offset [size]) * lsb [size]."""

    lsb: Doubles
    offset: Doubles

    @property
    def size(self) -> int:
        """Number of elements."""
        return len(self.lsb)


@dataclass(frozen=True)
class Product:
    """One stretch of an accumulation: acc += weights [rows, len(x)] @ x, then acc >>= shift."""

    x: str
    weights: Halves
    shift: int


@dataclass(frozen=True)
class Rows:
    """An accumulation in int32: acc = bias [rows], then each product in order.

    No weight is -32768. Where a stretch is proved, every one of its partial sums fits in int32
    in any order of its columns, so a kernel may take them in whichever suits it.
    """

    bias: Words
    products: tuple[Product, ...]

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(self.bias)


@dataclass(frozen=True)
class FixedInput:
    """y = the float observation as int16: x * 2^exponent rounded towards zero, saturated to
    [-32768, 32767]; NaN gives 0. One exponent for each element, equal within a signal."""

    x: str
    exponents: tuple[int, ...]
    y: str


@dataclass(frozen=True)
class FixedDense:
    """y = form(rows)."""

    rows: Rows
    form: Form
    y: str


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

    `factor` takes the cell's units to the table's.
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


@dataclass(frozen=True)
class FixedGather:
    """y[i] = sources[k][j] for the i-th (k, j) of `picks`; int16 vectors only."""

    sources: tuple[str, ...]
    picks: tuple[tuple[int, int], ...]
    y: str


@dataclass(frozen=True)
class FixedOutput:
    """y = the int32 vector x as float32 (to nearest, ties to even) times 2^-exponent (exact)."""

    x: str
    exponent: int
    y: str


FixedOperation = FixedInput | FixedDense | FixedGru | FixedLstm | FixedGather | FixedOutput


@dataclass(frozen=True)
class FixedProgram:
    """A quantised program: float32 observation in, float32 action out, integers between.

    `halfwords` has every int16 vector, packed states among them; `states` pairs each state
    with the one that replaces it, as in `ir.Program`. `table` is shared by all activations.
    """

    name: str
    number_format: str
    observation: str
    action: str
    states: tuple[tuple[str, str], ...]
    operations: tuple[FixedOperation, ...]
    halfwords: dict[str, Halfword]
    table: Table


def gates(unit: FixedGru | FixedLstm) -> tuple[tuple[str, Rows], ...]:
    """The accumulations of a recurrent unit in order, by name."""
    match unit:
        case FixedGru():
            names = ("reset", "update", "hidden", "candidate")
        case FixedLstm():
            names = ("input", "forget", "new", "output")
    return tuple((name, getattr(unit, name)) for name in names)
