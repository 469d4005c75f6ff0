"""One node of the graph with its inputs known: constants as arrays, the rest as forms."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgerl.errors import UserError
from edgerl.policies.names import shown
from edgerl.toolchain.lowering.forms import Doubles, Form, constant

LONGEST_VECTOR = 1 << 16

# Attributes that opset 13 made the second input.
_BECAME_INPUTS = {"ReduceSum": "axes", "Split": "split", "Squeeze": "axes", "Unsqueeze": "axes"}

Constant = npt.NDArray[Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Grid:
    """What quantised numbers stand for: (integer - zero_point) * scale, low <= integer <= high."""

    scale: float
    zero_point: int
    low: int
    high: int


@dataclass(frozen=True)
class Value:
    """A run-time tensor: its elements in row-major order, and its static shape. `integer` for
    integers, which may be moved about, not computed with: indices before they are cast to
    numbers, and quantised numbers, whose `form` is what they stand for on their `grid`."""

    form: Form
    shape: Shape
    integer: bool = False
    grid: Grid | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.form.size


Operand = Constant | Value


@dataclass(frozen=True)
class Node:
    """A node of the graph, its inputs resolved (None where an optional one is absent)."""

    proto: onnx.NodeProto
    inputs: tuple[Operand | None, ...]
    attributes: dict[str, Any]
    opset: int

    @property
    def operator(self) -> str:
        """The ONNX operator's name."""
        return str(self.proto.op_type)

    @property
    def label(self) -> str:
        """The node for a message: its name, its operator, what it writes."""
        return label(self.proto)

    def fail(self, why: str) -> UserError:
        """The error that says what is wrong with this node."""
        return UserError(f"{self.label}: {why}")

    def has(self, k: int) -> bool:
        """Whether input k is given."""
        return k < len(self.inputs) and self.inputs[k] is not None

    def input(self, k: int) -> Operand:
        """Input k, which must be given."""
        operand = self.inputs[k] if k < len(self.inputs) else None
        if operand is None:
            raise self.fail(f"input {k} is missing")
        return operand

    def constant(self, k: int) -> Constant:
        """Input k, which must be known before run time."""
        operand = self.input(k)
        if isinstance(operand, Value):
            raise self.fail(f"input {shown(self.proto.input[k])} must be a constant")
        return operand

    def numbers(self, k: int) -> Doubles:
        """Input k as constants that single precision holds exactly."""
        return self.exact(self.constant(k), self.proto.input[k])

    def exact(self, values: Constant, name: str) -> Doubles:
        """`values` in double precision; UserError if single precision would change them."""
        if values.dtype.kind not in "fiu":
            raise self.fail(f"tensor {shown(name)} holds {values.dtype.name}, not numbers")
        if not np.isfinite(values).all():
            raise self.fail(f"tensor {shown(name)} holds values that are not finite")
        wide = values.astype(np.float64)
        if values.dtype not in (np.float32, np.float16):
            with np.errstate(over="ignore"):
                single = values.astype(np.float32)
            if not np.array_equal(single.astype(np.float64), wide):
                raise self.fail(
                    f"tensor {shown(name)} is {values.dtype.name} and does not fit float32 "
                    "exactly; export the model in float32"
                )
        return wide

    def value(self, k: int) -> Value:
        """Input k as a run-time tensor; a constant becomes one that never changes."""
        operand = self.input(k)
        if isinstance(operand, Value):
            return operand
        numbers = self.numbers(k)
        self.check_size(numbers.size)
        return Value(constant(numbers.reshape(-1)), numbers.shape)

    def scalar(self, k: int, default: float) -> float:
        """Input k as one number, which may be infinite; `default` if it is not given."""
        if not self.has(k):
            return default
        values = self.constant(k)
        if values.size != 1 or values.dtype.kind not in "fiu" or np.isnan(values).any():
            raise self.fail(f"input {shown(self.proto.input[k])} must be one number")
        return float(values.reshape(()))

    def number(self, name: str, default: float) -> float:
        """Attribute `name` as a finite number."""
        value = self.attributes.get(name, default)
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise self.fail(f"attribute {name} is no finite number")
        return float(value)

    def integer(self, name: str, default: int) -> int:
        """Attribute `name` as a whole number."""
        value = self.attributes.get(name, default)
        if not isinstance(value, int):
            raise self.fail(f"attribute {name} is no whole number")
        return value

    def check_size(self, size: int) -> None:
        """UserError if a run-time tensor of `size` elements is none that fits a controller."""
        if not 0 < size <= LONGEST_VECTOR:
            raise self.fail(
                f"writes a tensor of {size} elements; 1 to {LONGEST_VECTOR} are possible"
            )


def resolved(proto: onnx.NodeProto, inputs: tuple[Operand | None, ...], opset: int) -> Node:
    """A node with its inputs; one from before opset 13 in the form it has had since."""
    values = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
    for name, value in values.items():
        if isinstance(value, bytes):
            values[name] = value.decode("utf-8", "replace")
    moved = _BECAME_INPUTS.get(proto.op_type)
    if opset < 13 and moved in values and len(inputs) == 1:
        inputs = (*inputs, np.array(values.pop(moved), dtype=np.int64))
    return Node(proto, inputs, values, opset)


def label(proto: onnx.NodeProto) -> str:
    """A node for a message: its operator, its name, what it writes."""
    name = f"node {shown(proto.name)}" if proto.name else "an unnamed node"
    written = f", tensor {shown(proto.output[0])}" if proto.output else ""
    return f"operator {shown(proto.op_type)[1:-1]} ({name}{written})"
