"""Torch's operators (ATen) by name: what a torch program, however it was saved, is made of."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edgerl.policies.importers.aten.elementwise import ELEMENTWISE
from edgerl.policies.importers.aten.layers import LAYERS
from edgerl.policies.importers.aten.layout import LAYOUT
from edgerl.policies.importers.aten.recurrent import RECURRENT
from edgerl.policies.importers.aten.scalars import SCALARS, cost
from edgerl.policies.importers.aten.symbolic import Refused, Tensor, Tracer
from edgerl.policies.names import shown

OPERATORS: Mapping[str, Callable[..., Any]] = {**ELEMENTWISE, **LAYERS, **LAYOUT, **RECURRENT}

WAY_OUT = "export the model without it, or with torch.onnx.export as an .onnx file"


def call(
    t: Tracer, name: str, arguments: Sequence[Any], named: Mapping[str, Any] | None = None
) -> Any:
    """The result of a torch operator, named without overload (`linear`, `add_`), for tensors,
    numbers and lists of them. `add_` writes into its first operand.

    Raises Refused, with the operator's name in `at`, when there is no such operator here or
    its operands do not fit.
    """
    named = dict(named or {})
    try:
        t.spend(cost(*arguments, *named.values()), 1)
        with np.errstate(all="ignore"):
            return _result(t, name, arguments, named)
    except Refused as error:
        error.at = error.at or f"operator {shown(name)[1:-1]}"
        raise
    # Operands come from a file and may be anything; numpy and Python name what does not fit.
    except (
        ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError,
    ) as error:  # fmt: skip
        refused = Refused(f"has operands that do not fit ({shown(str(error))[1:-1]})")
        refused.at = f"operator {shown(name)[1:-1]}"
        raise refused from error


def _result(t: Tracer, name: str, arguments: Sequence[Any], named: dict[str, Any]) -> Any:
    symbolic = any(_holds_tensor(x) for x in (*arguments, *named.values()))
    of_list = bool(arguments) and isinstance(arguments[0], list | tuple)
    if name in SCALARS and (of_list or not symbolic):
        return SCALARS[name](*arguments, **named)
    if name in OPERATORS:
        return OPERATORS[name](t, *arguments, **named)
    plain = name[:-1]
    if name.endswith("_") and not name.endswith("__") and plain in OPERATORS and arguments:
        written = arguments[0]
        if not isinstance(written, Tensor):
            raise Refused("writes into something that is no tensor")
        value = OPERATORS[plain](t, *arguments, **named)
        t.write(written, value)
        return written
    if name in SCALARS:
        return SCALARS[name](*arguments, **named)
    raise Refused(f"is not supported; {WAY_OUT}")


def _holds_tensor(x: Any) -> bool:
    match x:
        case Tensor():
            return True
        case list() | tuple():
            return any(isinstance(item, Tensor) for item in x)
    return False
