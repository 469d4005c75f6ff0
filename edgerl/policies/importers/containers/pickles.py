"""Pickles from outside, read without running anything they name.

A pickle is a program that may call any function of this process. Here every name it uses is
looked up in a table that the caller gives; what stands there is inert (arrays, records), and
any other name ends the reading. Sizes are checked before anything is allocated.
"""

import io
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, ClassVar, Self

import numpy as np

from edgerl.errors import UserError
from edgerl.policies.names import shown

MOST_OPERATIONS = 2_000_000
MOST_ENCODED = 64 << 20
# Opcodes that look names up elsewhere than in the stream, or through the copyreg registry.
_REFUSED = {"EXT1", "EXT2", "EXT4", "INST", "OBJ", "NEXT_BUFFER", "READONLY_BUFFER"}


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
        # The text of anything else in a stream may be longer than any memory.
        if not isinstance(name, str):
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


class _Callable:
    """A function as the stream gets it: to be called, and not to be given other attributes."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a function with attributes")


class _Reader(pickle._Unpickler):
    """The unpickler that is written in Python, whose operations can be watched: the other one
    hashes whatever a stream asks it to, and tuples within tuples take forever."""

    stack: list[Any]
    metastack: list[list[Any]]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def _put(self) -> None:
        """An operation that stores below the key on the stack."""
        _check_keys(self.stack[-2:-1])
        _store[pickle.SETITEM[0]](self)

    def _put_many(self) -> None:
        """An operation that stores below every second object since the mark."""
        _check_keys(self.stack[::2])
        _store[pickle.SETITEMS[0]](self)

    def _make(self) -> None:
        """An operation that makes a dictionary of the objects since the mark."""
        _check_keys(self.stack[::2])
        _store[pickle.DICT[0]](self)

    def _add(self) -> None:
        """An operation that adds the objects since the mark to a set."""
        _check_keys(self.stack)
        _store[pickle.ADDITEMS[0]](self)

    def _freeze(self) -> None:
        """An operation that makes a set of the objects since the mark."""
        _check_keys(self.stack)
        _store[pickle.FROZENSET[0]](self)

    dispatch[pickle.SETITEM[0]] = _put
    dispatch[pickle.SETITEMS[0]] = _put_many
    dispatch[pickle.DICT[0]] = _make
    dispatch[pickle.ADDITEMS[0]] = _add
    dispatch[pickle.FROZENSET[0]] = _freeze

    def __init__(
        self,
        content: bytes,
        resolve: Callable[[str], Any],
        load: Callable[[Any], Any] | None,
    ) -> None:
        super().__init__(io.BytesIO(content))
        self._resolve = resolve
        self._load = load

    def find_class(self, module: str, name: str) -> Any:
        return self._resolve(f"{module}.{name}")

    def persistent_load(self, key: Any) -> Any:
        if self._load is None:
            raise pickle.UnpicklingError("a reference to elsewhere")
        return self._load(key)


_store: Mapping[int, Callable[[Any], None]] = pickle._Unpickler.dispatch


def _check_keys(keys: list[Any]) -> None:
    if not all(isinstance(key, str | bytes | int | float | None) for key in keys):
        raise pickle.UnpicklingError("a key that is neither text nor number")


def read_pickle(
    content: bytes,
    where: str,
    names: Mapping[str, Any] | Callable[[str], Any],
    load: Callable[[Any], Any] | None = None,
) -> Any:
    """What a pickle holds, arrays as numpy arrays and objects as `Record`.

    `names` says what stands for each dotted name beyond `PLAIN`: a mapping, or a function that
    returns None for what may not be. `load` resolves persistent references (torch's storages).
    Raises UserError naming `where` and what was refused: a name that is not in the table, an
    operation that has no place in data, a stream that is cut short or too long.
    """
    find = names if callable(names) else names.get
    _scan(content, where)

    written = 0

    def encode(text: str, _encoding: str = "latin1") -> bytes:
        # How old protocols write bytes; a stream may ask for the same ones any number of times.
        nonlocal written
        written += len(text)
        if written > MOST_ENCODED:
            raise pickle.UnpicklingError("more bytes than a file of plain data has")
        return text.encode("latin1")

    def resolve(name: str) -> Any:
        if name == "_codecs.encode":
            return _Callable(encode)
        found = PLAIN.get(name) or find(name)
        if found is None:
            raise UserError(
                f"{where}: names {shown(name)}; a file that asks for code is not read "
                "(only plain arrays and known records are)"
            )
        return _Callable(found) if isinstance(found, FunctionType) else found

    try:
        return arrays_in(_Reader(content, resolve, load).load())
    except UserError:
        raise
    # A stream may be wrong in any way; whatever fails then, it is the stream's fault.
    except Exception as error:
        reason = shown(" ".join(str(error).split()))
        raise UserError(f"{where}: not a readable pickle ({reason})") from error


def _scan(content: bytes, where: str) -> None:
    """UserError where a stream is malformed, too long, or uses an operation without a place."""
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(content)):
            # A memo is a list as long as the largest number that is put into it.
            far = "PUT" in operation.name and int(str(argument)) > MOST_OPERATIONS
            if count > MOST_OPERATIONS or far:
                raise UserError(f"{where}: a pickle of more than {MOST_OPERATIONS:,} operations")
            if operation.name in _REFUSED:
                raise UserError(f"{where}: a pickle with operation {operation.name}; not read")
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{where}: not a readable pickle (truncated or damaged)") from error


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
