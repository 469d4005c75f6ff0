"""Accuracy: how far a computed activation may be from the exact one at the same argument.

For the emitted code it follows from the stated error of the tables (`emit/tables.py`) and the
roundings around them; u is the unit roundoff. For onnxruntime the figures are data: about twice
the largest error measured over all float32 arguments, since other machines run other kernels.
`benchmarks/activations.py` holds both against every float32 there is.
"""

from dataclasses import dataclass

import numpy as np

from edgerl.errors import UserError
from edgerl.toolchain.bounds.enclosure import UNIT, Doubles
from edgerl.toolchain.emit.tables import table
from edgerl.toolchain.ir import Activation

# Relative error of the emitted exponential, and the argument beyond which it no longer grows.
EXPONENTIAL_ERROR = 3.2e-7
EXPONENTIAL_LIMIT = 88.0
# What it answers below its range instead of less.
_LEAST_EXPONENTIAL = 1.7e-38


@dataclass(frozen=True)
class Accuracy:
    """|computed(x) - f(x)| <= absolute + argument * |x| + value * |f(x)| for every float32 x
    whose result neither side overflows at."""

    absolute: float = 0.0
    argument: float = 0.0
    value: float = 0.0

    def at(self, x: Doubles, value: Doubles) -> Doubles:
        """The bound for arguments and results of at most these sizes."""
        return self.absolute + self.argument * np.abs(x) + self.value * np.abs(value)


def emitted(activation: Activation, alpha: float = 1.0) -> Accuracy:
    """The accuracy of the code that is emitted for an activation, fused or not.

    Raises UserError for an activation that no kernel computes.
    """
    u = UNIT * (1.0 + 1e-6)
    match activation:
        case "relu" | "abs":
            return Accuracy()
        case "tanh":
            return Accuracy(absolute=table("tanh").error)
        case "sigmoid":  # 1/2 + 1/2 tanh: one sum of at most 1
            return Accuracy(absolute=0.5 * table("tanh").error + u)
        case "silu":
            return Accuracy(argument=0.5 * table("tanh").error + u, value=u)
        case "gelu":
            return Accuracy(argument=table("phi").error * (1.0 + u), value=u)
        case "mish":
            return Accuracy(argument=table("mish").error * (1.0 + u), value=u)
        case "elu":  # alpha as a literal, its product, the sum
            return Accuracy(absolute=abs(alpha) * table("elu").error * (1.0 + 3 * u), value=3 * u)
        case "selu":  # two literals, two products, the sum
            return Accuracy(absolute=1.7581 * table("elu").error * (1.0 + 5 * u), value=5 * u)
        case "softplus":
            return Accuracy(absolute=table("softplus").error * (1.0 + u), value=u)
        case "leaky_relu":  # the literal, the product
            return Accuracy(value=2 * u)
        case "hard_sigmoid":  # the literal and the product of at most 1/2, the sum of at most 1
            return Accuracy(absolute=2 * u)
        case "hard_swish":
            return Accuracy(argument=2 * u, value=u)
        case "softsign":
            return Accuracy(value=2 * u)
        case "exp":
            return Accuracy(absolute=_LEAST_EXPONENTIAL, value=EXPONENTIAL_ERROR)
        case "square" | "reciprocal":
            return Accuracy(value=u)
        case _:
            raise UserError(f"no kernel computes {activation!r}; rewrite the graph without it")


_ONNXRUNTIME: dict[Activation, Accuracy] = {
    "tanh": Accuracy(absolute=6.6e-7),
    "sigmoid": Accuracy(absolute=3.6e-7),
    "relu": Accuracy(),
    "elu": Accuracy(absolute=1.3e-7, value=1.3e-7),
    "leaky_relu": Accuracy(value=1.3e-7),
    "selu": Accuracy(absolute=2.4e-7, value=2.4e-7),
    "silu": Accuracy(argument=3e-7, value=1.2e-7),
    "gelu": Accuracy(argument=1.8e-7, value=1.2e-7),
    "mish": Accuracy(argument=4.5e-7, value=2e-7),
    "softplus": Accuracy(absolute=2e-7, value=2e-7),
    "hard_sigmoid": Accuracy(absolute=1.3e-7),
    "hard_swish": Accuracy(argument=1.2e-7, value=1.2e-7),
    "softsign": Accuracy(value=3e-7),
    "exp": Accuracy(absolute=1e-37, value=1.6e-7),
    "abs": Accuracy(),
    "square": Accuracy(value=1.3e-7),
    "sqrt": Accuracy(value=1.3e-7),
    "reciprocal": Accuracy(value=1.3e-7),
}


# Its recurrent operators have functions of their own.
_ONNXRUNTIME_CELLS: dict[Activation, Accuracy] = {
    "tanh": Accuracy(absolute=1.3e-6),
    "sigmoid": Accuracy(absolute=3.6e-7),
}


def onnxruntime(activation: Activation, alpha: float = 1.0) -> Accuracy:
    """The accuracy of onnxruntime's operator, or of the operators it is written out with.

    Raises UserError for an activation that it has not been measured for.
    """
    found = _ONNXRUNTIME.get(activation)
    if found is None:
        raise UserError(f"no stated accuracy of {activation!r} in onnxruntime")
    return Accuracy(found.absolute * max(1.0, abs(alpha)), found.argument, found.value)


def onnxruntime_cell(activation: Activation) -> Accuracy:
    """The accuracy of tanh and sigmoid inside onnxruntime's GRU and LSTM, or written out."""
    return _ONNXRUNTIME_CELLS[activation]
