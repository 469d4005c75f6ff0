"""Memory that a network expects somebody to keep: past observations, the previous action.

Many policies were trained on stacked observations, or on their own last action. A spec says so
(`history`, `kept`), and here the graph is given that memory as state: the emitted code then
keeps it, and the outside gives each signal once.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import onnx
from onnx import TensorProto, helper
from pydantic import Field, model_validator

from edgerl.documents import read_toml, validated
from edgerl.errors import UserError
from edgerl.policies.boundary import Boundary
from edgerl.policies.graph import GraphBuilder
from edgerl.policies.spec import PolicySpec, Signal, StateSignal

_OBSERVED = "edgerl_observed"
_MOST_STEPS = 256
Order = Literal["oldest_first", "newest_first"]
Fill = Literal["zero", "first"]


class NetworkSignal(Signal):
    """A signal as the network takes it: `history` of them in a row, or `kept` by the code."""

    history: int = Field(
        default=1,
        ge=1,
        le=_MOST_STEPS,
        description="How many of its last values the network takes, this step's included; "
        "the emitted code keeps them.",
    )
    order: Order = Field(
        default="oldest_first", description="Which end of the history stands first."
    )
    fill: Fill = Field(
        default="zero",
        description="What the history holds after a reset: zeros, or the first value repeated.",
    )
    kept: bool = Field(
        default=False,
        description="This is the policy's own previous action; the emitted code feeds it back.",
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.kept and self.fill != "zero":
            raise ValueError("what is kept of actions starts at zero; leave out 'fill'")
        return self


class NetworkSpec(PolicySpec):
    """A spec file: a PolicySpec whose observation may ask for memory.

    `observation_history` stacks whole observations, as frame stacking does; `history` of one
    signal stacks that signal alone, where it stands.
    """

    observation: tuple[NetworkSignal, ...] = Field(
        min_length=1, description="The signals that the network takes, in order."
    )
    observation_history: int = Field(
        default=1,
        ge=1,
        le=_MOST_STEPS,
        description="How many of the last observations the network takes, oldest first; the "
        "emitted code keeps them.",
    )
    observation_fill: Fill = Field(
        default="zero",
        description="What it holds after a reset: zeros, or the first observation repeated.",
    )

    @model_validator(mode="after")
    def _one_kind_of_memory(self) -> Self:
        of_signals = [s.name for s in self.observation if s.history > 1 or s.kept]
        if self.observation_history > 1 and of_signals:
            raise ValueError(
                f"observation_history stacks whole observations; signal {of_signals[0]!r} asks "
                "for memory of its own"
            )
        kept = [s for s in self.observation if s.kept]
        for signal in kept:
            if signal.size != self.action_size:
                raise ValueError(
                    f"signal {signal.name!r} is kept, so it has the action's {self.action_size} "
                    f"values, not {signal.size}"
                )
        if kept and self.feedback == "applied":
            raise ValueError(
                f"signal {kept[0].name!r} cannot be kept: feedback is 'applied', which only the "
                "actuators know"
            )
        if len(kept) == len(self.observation):
            raise ValueError("every signal is kept; nothing would be observed")
        return self

    @property
    def remembers(self) -> bool:
        """Whether the emitted code has memory to keep."""
        return self.observation_history > 1 or any(
            s.history > 1 or s.kept for s in self.observation
        )

    @property
    def network_size(self) -> int:
        """Elements that the network takes."""
        one = sum(s.size * s.history for s in self.observation)
        return one * self.observation_history

    def outside(self, states: Sequence[StateSignal]) -> PolicySpec:
        """The spec of the policy that keeps its memory itself, in `states`."""
        rows = {name: getattr(self, name) for name in PolicySpec.model_fields}
        rows["observation"] = tuple(
            Signal(**{name: getattr(s, name) for name in Signal.model_fields})
            for s in self.observation
            if not s.kept
        )
        rows["state"] = (*states, *self.state)
        return PolicySpec(**rows)


def load_spec(path: Path) -> PolicySpec:
    """Read a spec file: a NetworkSpec where it asks for memory, else the PolicySpec it is.

    Raises UserError, naming file and key, when the file is unreadable, not TOML, or not a
    valid spec.
    """
    spec = validated(NetworkSpec, read_toml(path, "spec"), str(path))
    return spec if spec.remembers else spec.outside(())


def with_memory(
    model: onnx.ModelProto, boundary: Boundary, spec: NetworkSpec, where: str
) -> tuple[onnx.ModelProto, PolicySpec]:
    """The graph with the memory that `spec` asks for as its first states, and the spec of that.

    Raises UserError where the network takes another number of values than the spec says.
    """
    if boundary.observation.size != spec.network_size:
        raise UserError(
            f"{where}: with its history the spec's observation has {spec.network_size} values, "
            f"the network takes {boundary.observation.size}"
        )
    return _Keeper(model, boundary, spec).result()


class _Keeper:
    """Writes the nodes before and after a network that keep its memory."""

    def __init__(self, model: onnx.ModelProto, boundary: Boundary, spec: NetworkSpec) -> None:
        self._model, self._boundary, self._spec = model, boundary, spec
        self._before = GraphBuilder("edgerl_before_")
        self._after = GraphBuilder("edgerl_after_")
        self._states: list[StateSignal] = []
        self._next: list[str] = []

    def result(self) -> tuple[onnx.ModelProto, PolicySpec]:
        """The whole step, and its spec."""
        spec, port, build = self._spec, self._boundary.observation, self._before
        size = sum(s.size for s in spec.observation if not s.kept)
        parts: list[str] = []
        start = 0
        for s in spec.observation:
            if s.kept:
                parts.append(self._actions(s))
                continue
            whole = s.size == size
            here = _OBSERVED if whole else build.cut(_OBSERVED, start, start + s.size)
            parts.append(
                self._stacked(f"{s.name}_history", here, s.size, s.history, s.order, s.fill)
            )
            start += s.size
        stacked = self._stacked(
            "observation_history", build.concat(parts), size,
            spec.observation_history, "oldest_first", spec.observation_fill,
        )  # fmt: skip
        build.add("Reshape", [stacked, build.integers(port.shape)], name=port.name)
        return self._joined(size), spec.outside(self._states)

    def _stacked(self, name: str, x: str, size: int, steps: int, order: Order, fill: Fill) -> str:
        """x with its `steps` - 1 predecessors, of which a state is made."""
        if steps == 1:
            return x
        build, after, past = self._before, self._after, size * (steps - 1)
        many = "the value" if steps == 2 else f"the {steps - 1} values"
        ends = order.replace("_", " ")
        of = name.removesuffix("_history")
        state, slot = self._state(name, past, f"{many} of {of} before this one, {ends}")
        before = state
        if fill == "first":
            # The state is zero until there was a first value, which then stands for all.
            started, flag = self._state(
                f"{name[:30]}_started", 1, "1 once there was a value since the reset"
            )
            first = build.add("Sub", [build.constant([1.0]), started])
            repeated = build.add("Mul", [build.concat([x] * (steps - 1)), first])
            before = build.add("Add", [state, repeated])
            self._next[flag] = after.add("Add", [started, first])
        both = build.concat([before, x] if order == "oldest_first" else [x, before])
        start = size if order == "oldest_first" else 0
        self._next[slot] = after.cut(both, start, start + past)
        return both

    def _actions(self, signal: NetworkSignal) -> str:
        """The last `history` actions, kept as the spec's feedback says."""
        spec, action, after = self._spec, self._boundary.action, self._after
        many = "the action before" if signal.history == 1 else f"the last {signal.history} actions"
        state, slot = self._state(
            signal.name, signal.size * signal.history, f"{many}, {spec.feedback}; fed back here"
        )
        latest = after.add("Reshape", [action.name, after.integers([1, action.size])])
        if spec.feedback == "clamped":
            latest = after.clip(latest, *zip(*spec.action_ranges(), strict=True))
        past, oldest_first = signal.size * (signal.history - 1), signal.order == "oldest_first"
        if past:
            start = signal.size if oldest_first else 0
            kept = after.cut(state, start, start + past)
            latest = after.concat([kept, latest] if oldest_first else [latest, kept])
        self._next[slot] = latest
        return state

    def _state(self, name: str, size: int, about: str) -> tuple[str, int]:
        """A new state: its tensor, and its place among the states."""
        self._states.append(StateSignal(name=name[:40].rstrip("_"), size=size, about=about))
        self._next.append("")
        return _past(len(self._states)), len(self._states) - 1

    def _joined(self, size: int) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        graph = model.graph
        weights = {tensor.name for tensor in graph.initializer}
        inputs = [port for port in graph.input if port.name not in weights]
        outputs, nodes = list(graph.output), list(graph.node)
        del graph.input[:], graph.output[:], graph.node[:]
        graph.node.extend([*self._before.nodes, *nodes, *self._after.nodes])
        graph.initializer.extend([*self._before.weights, *self._after.weights])
        past = [_port(_past(k), s.size) for k, s in enumerate(self._states, 1)]
        after = [_port(n, s.size) for n, s in zip(self._next, self._states, strict=True)]
        graph.input.extend([_port(_OBSERVED, size), *past, *inputs[1:]])
        graph.output.extend([outputs[0], *after, *outputs[1:]])
        return model


def _past(number: int) -> str:
    return f"edgerl_past_{number}"


def _port(name: str, size: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])
