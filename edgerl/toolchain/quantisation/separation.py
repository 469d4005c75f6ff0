"""Separation: one state of several vectors, as stacked memories have, taken apart.

A network of two LSTM layers may have one hidden state that each layer gathers its part of, and
that both write in the end. Each part that is gathered, used and replaced as a whole becomes a
state of its own, which no gather moves any more.
"""

from dataclasses import replace

from edgerl.toolchain.ir import Gather, Program, reads, renamed, writes
from edgerl.toolchain.passes import dead_code


def separated_states(program: Program) -> Program:
    """The program with every state taken apart that can be, its parts numbered in its place."""
    states: list[tuple[str, str]] = []
    names: dict[str, str] = {}
    gone: set[str] = set()
    for before, after in program.states:
        parts = _parts(program, before, after)
        if not parts:
            states.append((before, after))
        else:
            gone |= {before, after, *(part for part, _ in parts)}
        for number, (part, origin) in enumerate(parts):
            name = f"{before}_{number}"
            while name in program.tensors:
                name += "t"
            names[part] = name
            states.append((name, origin))
    operations = (op for op in program.operations if not gone.intersection(writes(op)))
    tensors = {
        names.get(name, name): tensor
        for name, tensor in program.tensors.items()
        if name not in gone or name in names
    }
    return dead_code(
        replace(
            program,
            states=tuple(states),
            operations=tuple(renamed(op, names) for op in operations),
            tensors=tensors,
        )
    )


def _parts(program: Program, before: str, after: str) -> list[tuple[str, str]]:
    """What gathers each part of a state and what replaces it; none where it is no sum of parts."""
    made = {name: op for op in program.operations for name in writes(op)}
    last = made[after]
    outside = {before, program.action, *(name for _, name in program.states)}
    if not isinstance(last, Gather) or any(after in reads(op) for op in program.operations):
        return []
    parts: list[tuple[str, str]] = []
    covered: list[int] = []
    for op in program.operations:
        if before not in reads(op):
            continue
        if not (isinstance(op, Gather) and op.sources == (before,)) or op.y in outside:
            return []
        places = [j for _, j in op.picks]
        origin, *others = {last.sources[last.picks[j][0]] for j in places}
        whole = [last.picks[j][1] for j in places] == list(range(program.size(origin)))
        if others or not whole or origin in outside or origin not in made:
            return []
        parts.append((op.y, origin))
        covered += places
    # Two that read the same element, or that one tensor replaces, are no parts.
    alone = len(set(covered)) == len(covered) and len({o for _, o in parts}) == len(parts)
    return parts if alone else []
