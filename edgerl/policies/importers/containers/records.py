"""Records: what stands in for the objects of a pickle, plain data and nothing that runs."""

import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np


class Record:
    """An object of a pickled class, as plain data: its attributes, and nothing that runs."""

    kind = "record"

    arguments: tuple[object, ...]
    attributes: dict[str, Any]
    items: list[Any]

    def __new__(cls, *arguments: object) -> Self:
        """An empty record: here, because most streams make objects without calling __init__."""
        made = super().__new__(cls)
        made.arguments, made.attributes, made.items = arguments, {}, []
        return made

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        # With slots, a state is a pair of dictionaries.
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.attributes.update({k: v for k, v in part.items() if isinstance(k, str)})

    def append(self, item: object) -> None:
        """What the stream appends to a list-like object."""
        self.items.append(item)

    def extend(self, items: list[object]) -> None:
        """What the stream appends to a list-like object."""
        self.items.extend(items)

    def __setitem__(self, key: str, value: object) -> None:
        self.attributes[key] = value

    def get(self, name: str) -> Any:
        """An attribute; None where there is none."""
        return self.attributes.get(name)


def record(name: str) -> type[Record]:
    """The class of records that stand for the class called `name`."""
    return type("Record", (Record,), {"kind": name})


def _array(*_arguments: object) -> "_Array":
    return _Array()


class _Array(Record):
    """An array in the making: `numpy.ndarray.__setstate__` without objects inside."""

    kind = "array"

    def __setstate__(self, state: object) -> None:
        if not (isinstance(state, tuple) and len(state) == 5):
            raise pickle.UnpicklingError("an array without its five parts")
        _version, shape, kind, fortran, data = state
        dtype = _dtype_of(kind)
        if not isinstance(data, bytes | bytearray):
            raise pickle.UnpicklingError("an array of objects")
        values = np.frombuffer(data, dtype)
        self.values = values.reshape(shape, order="F" if fortran else "C")


class _Dtype(Record):
    """A data type in the making: only plain numbers are possible."""

    kind = "dtype"

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        name = arguments[0]
        # The text of anything else in a stream may be longer than any memory, and a list of
        # types takes as long as it is.
        if not isinstance(name, str) or len(name) > 20:
            raise pickle.UnpicklingError("a data type that has no name")
        self.dtype = np.dtype(name)
        if self.dtype.kind not in "fiub":
            raise pickle.UnpicklingError(f"data type {name[:20]!r}")

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] == ">":
            self.dtype = self.dtype.newbyteorder(">")


def _dtype_of(kind: object) -> "np.dtype[Any]":
    if not isinstance(kind, _Dtype):
        raise pickle.UnpicklingError("an array whose data type is none")
    return kind.dtype


def _scalar(kind: object, data: bytes = b"") -> Any:
    return np.frombuffer(data, _dtype_of(kind))[0]


def _from_buffer(data: bytes, kind: object, shape: tuple[int, ...], order: str = "C") -> _Array:
    made = _Array()
    made.values = np.frombuffer(data, _dtype_of(kind)).reshape(
        shape, order="F" if order == "F" else "C"
    )
    return made


def _ordered() -> dict[Any, Any]:
    return OrderedDict()


# What any pickle may name: containers and arrays of numbers.
PLAIN: Mapping[str, Callable[..., Any] | type] = {
    "collections.OrderedDict": _ordered,
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    **{
        f"numpy.{core}.{module}": what
        for core in ("core", "_core")
        for module, what in (
            ("multiarray._reconstruct", _array),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _from_buffer),
        )
    },
}


def arrays_in(value: Any) -> Any:
    """`value` with every array that was in the making finished, in containers and records."""
    finished: dict[int, Any] = {}

    def visit(item: Any, depth: int) -> Any:
        if depth > 100:
            raise pickle.UnpicklingError("nested too deeply")
        if isinstance(item, _Array):
            return item.values
        if id(item) in finished:
            return finished[id(item)]
        if isinstance(item, dict):
            # A plain one in its place: a stream may give an ordered one a method of its own.
            finished[id(item)] = made = dict[Any, Any]()
            for key, each in dict.items(item):
                made[key] = visit(each, depth + 1)
            return made
        elif isinstance(item, list):
            finished[id(item)] = item
            item[:] = [visit(each, depth + 1) for each in item]
        elif isinstance(item, tuple):
            # The stream may share a tuple in another many times over: each is seen once.
            finished[id(item)] = seen = tuple(visit(each, depth + 1) for each in item)
            return seen
        elif isinstance(item, _Dtype):
            return item.dtype
        elif isinstance(item, Record):
            finished[id(item)] = item
            item.attributes = visit(item.attributes, depth + 1)
            visit(item.items, depth + 1)
            item.arguments = tuple(visit(each, depth + 1) for each in item.arguments)
        return item

    return visit(value, 0)
