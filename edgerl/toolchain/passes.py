"""Passes: functions `Program -> Program` that keep what a program computes."""

from dataclasses import replace

from edgerl.toolchain.ir import Given, Operation, Program, reads, renamed, writes


def dead_code(program: Program) -> Program:
    """Without the operations and tensors that neither the action nor a state needs."""
    needed = {program.action, *(after for _, after in program.states)}
    kept: list[Operation] = []
    for operation in reversed(program.operations):
        if needed.intersection(writes(operation)):
            kept.append(operation)
            needed.update(reads(operation))
    kept.reverse()
    inputs = {program.observation, *(before for before, _ in program.states)}
    used = inputs.union(*(writes(operation) for operation in kept))
    tensors = {name: t for name, t in program.tensors.items() if name in used}
    ranges = {name: given for name, given in program.given.ranges.items() if name in used}
    rows = {key: given for key, given in program.given.rows.items() if used.issuperset(key)}
    given = Given(ranges, rows)
    return replace(program, operations=tuple(kept), tensors=tensors, given=given)


def in_order(program: Program) -> Program | None:
    """The operations put where their operands exist, otherwise in the order they have; None
    when they depend on each other in a circle."""
    ready = {program.observation, *(before for before, _ in program.states)}
    producer = {name: k for k, op in enumerate(program.operations) for name in writes(op)}
    placed: list[Operation] = []
    done: set[int] = set()
    open_now: set[int] = set()
    for first in range(len(program.operations)):
        stack = [first]
        while stack:
            k = stack[-1]
            operation = program.operations[k]
            missing = [x for x in reads(operation) if x not in ready]
            if k in done:
                stack.pop()
            elif not missing:
                stack.pop()
                done.add(k)
                open_now.discard(k)
                placed.append(operation)
                ready.update(writes(operation))
            elif k in open_now:
                return None
            else:
                open_now.add(k)
                stack.extend(producer[x] for x in reversed(missing))
    return replace(program, operations=tuple(placed))


def named(program: Program) -> Program:
    """Intermediate tensors named after what makes them: `dense_0`, `gru_1`, `tanh_2`…"""
    outside = {
        program.observation,
        program.action,
        *(name for pair in program.states for name in pair),
    }
    names: dict[str, str] = {}
    for k, operation in enumerate(program.operations):
        kind = str(getattr(operation, "activation", None) or type(operation).__name__).lower()
        for which, name in enumerate(writes(operation)):
            if name not in outside:
                wanted = f"{kind}_{k}" if which == 0 else f"{kind}_{k}_cell"
                while wanted in outside:
                    wanted += "t"
                names[name] = wanted
    tensors = {names.get(name, name): t for name, t in program.tensors.items()}
    operations = tuple(renamed(operation, names) for operation in program.operations)
    given = Given(
        {names.get(name, name): range_ for name, range_ in program.given.ranges.items()},
        {(names.get(y, y), names.get(x, x)): rows for (y, x), rows in program.given.rows.items()},
    )
    return replace(program, operations=operations, tensors=tensors, given=given)
