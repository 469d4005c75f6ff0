"""What torch programs do with plain numbers, lists and truth values while they are traced."""

import operator
from collections.abc import Callable, Mapping
from typing import Any

from edgerl.policies.importers.aten.symbolic import EXPRESSION, Refused, Tensor

# A program's own numbers and texts stay small; anything else is no controller.
LARGEST_NUMBER = 1 << 64
LONGEST_TEXT = 1000
LONGEST_LIST = 10_000


def limited(x: Any) -> Any:
    """A number, text or list that is no larger than torch's own."""
    if isinstance(x, int) and abs(x) > LARGEST_NUMBER:
        raise Refused("makes a number that is too large")
    if isinstance(x, str | list | tuple) and len(x) > LONGEST_LIST:
        raise Refused("makes a list or text that is too long")
    return x


def cost(*operands: Any) -> int:
    """What looking at operands costs in elements, those within lists included, each as often as
    it stands there. Refused for what is too long or too large to be looked at."""
    elements = items = 0
    waiting = list(operands)
    while waiting:
        x = waiting.pop()
        match x:
            case Tensor():
                elements += x.size
            case int() | str():
                limited(x)
            case list() | tuple() | dict():
                items += len(x)
                if items > LONGEST_LIST:
                    raise Refused("makes a list or text that is too long")
                waiting += x.values() if isinstance(x, dict) else x
    return elements + EXPRESSION * items


def _binary(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def apply(a: Any, b: Any, *_: Any) -> Any:
        numbers = [x for x in (a, b) if isinstance(x, int | float)]
        if len(numbers) == 1:
            raise Refused(f"gets a {type(a).__name__} and a {type(b).__name__}")
        return limited(function(a, b))

    return apply


def _compared(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], bool]:
    def apply(a: Any, b: Any) -> bool:
        if isinstance(a, list | tuple) and isinstance(b, list | tuple):
            return bool(function(list(a), list(b)))
        return bool(function(a, b))

    return apply


def _power(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int) and (abs(a) > 1024 or not 0 <= b <= 6):
        return limited(float(a) ** float(b))
    return limited(a**b)


def _format(pattern: str, *values: Any) -> str:
    """Only for messages, so the values' places are all that matters."""
    text = str(pattern)[:LONGEST_TEXT]
    for value in values:
        text = text.replace("{}", str(value)[:100], 1)
    return text[:LONGEST_TEXT]


def _append(items: list[Any], item: Any) -> list[Any]:
    items.append(item)
    limited(items)
    return items


def _contains(items: Any, item: Any) -> bool:
    return any(not isinstance(x, Tensor) and x == item for x in items)


def _range_length(start: int, stop: int, step: int) -> int:
    return len(range(start, stop, step))


def _multiplied(a: Any, b: Any) -> Any:
    if isinstance(a, list | tuple | str) or isinstance(b, list | tuple | str):
        items, times = (b, a) if isinstance(a, int) else (a, b)
        if not isinstance(times, int) or times * len(items) > LONGEST_LIST:
            raise Refused("makes a list or text that is too long")
    return limited(a * b)


SCALARS: Mapping[str, Callable[..., Any]] = {
    "__and__": lambda a, b: a and b if isinstance(a, bool) else limited(a & b),
    "__contains__": _contains,
    "__derive_index": lambda index, start, step: limited(start + index * step),
    "__getitem__": operator.getitem,
    "__is__": operator.is_,
    "__isnot__": operator.is_not,
    "__not__": operator.not_,
    "__or__": lambda a, b: a or b if isinstance(a, bool) else limited(a | b),
    "__range_length": _range_length,
    "abs": abs,
    "add": _binary(operator.add),
    "append": _append,
    "Bool": bool,
    "bool": bool,
    "ceil": lambda x: limited(int(-(-x // 1))),
    "div": _binary(operator.truediv),
    "eq": _compared(operator.eq),
    "Float": float,
    "float": float,
    "floor": lambda x: limited(int(x // 1)),
    "floordiv": _binary(operator.floordiv),
    "format": _format,
    "ge": _compared(operator.ge),
    "gt": _compared(operator.gt),
    "Int": int,
    "int": int,
    "le": _compared(operator.le),
    "len": len,
    "list": lambda items: limited(list(items)),
    "lt": _compared(operator.lt),
    "max": lambda *numbers: max(*numbers),
    "min": lambda *numbers: min(*numbers),
    "mul": _multiplied,
    "ne": _compared(operator.ne),
    "neg": operator.neg,
    "pow": _power,
    "remainder": _binary(operator.mod),
    "sub": _binary(operator.sub),
    "truediv": _binary(operator.truediv),
    "unpack": list,
    "warn": lambda *_, **__: None,
}


def truth(condition: Any) -> bool:
    """A condition's value; Refused when it is only known at run time."""
    if isinstance(condition, Tensor):
        if not condition.known:
            raise Refused(
                "branches on a value that is only known at run time; write it without `if` "
                "(torch.clamp, a product with a limit)"
            )
        return bool(condition.values.reshape(-1)[0])
    if isinstance(condition, bool | int | float):
        return bool(condition)
    raise Refused("has a condition that is no truth value")


def count(value: Any, most: int) -> int:
    """A number of turns, bounded."""
    if isinstance(value, Tensor):
        value = value.values.reshape(-1)[0].item()
    if not isinstance(value, int) or value > most:
        raise Refused(f"loops {value!s:.20} times; {most} are possible")
    return value
