"""Documents: the TOML files that users write, read within bounds, and what is wrong with one.

A mistake is one line that names the file, the key as a path (`observation.0.range`), what is
wrong and what would be right.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from edgerl.errors import UserError, suggestion

ModelT = TypeVar("ModelT", bound=BaseModel)
Fault = Mapping[str, Any]  # one entry of pydantic's ValidationError.errors()

_MOST_BYTES = 1 << 20
_MOST_PARTS = 64
_PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"(?<![\w-])(?:{_PART}[ \t]*+\.[ \t]*+){{{_MOST_PARTS}}}")
_SHOWN = 60
_TABLES = frozenset({"model_type", "model_attributes_type", "dict_type", "mapping_type"})
_LISTS = frozenset({"tuple_type", "list_type", "iterable_type"})
_BOUNDS = {
    "greater_than": ("gt", "must be more than"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be less than"),
    "less_than_equal": ("le", "must be at most"),
}


def read_bytes(path: Path, most: int, where: str, remark: str) -> bytes:
    """The content of a file of at most `most` bytes.

    Raises UserError naming `where`; `remark` says, after a larger one's size, why it is wrong.
    """
    try:
        # Opening a pipe would wait for whoever writes to it.
        if path.exists() and not path.is_file():
            raise UserError(f"{where}: cannot be read (no regular file)")
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{_plain(where)}: no file has such a name") from error
    if len(content) > most:
        raise UserError(f"{where}: larger than {most >> 20} MiB; {remark}")
    return content


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The tables of a TOML file that should be a `what` ("recipe").

    Raises UserError naming the file when it cannot be read, is larger than 1 MiB, or is no TOML.
    """
    content = read_bytes(path, _MOST_BYTES, str(path), f"that is no {what}")
    try:
        text = content.decode("utf-8")
        # The parser takes as long as the square of a key's parts.
        if _LONG_KEY.search(text):
            raise UserError(f"{path}: a key of more than {_MOST_PARTS} parts")
        rows = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason})") from error
    # A value nested too deeply ends the parser's recursion.
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not TOML: {error}") from error
    except ValueError as error:
        raise UserError(f"{path}: not TOML: a number with thousands of digits") from error
    _refuse_large(rows, path)
    return rows


def _refuse_large(rows: dict[str, Any], path: Path) -> None:
    """UserError for integers beyond TOML's own 64 bits, which nothing here could write out."""
    waiting: list[Any] = [rows]
    while waiting:
        match waiting.pop():
            case dict() as table:
                waiting += table.values()
            case list() as items:
                waiting += items
            case int() as number if not -(1 << 63) <= number < 1 << 63:
                raise UserError(f"{path}: not TOML: an integer of more than 64 bits")


def validated(kind: type[ModelT], rows: Mapping[str, object], where: str) -> ModelT:
    """`rows` as a `kind`. Raises UserError, naming `where` and the key, if they are none."""
    try:
        return kind.model_validate(rows)
    except ValidationError as error:
        raise UserError(explain(error, where, kind)) from error


def explain(error: ValidationError, where: str, kind: type[BaseModel] | None = None) -> str:
    """One line for the worst fault of a pydantic error: file, key, what is wrong, what is right.

    An unknown key comes first, for it is mostly why another one is missing. `kind`, the model
    that was asked for, knows the keys to suggest.
    """
    faults = _causes(error.errors(include_url=False))
    first = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    key = ".".join(str(part) for part in first["loc"])
    more = "" if len(faults) == 1 else f" (and {len(faults) - 1} more)"
    shown = key if len(key) <= 2 * _SHOWN else f"{key[: 2 * _SHOWN]}…"
    place = f"{where}: {_plain(shown)}" if key else where
    return f"{place}: {_fault(first, kind)}{more}"


def _causes(faults: Sequence[Fault]) -> list[Fault]:
    """The faults without those that only follow: a list whose entries are wrong is not short."""
    return [
        fault
        for fault in faults
        if fault["type"] != "too_short"
        or all(f is fault or f["loc"][: len(fault["loc"])] != fault["loc"] for f in faults)
    ]


def _fault(fault: Fault, kind: type[BaseModel] | None) -> str:
    """What is wrong, in edgerl's words."""
    kind_of_fault, given, context = fault["type"], fault["input"], fault.get("ctx", {})
    match kind_of_fault:
        case "extra_forbidden":
            return f"unknown key{_hint(fault, kind)}"
        case "missing" | "missing_argument":
            return f"missing{_hint(fault, kind)}"
        case "literal_error":
            allowed = str(context["expected"])
            return f"must be {allowed}, not {_shown(given)}"
        case "string_type":
            return f"must be text in quotes, not {_shown(given)}"
        case "bool_type" | "bool_parsing":
            return f"must be true or false, not {_shown(given)}"
        case "int_type" | "int_parsing" | "int_from_float" | "int_parsing_size":
            return f"must be a whole number, not {_shown(given)}"
        case "float_type" | "float_parsing":
            return f"must be a number, not {_shown(given)}"
        case "finite_number":
            return f"must be a finite number, not {_shown(given)}"
        case "too_short" | "too_long":
            bound = context.get("min_length", context.get("max_length"))
            least = "at least" if kind_of_fault == "too_short" else "at most"
            return f"must have {least} {bound} entries, has {len(given)}"
        case "value_error":
            return str(context["error"])
    if kind_of_fault in _BOUNDS:
        name, words = _BOUNDS[kind_of_fault]
        return f"{words} {context[name]:,}, not {_shown(given)}"
    if kind_of_fault in _TABLES:
        return f"must be a table, not {_shown(given)}"
    if kind_of_fault in _LISTS:
        return f"must be a list, not {_shown(given)}"
    return str(fault["msg"])


def _hint(fault: Fault, kind: type[BaseModel] | None) -> str:
    """What the key should have been, or what a missing one would say."""
    *path, last = fault["loc"] or ("",)
    table = _table(kind, path)
    if fault["type"] == "extra_forbidden":
        return "" if table is None else f"; {suggestion(str(last), _keys(table))}"
    if isinstance(last, int):
        return "; the list ends too early"
    field = None if table is None else table.model_fields.get(last)
    about = "" if field is None or not field.description else field.description
    first, _, _ = about.partition(".")
    return f"; give {first[0].lower()}{first[1:]}" if first else ""


def _keys(table: type[BaseModel]) -> Iterable[str]:
    return [field.alias or name for name, field in table.model_fields.items()]


def _table(kind: type[BaseModel] | None, path: Iterable[int | str]) -> type[BaseModel] | None:
    """The model that describes the table at `path` below a `kind`."""
    found: Any = kind
    for part in path:
        found = _inside(found, part)
    return next((k for k in _alternatives(found) if _is_model(k)), None)


def _inside(kind: Any, part: int | str) -> Any:
    """The type of what stands at `part` of a `kind`; None where that is not known."""
    for each in _alternatives(kind):
        if _is_model(each) and part in each.model_fields:
            return each.model_fields[part].annotation
        if get_origin(each) in (tuple, list) and isinstance(part, int):
            return get_args(each)[0]
        if get_origin(each) is dict:
            return get_args(each)[1]
    return None


def _alternatives(kind: Any) -> list[Any]:
    if get_origin(kind) is Annotated:
        return _alternatives(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [each for one in get_args(kind) for each in _alternatives(one)]
    return [kind]


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _shown(value: object) -> str:
    """A value of a TOML file as a message shows it."""
    match value:
        case bool():
            return "true" if value else "false"
        case dict():
            return "a table"
        case list() | tuple():
            return "a list"
    text = repr(value)
    return _plain(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
