"""TorchScript's code, parsed and never run: a strict interpreter over symbols.

`code/__torch__/….py` in a TorchScript archive is Python by syntax. What is understood is what
torch prints there: assignments, `if` with a known condition, bounded loops, calls of methods,
of functions in the archive, and of torch's operators (`aten.py`). Anything else is refused.
"""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgerl.policies.importers import aten
from edgerl.policies.importers.aten.scalars import cost, count, limited, truth
from edgerl.policies.importers.aten.symbolic import EXPRESSION, Array, Refused, Tensor, Tracer
from edgerl.policies.importers.containers.records import Record
from edgerl.policies.importers.torchscript.source import Code, Definition
from edgerl.policies.names import shown

DEEPEST_CALL = 50
MOST_TURNS = 1000
LONGEST_PATH = 1000


@dataclass(frozen=True)
class _Function:
    name: str


@dataclass(frozen=True)
class _Returned:
    value: Any


class Interpreter:
    """One execution of a module's methods.

    `states` gives the tensors that stand for some of the module's buffers, by path; all other
    tensors are the numbers in the archive. `lenient` passes over the module's own checks (they
    are for sizes that are still being sought).
    """

    def __init__(
        self,
        code: Code,
        tracer: Tracer,
        constants: Sequence[Any],
        paths: Mapping[int, str],
        states: Mapping[str, Tensor],
        lenient: bool = False,
    ) -> None:
        self._code, self._tracer, self._constants = code, tracer, constants
        self._paths, self._states, self._lenient = paths, states, lenient
        self._attributes: dict[tuple[int, str], Any] = {}
        self._tensors: dict[int, Tensor] = {}
        self._started: dict[tuple[int, str], Tensor] = {}
        self._depth = 0

    def call(self, record: Record, name: str, arguments: Sequence[Any]) -> Any:
        """What a method returns for these arguments (without self). Raises Refused."""
        definition = self._code.method(record.kind, name)
        if definition is None:
            raise Refused(f"has no method {shown(name)}")
        return self._run(definition, [record, *arguments], {}, self._paths.get(id(record), ""))

    def written(self) -> dict[str, Tensor]:
        """The tensors of the module that were written to or replaced, by path."""
        found: dict[str, Tensor] = {}
        for (owner, name), before in self._started.items():
            after = self._attributes[owner, name]
            if after is not before or before.storage.written:
                if not isinstance(after, Tensor):
                    raise Refused(f"replaces buffer {shown(name)} by something else")
                found[joined_path(self._paths.get(owner, ""), name)] = after
        return found

    def _run(
        self, definition: Definition, arguments: list[Any], named: dict[str, Any], path: str | None
    ) -> Any:
        self._depth += 1
        if self._depth > DEEPEST_CALL:
            raise Refused(f"calls itself or others more than {DEEPEST_CALL} levels deep")
        self._tracer.spend(EXPRESSION * len(definition.args.args))
        names = _bound(definition, arguments, named)
        result = self._block(definition.body, names, path)
        self._depth -= 1
        return result.value if result is not None else None

    def _block(
        self, body: Sequence[ast.stmt], names: dict[str, Any], path: str | None
    ) -> _Returned | None:
        for statement in body:
            self._tracer.spend(0, 1)
            try:
                result = self._statement(statement, names, path)
            except Refused as error:
                # A function is told by the line of the module that calls it.
                if path is not None and not error.at.startswith("module "):
                    here = f"module {shown(path)[1:-1] or '(top)'}, line {statement.lineno}"
                    error.at = f"{here}: {error.at}" if error.at else here
                raise
            if result is not None:
                return result
        return None

    def _statement(
        self, statement: ast.stmt, names: dict[str, Any], path: str | None
    ) -> _Returned | None:
        match statement:
            case ast.Assign(targets=[target], value=value):
                self._assign(target, self._value(value, names), names)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self._assign(target, self._value(value, names), names)
            case ast.AnnAssign(value=None) | ast.Pass():
                pass
            case ast.Expr(value=value):
                self._value(value, names)
            case ast.Return(value=value):
                return _Returned(None if value is None else self._value(value, names))
            case ast.If(test=test, body=body, orelse=otherwise):
                chosen = body if truth(self._value(test, names)) else otherwise
                return self._block(chosen, names, path)
            case ast.For(
                target=ast.Name(id=name),
                iter=ast.Call(func=ast.Name(id="range"), args=[turns], keywords=[]),
                body=body,
                orelse=[],
            ):
                for turn in range(count(self._value(turns, names), MOST_TURNS)):
                    names[name] = turn
                    if (result := self._block(body, names, path)) is not None:
                        return result
            case ast.While(test=test, body=body, orelse=[]):
                turns_left = MOST_TURNS
                while truth(self._value(test, names)):
                    turns_left -= 1
                    if turns_left < 0:
                        raise Refused(f"loops more than {MOST_TURNS} times")
                    if (result := self._block(body, names, path)) is not None:
                        return result
            case _:
                raise Refused(f"has a {type(statement).__name__} statement, which is not supported")
        return None

    def _assign(self, target: ast.expr, value: Any, names: dict[str, Any]) -> None:
        match target:
            case ast.Name(id=name):
                names[name] = value
            case ast.Tuple(elts=targets):
                if not isinstance(value, list | tuple) or len(value) != len(targets):
                    raise Refused(f"unpacks {len(targets)} values out of something else")
                for each, item in zip(targets, value, strict=True):
                    self._assign(each, item, names)
            case ast.Attribute(value=owner, attr=name):
                record = self._value(owner, names)
                if not isinstance(record, Record):
                    raise Refused("sets an attribute of something that is no module")
                self._attribute(record, name)
                self._attributes[id(record), name] = value
            case _:
                raise Refused("assigns to something that is not supported")

    def _value(self, expression: ast.expr, names: dict[str, Any]) -> Any:
        self._tracer.spend(EXPRESSION)
        match expression:
            case ast.Constant(value=value) if isinstance(value, str | int | float | None):
                return limited(value)
            case ast.Name(id=name):
                if name in names:
                    return names[name]
                if name in ("inf", "nan"):
                    return float(name)
                raise Refused(f"uses {shown(name)} before it is set")
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return aten.call(self._tracer, "neg", [self._value(operand, names)])
            case ast.Tuple(elts=items):
                return tuple(self._value(item, names) for item in items)
            case ast.List(elts=items):
                return [self._value(item, names) for item in items]
            case ast.Dict(keys=keys, values=values) if None not in keys:
                return {
                    _key(self._value(k, names)): self._value(v, names)
                    for k, v in zip(keys, values, strict=True)
                    if k is not None
                }
            case ast.Subscript(value=value, slice=key):
                return self._item(self._value(value, names), self._value(key, names))
            case ast.Attribute(value=owner, attr=name):
                return self._member(expression, owner, name, names)
            case ast.Call():
                return self._call(expression, names)
            case ast.IfExp(test=test, body=body, orelse=otherwise):
                chosen = body if truth(self._value(test, names)) else otherwise
                return self._value(chosen, names)
        raise Refused(f"has a {type(expression).__name__} expression, which is not supported")

    def _item(self, container: Any, key: Any) -> Any:
        if type(container) in (list, tuple, dict) and isinstance(key, int | str):
            try:
                return container[key]
            except (LookupError, TypeError) as error:
                raise Refused(f"looks up {shown(str(key))}, which is not there") from error
        raise Refused("looks up an item of something that holds none")

    def _member(
        self, expression: ast.Attribute, owner: ast.expr, name: str, names: dict[str, Any]
    ) -> Any:
        dotted = _dotted(expression)
        root = dotted.partition(".")[0]
        if root == "CONSTANTS" and dotted.count(".") == 1 and name[1:].isdecimal():
            number = int(name[1:10])
            if number >= len(self._constants):
                raise Refused(f"names constant {number}, which the archive does not hold")
            return self._known(self._constants[number])
        if root == "__torch__":
            return _Function(dotted)
        record = self._value(owner, names)
        if not isinstance(record, Record):
            raise Refused(f"reads {shown(name)} of something that is no module")
        return self._attribute(record, name)

    def _attribute(self, record: Record, name: str) -> Any:
        key = (id(record), name)
        if key not in self._attributes:
            if name not in record.attributes:
                raise Refused(f"reads {shown(name)}, which the module does not hold")
            path = joined_path(self._paths.get(id(record), ""), name)
            raw = record.attributes[name]
            self._tracer.spend(cost(raw))
            value = self._states[path] if path in self._states else self._known(raw)
            if isinstance(value, Tensor):
                self._started[key] = value
            self._attributes[key] = value
        return self._attributes[key]

    def _known(self, raw: Any) -> Any:
        """A value from a pickle with arrays as tensors; one array is one tensor."""
        match raw:
            case Record() | str() | int() | float() | None:
                return raw
            case list() | tuple():
                items = [self._known(item) for item in raw]
                return tuple(items) if isinstance(raw, tuple) else items
            case dict():
                return {key: self._known(item) for key, item in raw.items()}
        if id(raw) not in self._tensors:
            self._tensors[id(raw)] = self._tracer.constant(raw)
        return self._tensors[id(raw)]

    def _call(self, call: ast.Call, names: dict[str, Any]) -> Any:
        if any(isinstance(a, ast.Starred) for a in call.args):
            raise Refused("unpacks arguments, which is not supported")
        if isinstance(call.func, ast.Name):
            return self._builtin(call.func.id, call.args, names)
        dotted = _dotted(call.func)
        arguments = [self._value(a, names) for a in call.args]
        named = {k.arg: self._value(k.value, names) for k in call.keywords if k.arg is not None}
        if dotted.startswith(("torch.", "ops.")):
            return self._operator(dotted, arguments, named)
        if dotted.startswith("__torch__."):
            return self._function(dotted, arguments, named)
        if not isinstance(call.func, ast.Attribute):
            raise Refused("calls something that is no function")
        owner = self._value(call.func.value, names)
        if not isinstance(owner, Record):
            raise Refused(f"calls {shown(call.func.attr)} of something that is no module")
        return self.call(owner, call.func.attr, arguments)

    def _function(self, name: str, arguments: list[Any], named: dict[str, Any]) -> Any:
        definition = self._code.function(name)
        if definition is None:
            return (*arguments, *named.values())
        return self._run(definition, arguments, named, None)

    def _builtin(self, name: str, arguments: list[ast.expr], names: dict[str, Any]) -> Any:
        if name == "uninitialized":
            return None
        if name in ("annotate", "unchecked_cast") and len(arguments) == 2:
            return self._value(arguments[1], names)
        values = [self._value(a, names) for a in arguments]
        target = names.get(name)
        if isinstance(target, _Function):
            return self._function(target.name, values, {})
        if name == "getattr" and len(values) == 2:
            owner, attribute = values
            if isinstance(owner, Record) and isinstance(attribute, str):
                return self._attribute(owner, attribute)
        if name in ("int", "float", "bool") and len(values) == 1:
            value = values[0]
            if isinstance(value, Tensor):
                value = aten.call(self._tracer, "item", [value])
            return aten.call(self._tracer, name, [value])
        raise Refused(f"calls {shown(name)}, which is not supported")

    def _operator(self, dotted: str, arguments: list[Any], named: dict[str, Any]) -> Any:
        name = dotted.rpartition(".")[2]
        if dotted.startswith("ops.prim."):
            return self._primitive(name, arguments)
        if dotted.startswith("ops.") and not dotted.startswith("ops.aten."):
            raise Refused(f"calls operator {shown(dotted)}, which is not torch's own")
        return aten.call(self._tracer, name, arguments, named)

    def _primitive(self, name: str, arguments: list[Any]) -> Any:
        match name, arguments:
            case "RaiseException", [message, *_]:
                if self._lenient:
                    return None
                said = shown(message)[1:-1] if isinstance(message, str) else "no text"
                raise Refused(f"its own check fails: {said}")
            case "dtype", [Tensor() as x]:
                return {"float": 6, "int": 4, "bool": 11}[x.kind]
            case "device", [Tensor()]:
                return "cpu"
            case "NumToTensor", [int() | float() as number]:
                return self._tracer.constant(number)
            case (("is_cuda" | "is_mkldnn"), [Tensor()]):
                return False
            case (("min" | "max"), [list() as numbers]):
                return aten.call(self._tracer, name, numbers)
            case (("data" | "requires_grad"), [Tensor() as x]):
                return x
        raise Refused(f"calls primitive {shown(name)}, which is not supported")


def _key(value: Any) -> Any:
    """A key of a dictionary as torch has them."""
    if not isinstance(value, str | int | float):
        raise Refused("has a dictionary with a key that is neither text nor number")
    return value


def joined_path(path: str, name: str) -> str:
    """The path of an attribute of the module at `path`."""
    return f"{path}.{name}" if path else name


def named_records(top: Record) -> tuple[dict[int, str], dict[str, Array]]:
    """The path of every module below `top` by identity, and every tensor by path."""
    paths: dict[int, str] = {id(top): ""}
    tensors: dict[str, Array] = {}
    pending = [top]
    while pending:
        record = pending.pop()
        for name, value in record.attributes.items():
            path = joined_path(paths[id(record)], name)
            if len(path) > LONGEST_PATH:
                raise Refused(f"has a module of a name that is too long: {shown(path)}")
            if isinstance(value, Record) and id(value) not in paths:
                paths[id(value)] = path
                pending.append(value)
            elif hasattr(value, "dtype") and hasattr(value, "shape"):
                tensors[path] = value
    return paths, tensors


def _bound(
    definition: Definition, arguments: Sequence[Any], named: Mapping[str, Any]
) -> dict[str, Any]:
    """A function's parameters by name."""
    parameters = [a.arg for a in definition.args.args]
    if len(arguments) > len(parameters):
        raise Refused(f"calls {shown(definition.name)} with too many arguments")
    names = dict(zip(parameters, arguments, strict=False))
    names |= {name: value for name, value in named.items() if name in parameters}
    defaults = definition.args.defaults
    for name, default in zip(parameters[len(parameters) - len(defaults) :], defaults, strict=True):
        if name not in names:
            try:
                names[name] = ast.literal_eval(default)
            except (ValueError, TypeError, RecursionError, MemoryError) as error:
                raise Refused(f"has a default for {shown(name)} that is no constant") from error
    missing = [name for name in parameters if name not in names]
    if missing:
        raise Refused(f"calls {shown(definition.name)} without {shown(missing[0])}")
    return names


def _dotted(expression: ast.expr) -> str:
    """`a.b.c` as text; "" for any other expression."""
    parts: list[str] = []
    while isinstance(expression, ast.Attribute):
        parts.append(expression.attr)
        expression = expression.value
    if not isinstance(expression, ast.Name):
        return ""
    return ".".join([expression.id, *reversed(parts)])
