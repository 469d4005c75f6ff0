"""TorchScript archives (torch.jit.save of scripted or traced modules), read without torch.

The archive's code is interpreted on symbols (`interpreter.py`). It does not say how long
the observation is; the sizes of the inputs follow from what the weights take.
"""

import ast
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from itertools import product
from typing import Any

from edgerl.errors import UserError
from edgerl.policies.assembly import Found
from edgerl.policies.importers.aten.scalars import cost
from edgerl.policies.importers.aten.stateful import Module, refusal, traced
from edgerl.policies.importers.aten.symbolic import (
    Budget,
    Mismatch,
    Refused,
    Shape,
    Tensor,
    Tracer,
)
from edgerl.policies.importers.containers.archive import Archive
from edgerl.policies.importers.containers.records import Record, record
from edgerl.policies.importers.containers.torch_archive import read_torch
from edgerl.policies.importers.torchscript.interpreter import Interpreter, named_records
from edgerl.policies.importers.torchscript.source import Code
from edgerl.policies.names import shown

MOST_INPUTS = 16
MOST_TRIALS = 300
# Trials end at the first size that does not fit; so many may go as far as any program may.
MOST_FULL_TRIALS = 4
MOST_LENGTHS = 12
# Where the search for a size starts: divisible by 2 to 10, and like no layer.
_FIRST_SIZE = 2520
# Shapes that observations and states come in; n is what is sought.
_OBSERVATIONS: tuple[Callable[[int], Shape], ...] = (
    lambda n: (1, n), lambda n: (n,), lambda n: (1, 1, n),
)  # fmt: skip
_STATES: tuple[Callable[[int], Shape], ...] = (
    lambda n: (1, n), lambda n: (1, 1, n), lambda n: (2, 1, n), lambda n: (3, 1, n),
    lambda n: (n,),
)  # fmt: skip

# What an annotation of forward() says an input is: a tensor by name, or a tuple of inputs.
Structure = str | tuple["Structure", ...]


def found(archive: Archive, root: str, provenance: dict[str, str]) -> Found:
    """What the TorchScript archive under `root` holds: the module's forward() as one step, the
    buffers that it writes to as states.

    Raises UserError naming file, module, line and operator when the module holds what no
    policy can, or does not fix the size of its observation.
    """
    top = read_torch(archive, f"{root}/data.pkl", _known_name)
    if not isinstance(top, Record) or not top.kind.startswith("__torch__."):
        raise UserError(f"{archive.where}: holds no TorchScript module")
    constants: Any = ()
    if f"{root}/constants.pkl" in archive:
        constants = read_torch(archive, f"{root}/constants.pkl", _known_name)
    try:
        program = _Program(archive, root, top, constants if isinstance(constants, tuple) else ())
        structures = program.inputs()
        inputs = _sizes(program, structures)
    except Refused as error:
        raise refusal(error, archive.where) from error
    except RecursionError as error:
        raise UserError(f"{archive.where}: forward() takes what is nested too deeply") from error
    module = Module(program.buffers, lambda t, given, held: program.step(t, given, held, False))
    result = traced(module, inputs, archive.where)
    size = sum(_elements(shape) for _, shape in inputs) if result.observation else None
    length = size or _elements(inputs[0][1])
    said = f"observation: {length} values, which is what the module's weights take"
    return Found(
        result.graph,
        provenance,
        observation=result.observation,
        assumed=(said, *result.assumed),
    )


def _elements(shape: Shape) -> int:
    size = 1
    for n in shape:
        size *= n
    return size


def _known_name(name: str) -> Any:
    if name.startswith("__torch__."):
        return record(name)
    return _JIT_NAMES.get(name)


def _list(items: Any) -> Any:
    if not isinstance(items, list):
        raise ValueError("a list that is none")
    return items


# Lists and dictionaries with their element type, as TorchScript's pickler writes them.
_JIT_NAMES: Mapping[str, Callable[..., Any]] = {
    **{
        f"torch.jit._pickle.{name}": _list
        for name in ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")
    },
    "torch.jit._pickle.restore_type_tag": lambda value, _type: value,
}


class _Program:
    """A module of the archive with its code."""

    def __init__(self, archive: Archive, root: str, top: Record, constants: tuple[Any, ...]):
        self._top, self._constants = top, constants
        self._code = Code(archive, root)
        self._paths, self.buffers = named_records(top)
        self._structures: tuple[Structure, ...] = ()

    def inputs(self) -> tuple[Structure, ...]:
        """What forward() takes: names, in tuples as it wants them."""
        definition = self._code.method(self._top.kind, "forward")
        if definition is None:
            raise Refused("the module has no method forward()")
        parameters = definition.args.args[1:]
        needed = parameters[: len(parameters) - len(definition.args.defaults)]
        if not 1 <= len(needed) <= MOST_INPUTS:
            raise Refused(f"forward() takes {len(needed)} inputs; 1 to {MOST_INPUTS} are possible")
        self._structures = tuple(_structure(a.arg, a.annotation) for a in needed)
        return self._structures

    def lengths(self) -> list[int]:
        """Lengths of the vectors that the module's weights take."""
        lengths = {x.shape[-1] for x in self.buffers.values() if len(x.shape) == 2}
        return sorted(lengths)[:MOST_LENGTHS]

    def step(
        self, tracer: Tracer, given: Sequence[Tensor], held: Mapping[str, Tensor], lenient: bool
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """One call of forward(): its outputs and the buffers that it wrote to."""
        interpreter = Interpreter(self._code, tracer, self._constants, self._paths, held, lenient)
        leaves = iter(given)
        arguments = [_filled(structure, leaves) for structure in self._structures]
        try:
            result = interpreter.call(self._top, "forward", arguments)
        except RecursionError as error:
            raise Refused("is nested too deeply") from error
        tracer.spend(cost(result))
        return _leaves(result), interpreter.written()


def _structure(name: str, annotation: ast.expr | None, depth: int = 0) -> Structure:
    match annotation:
        case None | ast.Name(id="Tensor"):
            return name
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner) if depth < 4:
            return _structure(name, inner, depth + 1)
        case ast.Subscript(value=ast.Name(id="Tuple"), slice=ast.Tuple(elts=parts)) if depth < 4:
            return tuple(_structure(f"{name}_{k}", part, depth + 1) for k, part in enumerate(parts))
    kind = shown(ast.unparse(annotation))[1:-1]
    raise Refused(
        f"forward() takes {shown(name)} of type {kind}; tensors and tuples of them are possible "
        "(wrap the module in one that takes the observation as one tensor)"
    )


def _filled(structure: Structure, leaves: Any) -> Any:
    if isinstance(structure, str):
        return next(leaves)
    return tuple(_filled(part, leaves) for part in structure)


def _names(structures: Sequence[Structure]) -> list[str]:
    names: list[str] = []
    for structure in structures:
        names += [structure] if isinstance(structure, str) else _names(structure)
    return names


def _leaves(value: Any, depth: int = 0) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple | dict) and depth < 4:
        items = value.values() if isinstance(value, dict) else value
        return [leaf for item in items for leaf in _leaves(item, depth + 1)]
    return []


def _sizes(program: _Program, structures: Sequence[Structure]) -> list[tuple[str, Shape]]:
    """A name and a shape for each input, such that a step can be executed."""
    names = _names(structures)
    states = len(names) - 1
    trials = _Trials(program)
    first: Refused | None = None
    # States have one size, that of some layer, or each follows from the weights that it meets.
    lengths = [*program.lengths(), None] if states else [None]
    for observation, state, length in product(
        _OBSERVATIONS, _STATES if states else _STATES[:1], lengths
    ):
        shapes = [observation, *[state] * states]
        known = [None, *[length] * states]
        try:
            sizes = trials.solved(shapes, known)
        except Refused as error:
            first = first or error
            continue
        return [(name, shape(n)) for name, shape, n in zip(names, shapes, sizes, strict=True)]
    raise first or Refused("has no input")


class _Trials:
    """Executions with sizes on trial. In a policy every size in the program grows linearly
    with those of its inputs, so two executions tell which size makes a third one fit."""

    def __init__(self, program: _Program) -> None:
        self._program = program
        self._left = MOST_TRIALS
        self._budget = Budget(MOST_FULL_TRIALS)

    def solved(
        self, shapes: Sequence[Callable[[int], Shape]], known: Sequence[int | None]
    ) -> list[int]:
        """Sizes, some of them `known`, for which a step can be executed; Refused where there
        are none, or any size would do."""
        sizes = [n or _FIRST_SIZE * (k + 1) for k, n in enumerate(known)]
        sought = [k for k, n in enumerate(known) if n is None]
        found: set[int] = set()
        while (excess := self._excess(shapes, sizes)) is not None:
            for k in sought:
                fitting = self._fitting(shapes, sizes, k, excess)
                if fitting is not None:
                    sizes[k] = fitting
                    found.add(k)
                    break
            else:
                raise excess
        if found != set(sought):
            raise Refused(
                "its weights do not say how many values the observation has; export the module "
                "with torch.export (.pt2) or torch.onnx.export, which record it"
            )
        # Sizes that fit in number may still be of another shape than the module's checks ask for.
        self._excess(shapes, sizes, lenient=False)
        return sizes

    def _fitting(
        self, shapes: Sequence[Callable[[int], Shape]], sizes: Sequence[int], k: int, now: Mismatch
    ) -> int | None:
        """The size of input k that removes a mismatch; None where it has no influence on it."""
        doubled = [*sizes[:k], 2 * sizes[k], *sizes[k + 1 :]]
        then = self._excess(shapes, doubled)
        if then is None or then.excess == now.excess:
            return None
        fitting = Fraction(sizes[k]) - Fraction(now.excess * sizes[k], then.excess - now.excess)
        return int(fitting) if fitting >= 1 and fitting.denominator == 1 else None

    def _excess(
        self, shapes: Sequence[Callable[[int], Shape]], sizes: Sequence[int], lenient: bool = True
    ) -> Mismatch | None:
        self._left -= 1
        if self._left < 0:
            raise Refused("no size of the observation was found that the module's weights take")
        tracer = Tracer(self._budget)
        given = [
            tracer.input(f"input_{k}", shape(n))
            for k, (shape, n) in enumerate(zip(shapes, sizes, strict=True))
        ]
        try:
            outputs, _ = self._program.step(tracer, given, {}, lenient)
        except Mismatch as error:
            return error
        action = outputs[0] if outputs else None
        if action is not None and len(action.shape) > 1 and action.shape[0] != 1:
            return Mismatch(f"returns {action.shape[0]} actions", action.shape[0], 1)
        for n, output in zip(sizes[1:], outputs[1:], strict=False):
            rows = shapes[-1](n)
            if output.size != _elements(rows):
                return Mismatch(f"returns {output.size} values", output.size, _elements(rows))
        return None
