"""Symbolic execution of torch programs: tensors that are known, or parts of a graph.

A tensor is a view of a storage, as in torch: slices, reshapes and transpositions only say
which elements of the storage they show, and writing to a view writes to what it shows. In the
graph every storage is one row [1, n], whatever shape torch gave it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgerl.policies.graph import GraphBuilder

# The longest row that a controller's step may compute, and the largest table of constants.
LONGEST_ROW = 1 << 16
LARGEST_CONSTANT = 1 << 23
# What one program may ask for altogether, in elements and in operations.
MOST_ELEMENTS = 1 << 27
MOST_OPERATIONS = 50_000
# What an expression, or an item of a list, costs in elements: about as much time.
EXPRESSION = 128
MOST_AXES = 8

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]
Shape = tuple[int, ...]
Kind = Literal["float", "int", "bool"]


Move = Callable[[Indices], Indices]


def at(k: int) -> Move:
    """The k-th along the first axis, for `Tracer.view`."""
    return lambda index: index[k]


def between(start: int, stop: int, axis: int = 0) -> Move:
    """Those from `start` to before `stop` along an axis, for `Tracer.view`."""
    return lambda index: np.take(index, range(start, stop), axis=axis)


class Refused(Exception):
    """An operation cannot be part of a policy, or its operands do not fit. The message says
    why; `at` says where, once somebody knows."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.at = ""


class Mismatch(Refused):
    """A size does not fit: it is `excess` more than what it must be."""

    def __init__(self, why: str, got: int, wanted: int) -> None:
        super().__init__(why)
        self.excess = got - wanted


@dataclass(eq=False)
class Storage:
    """Memory that tensors show: its numbers [n] while they are known, else the name of the
    graph's row [1, n]. Writing replaces `content` and sets `written`."""

    content: str | Array
    size: int
    kind: Kind
    written: bool = False


@dataclass(frozen=True, eq=False)
class Tensor:
    """A view: element k of the tensor is element index[k] of the storage; None where it shows
    all of the storage in order."""

    storage: Storage
    shape: Shape
    index: Indices | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def kind(self) -> Kind:
        """What its elements are."""
        return self.storage.kind

    @property
    def known(self) -> bool:
        """Whether its numbers are known before run time."""
        return not isinstance(self.storage.content, str)

    @property
    def values(self) -> Array:
        """Its numbers. Refused when they are only known at run time."""
        content = self.storage.content
        if isinstance(content, str):
            raise Refused("needs a value that is only known at run time")
        if self.index is None:
            return content.reshape(self.shape)
        return content[self.index]


def shown_part(storage: Storage, index: Indices) -> Tensor:
    """The view that shows these elements of a storage, in the shape of `index`."""
    whole = index.size == storage.size and np.array_equal(
        index.reshape(-1), np.arange(storage.size)
    )
    return Tensor(storage, index.shape, None if whole else index)


def kind_of(array: Array) -> Kind:
    """What an array's elements are; Refused for complex numbers and the like."""
    match array.dtype.kind:
        case "f":
            return "float"
        case "b":
            return "bool"
        case "i" | "u":
            return "int"
    raise Refused(f"holds numbers of type {array.dtype}")


class Budget:
    """What executions of a program may ask for altogether, `times` what one of them may."""

    def __init__(self, times: int = 1) -> None:
        self._elements = times * MOST_ELEMENTS
        self._operations = times * MOST_OPERATIONS

    def spend(self, elements: int, operations: int) -> None:
        """Count what a program asks for; Refused beyond the bounds."""
        self._elements -= elements
        self._operations -= operations
        if self._elements < 0 or self._operations < 0:
            raise Refused("asks for more memory or more steps than any controller needs")


class Tracer:
    """A graph that grows as a program is executed, and the bounds on that program."""

    def __init__(self, budget: Budget | None = None) -> None:
        self.graph = GraphBuilder()
        self._budget = budget or Budget()

    def spend(self, elements: int, operations: int = 0) -> None:
        """Count what the program asks for; Refused beyond the bounds."""
        self._budget.spend(elements, operations)

    def check(self, shape: Shape, most: int = LARGEST_CONSTANT) -> int:
        """Number of elements of a shape; Refused when it cannot be."""
        size = math.prod(shape)
        if len(shape) > MOST_AXES or min(shape, default=1) < 0 or size > most:
            sizes = ", ".join(f"{n:,}" if abs(n) < 1 << 64 else "…" for n in shape[:MOST_AXES])
            raise Refused(f"makes a tensor of sizes [{sizes}]")
        self.spend(size)
        return size

    def input(self, name: str, shape: Shape) -> Tensor:
        """An input of the graph."""
        size = self.check(shape, LONGEST_ROW)
        return Tensor(Storage(self.graph.input(name, size), size, "float"), shape)

    def constant(self, values: npt.ArrayLike) -> Tensor:
        """A tensor of known numbers, in memory of its own."""
        array = np.asarray(values)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        size = self.check(array.shape)
        return Tensor(Storage(array.reshape(-1), size, kind_of(array)), array.shape)

    def full(self, shape: Sequence[int], value: float | int | bool) -> Tensor:
        """A tensor of one known number."""
        self.check(tuple(shape))
        return self.constant(np.full(tuple(shape), value))

    def computed(self, row: str, shape: Shape, kind: Kind = "float") -> Tensor:
        """The tensor in a row of the graph that has just been made."""
        return Tensor(Storage(row, self.check(shape, LONGEST_ROW), kind), shape)

    def row(self, x: Tensor) -> str:
        """The graph's row [1, n] with the elements of a tensor in order."""
        content = x.storage.content
        if not isinstance(content, str):
            self.check(x.shape)
            return self.graph.constant(x.values.reshape(1, -1))
        if x.index is None:
            return content
        index = x.index.reshape(-1)
        if index.size and np.array_equal(index, np.arange(index[0], index[0] + index.size)):
            if index.size == x.storage.size:
                return content
            return self.graph.cut(content, int(index[0]), int(index[-1]) + 1)
        return self.graph.add("Gather", [content, self.graph.integers(index.tolist())], axis=1)

    def view(
        self, x: Tensor, move: Callable[[Indices], Indices], size: int | None = None
    ) -> Tensor:
        """What numpy's `move` makes of a tensor, as a view of the same storage. `size` bounds
        the result where it may be larger than the tensor."""
        self.spend(max(x.size, size or 0))
        if size is not None:
            self.check((size,), LONGEST_ROW if not x.known else LARGEST_CONSTANT)
        moved = move(self._index(x))
        self.check(moved.shape)
        return shown_part(x.storage, moved)

    def copy(self, x: Tensor) -> Tensor:
        """The same numbers in memory of their own."""
        if x.known:
            return self.constant(x.values.copy())
        return self.computed(self.row(x), x.shape, x.kind)

    def broadcast(self, x: Tensor, shape: Shape) -> Tensor:
        """A tensor repeated to a shape; Mismatch where it does not fit in."""
        if x.shape == shape:
            return x
        if len(x.shape) > len(shape):
            raise Refused(f"puts sizes {list(x.shape)} into sizes {list(shape)}")
        for n, wanted in zip(reversed(x.shape), reversed(shape), strict=False):
            if n not in (1, wanted):
                raise Mismatch(f"sizes {n} and {wanted} do not fit", n, wanted)
        self.check(shape, LONGEST_ROW if not x.known else LARGEST_CONSTANT)
        return self.view(x, lambda k: np.broadcast_to(k, shape), math.prod(shape))

    def write(self, to: Tensor, value: Tensor) -> None:
        """Write a tensor, broadcast, into what another one shows."""
        # As torch does, leading axes of size 1 are dropped.
        while len(value.shape) > len(to.shape) and value.shape[0] == 1:
            value = self.view(value, lambda k: k[0])
        value = self.broadcast(value, to.shape)
        memory = to.storage
        memory.written = True
        if to.index is None:
            memory.content = value.values.reshape(-1).copy() if value.known else self.row(value)
        elif isinstance(memory.content, str) or not value.known:
            before = Tensor(memory, (memory.size,))
            order = np.arange(memory.size)
            order[to.index.reshape(-1)] = memory.size + np.arange(value.size)
            both = self.graph.concat([self.row(before), self.row(value)])
            memory.content = self.graph.add(
                "Gather", [both, self.graph.integers(order.tolist())], axis=1
            )
        else:
            content = memory.content.copy()
            content[to.index] = value.values
            memory.content = content

    def _index(self, x: Tensor) -> Indices:
        return np.arange(x.storage.size).reshape(x.shape) if x.index is None else x.index


def common_shape(*shapes: Shape) -> Shape:
    """The shape that all of `shapes` broadcast to; Mismatch where there is none."""
    result: list[int] = [1] * max(map(len, shapes), default=0)
    for shape in shapes:
        for axis in range(1, len(shape) + 1):
            n = shape[-axis]
            if n != 1 and result[-axis] not in (1, n):
                a, b = result[-axis], n
                raise Mismatch(f"sizes {a} and {b} do not fit", a, b)
            if n != 1:
                result[-axis] = n
    return tuple(result)
