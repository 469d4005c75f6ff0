"""Taps: a package whose action is every tensor of the network, so that two builds of it can be
compared tensor by tensor."""

from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from edgerl.policies import Policy
from edgerl.policies.spec import PolicySpec, Signal
from edgerl.toolchain import ir
from edgerl.toolchain.report.elements import elements

# The widest range and the longest signal that a spec may have.
_RANGE = (-1e30, 1e30)
_LONGEST = 65536


@dataclass(frozen=True)
class Tap:
    """One tensor of a program: where it begins among all of them, who writes it, and what its
    elements are called."""

    tensor: str
    first: int
    operation: str
    elements: tuple[str, ...]


def tapped(program: ir.Program) -> ir.Program:
    """A pass: the same operations in the same order, but the action is all tensors in one:
    observation, states, then results in the order of operations."""
    names = _order(program)
    action = "tensors"
    while action in program.tensors:
        action += "_"
    picks = tuple((k, i) for k, name in enumerate(names) for i in range(program.size(name)))
    gather = ir.Gather(tuple(names), picks, action)
    return replace(
        program,
        action=action,
        operations=(*program.operations, gather),
        tensors={**program.tensors, action: ir.Tensor(len(picks))},
    )


def taps(program: ir.Program, spec: PolicySpec) -> list[Tap]:
    """What the action of `tapped(program)` consists of, in order. `spec` names the elements."""
    total = len(program.operations)
    written = {
        name: f"operation {k} of {total}, {describe(operation, program)}"
        for k, operation in enumerate(program.operations, 1)
        for name in ir.writes(operation)
    }
    known = {program.observation: elements(spec.observation), program.action: elements(spec.action)}
    for state, (before, after) in zip(spec.state, program.states, strict=True):
        known |= {before: elements([state]), after: elements([state])}
    found, first = [], 0
    for name in _order(program):
        size = program.size(name)
        called = known.get(name) or [f"{name}[{i}]" for i in range(size)]
        by = written.get(name, "what the network is given")
        found.append(Tap(name, first, by, tuple(called)))
        first += size
    return found


def exposing(policy: Policy, size: int) -> Policy:
    """`policy` with an action of `size` elements of any value, as `tapped` has it."""
    parts = [min(_LONGEST, size - start) for start in range(0, size, _LONGEST)]
    action = tuple(
        Signal(name=f"tensors_{k}", size=part, range=_RANGE) for k, part in enumerate(parts)
    )
    return replace(policy, spec=policy.spec.model_copy(update={"action": action, "fallback": ()}))


def describe(operation: ir.Operation, program: ir.Program) -> str:
    """An operation in words: what it is, sizes in and out."""
    match operation:
        case ir.Activate():
            kind: str = operation.activation
        case ir.Binary():
            kind = operation.operation
        case _:
            kind = type(operation).__name__.lower()
    read = " + ".join(str(program.size(x)) for x in ir.reads(operation)) or "nothing"
    after = getattr(operation, "activation", None) if isinstance(operation, ir.Dense) else None
    size = program.size(ir.writes(operation)[0])
    return f"{kind} {read} -> {size}" + (f", {after}" if after else "")


def grafted(base: str, changed: str, onto: str) -> str | None:
    """`onto` with the changes, line by line, that lead from `base` to `changed`; None where one
    of them touches lines that `onto` has otherwise than `base`."""
    old, new, lines = (text.splitlines(keepends=True) for text in (base, changed, onto))
    place: dict[int, int] = {-1: -1}
    for start, there, length in SequenceMatcher(None, old, lines).get_matching_blocks():
        place.update(zip(range(start, start + length), range(there, there + length), strict=True))
    for tag, start, stop, first, last in reversed(SequenceMatcher(None, old, new).get_opcodes()):
        if tag == "equal":
            continue
        touched = [place.get(k) for k in range(start, stop)] or [place.get(start - 1)]
        at = touched[0]
        if at is None or touched != list(range(at, at + len(touched))):
            return None
        at += start == stop
        lines[at : at + stop - start] = new[first:last]
    return "".join(lines)


def _order(program: ir.Program) -> list[str]:
    """Every tensor once: what is given, then what is written, in order."""
    given = [program.observation, *(before for before, _ in program.states)]
    return [*given, *(name for op in program.operations for name in ir.writes(op))]
