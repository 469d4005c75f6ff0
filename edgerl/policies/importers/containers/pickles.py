"""Pickles from outside, read without running anything they name.

A pickle is a program that may call any function of this process. Here every name it uses is
looked up in a table that the caller gives; what stands there is inert (arrays, records), and
any other name ends the reading. Sizes are checked before anything is allocated.
"""

import io
import pickle
import pickletools
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, ClassVar

from edgerl.errors import UserError
from edgerl.policies.importers.containers.records import PLAIN, Record, arrays_in
from edgerl.policies.names import shown

MOST_BYTES = 64 << 20
MOST_OPERATIONS = 1_000_000
MOST_ENCODED = 64 << 20
# Names, arguments of one call, and what one stream hands over in calls and states altogether.
MOST_NAMES = 1000
MOST_ARGUMENTS = 100
MOST_HANDED = 1_000_000
# What a key or a data type may be: an integer's hash costs its length, every time.
LONGEST_KEY = 1000
LARGEST_KEY = 1 << 60
# Opcodes that look names up elsewhere than in the stream, or through the copyreg registry.
_REFUSED = {"EXT1", "EXT2", "EXT4", "INST", "OBJ", "NEXT_BUFFER", "READONLY_BUFFER"}


class _Callable:
    """A function as the stream gets it: to be called, and nothing else."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)


class _Reader(pickle._Unpickler):
    """The unpickler that is written in Python, whose operations can be watched: the other one
    hashes whatever a stream asks it to, and tuples within tuples take forever.

    Calls, states and items go to the objects that are made for them and to no others, and what a
    stream hands over again and again (an operation does that in one byte) is counted.
    """

    stack: list[Any]
    metastack: list[list[Any]]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def _put(self) -> None:
        """An operation that stores below the key on the stack."""
        _check_keys(self.stack[-2:-1])
        _check_kind(self.stack[-3], dict, Record)
        _store[pickle.SETITEM[0]](self)

    def _put_many(self) -> None:
        """An operation that stores below every second object since the mark."""
        _check_keys(self.stack[::2])
        _check_kind(self.metastack[-1][-1], dict, Record)
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

    def _append(self) -> None:
        """An operation that appends the object on the stack to the one below."""
        _check_kind(self.stack[-2], list, Record)
        _store[pickle.APPEND[0]](self)

    def _append_many(self) -> None:
        """An operation that appends the objects since the mark to the one below."""
        _check_kind(self.metastack[-1][-1], list, Record)
        _store[pickle.APPENDS[0]](self)

    def _call(self) -> None:
        """An operation that calls a function, or makes a record, with a tuple of arguments."""
        function = self.stack[-2]
        if not (isinstance(function, _Callable) or _is_record(function)):
            raise pickle.UnpicklingError("a call of something that is no function")
        self._hand_over(self.stack[-1], tuple)
        _store[pickle.REDUCE[0]](self)

    def _new(self) -> None:
        """An operation that makes a record with a tuple of arguments."""
        if not _is_record(self.stack[-2]):
            raise pickle.UnpicklingError("an object of something that is no class")
        self._hand_over(self.stack[-1], tuple)
        _store[pickle.NEWOBJ[0]](self)

    def _new_with_names(self) -> None:
        """An operation that makes a record with arguments by name, which none has."""
        if self.stack.pop() != {}:
            raise pickle.UnpicklingError("an object with arguments by name")
        self._new()

    def _build(self) -> None:
        """An operation that gives an object a state: records have one, an ordered dictionary's
        says nothing that is needed."""
        _check_kind(self.stack[-2], dict, Record)
        state = self.stack.pop()
        if isinstance(self.stack[-1], Record):
            for part in state if isinstance(state, tuple) else (state,):
                self._hand_over(part, object)
            self.stack[-1].__setstate__(state)

    def _hand_over(self, what: Any, kind: type) -> None:
        """Count the items of a tuple of arguments, or of a state."""
        if not isinstance(what, kind):
            raise pickle.UnpicklingError("a call without a tuple of arguments")
        count = len(what) if isinstance(what, tuple | dict | list) else 1
        self._handed += count
        if self._handed > MOST_HANDED or (kind is tuple and count > MOST_ARGUMENTS):
            raise pickle.UnpicklingError("more arguments than plain data has")

    dispatch[pickle.APPEND[0]] = _append
    dispatch[pickle.APPENDS[0]] = _append_many
    dispatch[pickle.REDUCE[0]] = _call
    dispatch[pickle.NEWOBJ[0]] = _new
    dispatch[pickle.NEWOBJ_EX[0]] = _new_with_names
    dispatch[pickle.BUILD[0]] = _build
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
        self._handed = 0

    def find_class(self, module: str, name: str) -> Any:
        return self._resolve(f"{module}.{name}")

    def persistent_load(self, key: Any) -> Any:
        if self._load is None:
            raise pickle.UnpicklingError("a reference to elsewhere")
        return self._load(key)


_store: Mapping[int, Callable[[Any], None]] = pickle._Unpickler.dispatch


def _check_keys(keys: list[Any]) -> None:
    """UnpicklingError for keys that may take long to find, or may be anything."""
    for key in keys:
        match key:
            case str() | bytes():
                fine = len(key) <= LONGEST_KEY
            case int():
                fine = abs(key) < LARGEST_KEY
            case _:
                fine = isinstance(key, float | None)
        if not fine:
            raise pickle.UnpicklingError("a key that is neither a short text nor a number")


def _check_kind(what: object, *kinds: type) -> None:
    if not isinstance(what, kinds):
        raise pickle.UnpicklingError(f"items or a state for a {type(what).__name__}")


def _is_record(what: object) -> bool:
    return isinstance(what, type) and issubclass(what, Record)


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
    resolved: dict[str, Any] = {}

    def encode(text: str, _encoding: str = "latin1") -> bytes:
        # How old protocols write bytes; a stream may ask for the same ones any number of times.
        nonlocal written
        written += len(text)
        if written > MOST_ENCODED:
            raise pickle.UnpicklingError("more bytes than a file of plain data has")
        return text.encode("latin1")

    def resolve(name: str) -> Any:
        if name in resolved:
            return resolved[name]
        # Each may be a class, which takes a thousand times its name's memory.
        if len(resolved) == MOST_NAMES:
            raise UserError(f"{where}: a pickle with more than {MOST_NAMES:,} names")
        found = encode if name == "_codecs.encode" else PLAIN.get(name) or find(name)
        if found is None:
            raise UserError(
                f"{where}: names {shown(name)}; a file that asks for code is not read "
                "(only plain arrays and known records are)"
            )
        resolved[name] = _Callable(found) if isinstance(found, FunctionType) else found
        return resolved[name]

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
    if len(content) > MOST_BYTES:
        raise UserError(f"{where}: a pickle of more than {MOST_BYTES >> 20} MiB")
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
