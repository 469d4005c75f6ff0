"""Programs with memory: what a torch module writes into its buffers becomes states.

A module is executed symbolically with all buffers as known numbers; those that it wrote to are
inputs of the graph in the next execution, until no others are written to. States that do not
reach the action are then left out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from edgerl.errors import UserError
from edgerl.policies.importers.aten.layout import reshaped
from edgerl.policies.importers.aten.symbolic import Array, Refused, Shape, Tensor, Tracer, between
from edgerl.policies.names import as_identifier, distinct, shown
from edgerl.policies.spec import Signal

MOST_STATES = 64


@dataclass(frozen=True)
class Module:
    """A torch program that can be executed on symbols.

    `buffers` are the numbers it starts from. `execute` runs one step: it gets the inputs, and
    the buffers that are states, and returns the outputs in order and, by name, the buffers
    that it wrote to. It raises Refused.
    """

    buffers: Mapping[str, Array]
    execute: Callable[
        [Tracer, Sequence[Tensor], Mapping[str, Tensor]],
        tuple[Sequence[Tensor], Mapping[str, Tensor]],
    ]


@dataclass(frozen=True)
class Traced:
    """A module's step as a graph, the observation's signals where it has several, and what
    was taken for granted."""

    graph: onnx.ModelProto
    observation: tuple[Signal, ...] | None
    assumed: tuple[str, ...]


def traced(module: Module, inputs: Sequence[tuple[str, Shape]], where: str) -> Traced:
    """The graph of one step of a module whose inputs have these names and shapes.

    With as many outputs as inputs, those after the first are states; with one output, all
    inputs together are the observation. Raises UserError naming `where`, and what the module
    holds that no policy can.
    """
    try:
        return _traced(module, inputs, where)
    except Refused as error:
        raise refusal(error, where) from error


def refusal(error: Refused, where: str) -> UserError:
    """A refusal as the user reads it."""
    return UserError(": ".join(part for part in (where, error.at, str(error)) if part))


def _traced(module: Module, inputs: Sequence[tuple[str, Shape]], where: str) -> Traced:
    states: tuple[str, ...] = ()
    ignored: frozenset[str] = frozenset()
    joined = False
    for _ in range(MOST_STATES):
        tracer = Tracer()
        given = _joined_inputs(tracer, inputs) if joined else _inputs(tracer, inputs)
        names = _state_names(states, [name for name, _ in inputs])
        held = {
            state: tracer.input(name, module.buffers[state].shape)
            for state, name in zip(states, names, strict=True)
        }
        outputs, written = module.execute(tracer, given, held)
        if len(inputs) > 1 and len(outputs) == 1 and not joined:
            joined = True
            continue
        for name, after_step in written.items():
            if name not in module.buffers or not isinstance(after_step, Tensor):
                raise Refused(f"writes to {shown(name)}, which is no buffer of the module")
        new = tuple(name for name in written if name not in ignored and name not in states)
        if new:
            states += new
            continue
        explicit = [] if joined else list(inputs[1:])
        _check_outputs(outputs, explicit, where)
        after = [written.get(state, held[state]) for state in states]
        _write_outputs(tracer, outputs[0], [*outputs[1:], *after], [*explicit], names, where)
        graph = tracer.graph.finished()
        dead = _dead(graph, len(inputs) if not joined else 1, states)
        if not dead:
            _refuse_other_starts(module, states, where)
            signals = _signals(inputs) if joined else None
            return Traced(graph, signals, (*_unread(graph, explicit), *_assumed(states)))
        states = tuple(state for state in states if state not in dead)
        ignored |= dead
    raise UserError(f"{where}: writes to more than {MOST_STATES} buffers; no controller does")


def _inputs(tracer: Tracer, inputs: Sequence[tuple[str, Shape]]) -> list[Tensor]:
    names = ["observation", *(f"input_{k}" for k in range(1, len(inputs)))]
    for k, (name, _) in enumerate(inputs[1:], start=1):
        plain = as_identifier(name, "state")
        names[k] = plain if plain not in names else names[k]
    return [tracer.input(n, shape) for n, (_, shape) in zip(names, inputs, strict=True)]


def _joined_inputs(tracer: Tracer, inputs: Sequence[tuple[str, Shape]]) -> list[Tensor]:
    """All inputs as views of one observation."""
    sizes = [int(np.prod(shape)) for _, shape in inputs]
    whole = tracer.input("observation", (sum(sizes),))
    ends = np.cumsum([0, *sizes])
    return [
        reshaped(tracer, tracer.view(whole, between(int(a), int(a) + n)), shape)
        for a, n, (_, shape) in zip(ends[:-1], sizes, inputs, strict=True)
    ]


def _signals(inputs: Sequence[tuple[str, Shape]]) -> tuple[Signal, ...]:
    names: list[str] = []
    for name, _ in inputs:
        plain = as_identifier(name, "observation")
        names.append(distinct(plain, names))
    return tuple(
        Signal(name=name, size=int(np.prod(shape)), range=(-1.0e6, 1.0e6), unit="1", frame="")
        for name, (_, shape) in zip(names, inputs, strict=True)
    )


def _state_names(states: Sequence[str], taken: Sequence[str]) -> list[str]:
    """A plain name for each state, after its buffer."""
    names: list[str] = []
    for state in states:
        name = as_identifier(state.rpartition(".")[2], "state")
        names.append(distinct(name, (*names, *taken, "observation", "action")))
    return names


def _check_outputs(
    outputs: Sequence[Tensor], explicit: Sequence[tuple[str, Shape]], where: str
) -> None:
    if not outputs:
        raise UserError(f"{where}: returns no tensor; the first one returned is the action")
    if len(outputs) != 1 + len(explicit):
        raise UserError(
            f"{where}: takes {1 + len(explicit)} tensors and returns {len(outputs)}; after the "
            "observation and the action, each state needs one of both"
        )


def _write_outputs(
    tracer: Tracer,
    action: Tensor,
    after: Sequence[Tensor],
    explicit: Sequence[tuple[str, Shape]],
    names: Sequence[str],
    where: str,
) -> None:
    if action.size < 1 or action.known:
        raise UserError(f"{where}: the action does not depend on the observation")
    tracer.graph.output(tracer.row(action), "action", action.size)
    titles = [f"input {shown(name)}" for name, _ in explicit] + [f"buffer {n}" for n in names]
    sizes = [int(np.prod(shape)) for _, shape in explicit]
    for k, (title, state) in enumerate(zip(titles, after, strict=True)):
        if k < len(sizes) and state.size != sizes[k]:
            raise UserError(
                f"{where}: {title} has {sizes[k]} values, what is returned for it {state.size}"
            )
        tracer.graph.output(tracer.row(state), f"next_{k}", state.size)


def _dead(graph: onnx.ModelProto, first: int, states: Sequence[str]) -> frozenset[str]:
    """The states that the action never depends on. States are inputs from `first` on."""
    inputs = [value.name for value in graph.graph.input]
    outputs = [value.name for value in graph.graph.output]
    producer = {name: node for node in graph.graph.node for name in node.output if name}
    needed: set[str] = set()
    open_ends = [outputs[0], *outputs[1:first]]
    while open_ends:
        name = open_ends.pop()
        if not name or name in needed:
            continue
        needed.add(name)
        if name in producer:
            open_ends += producer[name].input
        elif name in inputs[1:]:
            open_ends.append(outputs[inputs.index(name)])
    return frozenset(
        s for s, name in zip(states, inputs[first:], strict=True) if name not in needed
    )


def _refuse_other_starts(module: Module, states: Sequence[str], where: str) -> None:
    for state in states:
        if np.any(module.buffers[state]):
            raise UserError(
                f"{where}: buffer {shown(state)} is a state and does not start at zero, which "
                "every state of a policy does; reset the module before saving it"
            )


def _unread(graph: onnx.ModelProto, explicit: Sequence[tuple[str, Shape]]) -> tuple[str, ...]:
    """A warning for every state that goes in and has no effect."""
    read = {name for node in graph.graph.node for name in node.input}
    ports = graph.graph.input[1 : 1 + len(explicit)]
    return tuple(
        f"WARNING: state {shown(name)[1:-1]} is never read; was one example tensor given for two "
        "inputs when the module was exported?"
        for (name, _), port in zip(explicit, ports, strict=True)
        if port.name not in read
    )


def _assumed(states: Sequence[str]) -> tuple[str, ...]:
    names = ", ".join(shown(state)[1:-1] for state in states)
    return (f"states: {names}, the buffers that forward() writes to",) if states else ()
