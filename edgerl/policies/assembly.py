"""A graph and what is known of its signals become a Policy: the one way in for every source."""

from collections.abc import Collection
from dataclasses import dataclass, field

import onnx

from edgerl.errors import UserError
from edgerl.policies.boundary import Boundary, agree, canonical, find
from edgerl.policies.limits import examine
from edgerl.policies.memory import NetworkSpec, with_memory
from edgerl.policies.names import as_identifier, distinct, shown
from edgerl.policies.policy import Policy
from edgerl.policies.spec import PolicySpec, Signal, StateSignal

_RECURRENT = {"GRU": (5,), "RNN": (5,), "LSTM": (5, 6)}
_STATIC = ("Shape", "Size")
_MOVES = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
_LIMITING = {"Tanh", "Clip", "Min", "Max", "Sigmoid", "HardSigmoid", "Softsign", "Sin", "Cos"}
_MOST_CHOICES = 65535.0


@dataclass(frozen=True)
class Found:
    """What a source turned out to hold.

    `graph` is one step: the observation and then every state as inputs, the action and then
    every next state as outputs. `observation` and `action` are the signals that the source
    itself tells of, None where it tells nothing; `assumed` says in words what was taken for
    granted; a line that begins with "WARNING: " is one to heed.
    """

    graph: onnx.ModelProto
    provenance: dict[str, str] = field(default_factory=dict)
    formats: dict[str, str] = field(default_factory=dict)
    spec: PolicySpec | None = None
    observation: tuple[Signal, ...] | None = None
    action: tuple[Signal, ...] | None = None
    assumed: tuple[str, ...] = ()
    integers: str = ""


def assemble(found: Found, stem: str, where: str, spec: PolicySpec | None = None) -> Policy:
    """The policy of what was found in `where`; `stem` names it where nothing else does.

    `spec` stands over what the source says, that over defaults, each of which is listed in
    `Policy.assumed`; a NetworkSpec has the memory that it asks for built into the graph. The
    graph gets the boundary that every policy has. Raises UserError, in one line that names the
    tensor, node or signal, when the graph cannot be a policy's or the spec does not fit it.
    """
    model = found.graph
    spec = spec or found.spec
    examine(model, where)
    _check(model, where)
    names = tuple(state.name for state in spec.state) if spec else ()
    boundary = find(model, names, where)
    _refuse_forgetful(model, boundary, where)
    if spec is None:
        spec, assumed = _default_spec(found, stem, boundary)
    else:
        spec, assumed = _with_states(spec, boundary)
    if isinstance(spec, NetworkSpec):
        model, spec = with_memory(model, boundary, spec, where)
        boundary = find(model, (), where)
    agree(spec, boundary, where)
    graph = canonical(model, boundary, tuple(state.name for state in spec.state))
    return Policy(
        graph,
        spec,
        found.provenance,
        found.formats,
        (*found.assumed, *assumed),
        integers=found.integers,
    )


def plain_text(text: str) -> str:
    """The start of a text from elsewhere, on one line of plain characters."""
    line = " ".join(text.split())
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in line)[:200]


def _check(model: onnx.ModelProto, where: str) -> None:
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise UserError(f"{where}: not valid ONNX: {plain_text(str(error))}") from error


def _default_spec(
    found: Found, stem: str, boundary: Boundary
) -> tuple[PolicySpec, tuple[str, ...]]:
    """A spec that claims nothing but what the source says: else one free observation and one
    action in [-1, 1]."""
    n, m = boundary.observation.size, boundary.action.size
    assumed = []
    chosen = _origins(found.graph, boundary.action.name, (*_MOVES, "Concat")) == {"ArgMax"}
    if found.observation is None:
        assumed.append(
            f"observation: one signal of {n} values without a unit, valid in [-1e6, 1e6]"
        )
    if found.action is None and chosen:
        assumed.append(f"action: one signal of {m} choices by index, up to {_MOST_CHOICES:g}")
    elif found.action is None:
        limited = _origins(found.graph, boundary.action.name, _MOVES) <= _LIMITING
        doubt = "" if limited else "WARNING: "
        assumed.append(
            f"{doubt}action: one signal of {m} values, saturated to [-1, 1]; "
            "a spec may give it other limits"
        )
    spec = PolicySpec(
        name=as_identifier(stem, "policy"),
        observation=found.observation
        or (Signal(name="observation", size=n, range=(-1.0e6, 1.0e6)),),
        action=_actions(found, m, chosen),
    )
    spec, states = _with_states(spec, boundary)
    return spec, (
        f"name {spec.name}, after the file",
        *assumed,
        *states,
        f"rate {spec.rate_hz:g} Hz",
        f"out-of-range observations: {spec.out_of_range}; not finite: {spec.non_finite}",
    )


def _actions(found: Found, size: int, chosen: bool) -> tuple[Signal, ...]:
    """The action's signals; choices by an ArgMax are whole numbers."""
    limits = (0.0, _MOST_CHOICES) if chosen else (-1.0, 1.0)
    signals = found.action or (Signal(name="action", size=size, range=limits),)
    return tuple(s.model_copy(update={"discrete": chosen or s.discrete}) for s in signals)


def _origins(model: onnx.ModelProto, name: str, moves: Collection[str]) -> set[str]:
    """The operators that compute a tensor's values, behind those that only move them; "" for
    values that none computes."""
    makers = {output: node for node in model.graph.node for output in node.output}
    origins: set[str] = set()
    waiting, seen = [name], {name}
    while waiting:
        node = makers.get(waiting.pop())
        if node is None or node.op_type not in moves:
            origins.add(node.op_type if node is not None else "")
            continue
        inputs = node.input if node.op_type == "Concat" else node.input[:1]
        waiting += [each for each in inputs if each not in seen]
        seen.update(inputs)
    return origins


def _with_states(spec: PolicySpec, boundary: Boundary) -> tuple[PolicySpec, tuple[str, ...]]:
    """The spec with the graph's own states where it says nothing of states."""
    if spec.state or not boundary.states:
        return spec, ()
    states: list[StateSignal] = []
    for k, (before, _) in enumerate(boundary.states):
        # A name that is none (TorchScript's `onnx::Gemm_1`) says nothing worth keeping.
        plain = as_identifier(before.name, "state") == before.name
        name = before.name if plain else "state" if k == 0 else f"state_{k}"
        name = distinct(name, [state.name for state in states])
        states.append(StateSignal(name=name, size=before.size))
    said = ", ".join(f"{state.name} ({state.size})" for state in states)
    return spec.model_copy(update={"state": tuple(states)}), (f"state: {said}, from the graph",)


def _refuse_forgetful(model: onnx.ModelProto, boundary: Boundary, where: str) -> None:
    """UserError for a recurrent node whose state does not come from an input: it would start
    from the same state at every step."""
    changing = {boundary.observation.name, *(before.name for before, _ in boundary.states)}
    for node in model.graph.node:
        for k in _RECURRENT.get(node.op_type, ()):
            if k >= len(node.input) or node.input[k] not in changing:
                raise UserError(
                    f"{where}: operator {node.op_type} (node {shown(node.name)}) starts every "
                    "step from a constant state; export the model with its hidden state as "
                    "an input and an output"
                )
        if node.op_type not in _STATIC and changing.intersection(node.input):
            changing.update(name for name in node.output if name)
