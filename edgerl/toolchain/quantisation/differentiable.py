"""A Program in torch: its step as a differentiable function of its weights.

The definitions are those of `ir.py`, as in the interpreter. torch (an extra) is imported where it
is used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.errors import UserError
from edgerl.toolchain.ir import (
    Activate,
    Activation,
    Binary,
    Clip,
    Dense,
    Gather,
    Gru,
    Linear,
    Lstm,
    Operation,
    Program,
    writes,
)

Singles = npt.NDArray[np.float32]
Tensors = dict[str, Any]

_FIELDS: Mapping[type[Operation], tuple[str, ...]] = {
    Dense: ("bias",),
    Gru: ("w_input", "w_hidden", "b_input", "b_hidden"),
    Lstm: ("w_input", "w_hidden", "bias"),
}


def torch_library() -> Any:
    """torch; UserError, with the command that brings it, where it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise UserError("training needs torch; pip install 'edgerl[train]'") from error
    return torch


def weights_of(program: Program) -> dict[str, Singles]:
    """The weights and biases of a program's layers by name: what the layer writes, and which."""
    found: dict[str, Singles] = {}
    for operation in program.operations:
        layer = writes(operation)[0]
        for field in _FIELDS.get(type(operation), ()):
            found[f"{layer}.{field}"] = getattr(operation, field)
        if isinstance(operation, Dense):
            found |= {f"{layer}.{x}": matrix for x, matrix in operation.sources}
    return found


def with_weights_of(program: Program, weights: Mapping[str, Singles]) -> Program:
    """The program with other weights and biases, named as `weights_of` does."""

    def changed(operation: Operation) -> Operation:
        layer = writes(operation)[0]
        names = _FIELDS.get(type(operation), ())
        fields: dict[str, Any] = {name: weights[f"{layer}.{name}"] for name in names}
        if isinstance(operation, Dense):
            fields["sources"] = tuple((x, weights[f"{layer}.{x}"]) for x, _ in operation.sources)
        return replace(operation, **fields) if fields else operation

    return replace(program, operations=tuple(map(changed, program.operations)))


@dataclass(frozen=True)
class Reading:
    """How a layer reads a vector: its values limited to [low, high], and where it has a step, to
    the nearest (whole number + offset) * step, or the next towards zero; all [size]."""

    low: Any
    high: Any
    step: Any = None
    offset: Any = None
    towards_zero: bool = False

    def __call__(self, x: Any) -> Any:
        """What is read of x [B, size], with the gradient of its limits alone."""
        limited = x.clamp(self.low, self.high)
        if self.step is None:
            return limited
        with torch_library().no_grad():
            real = limited / self.step - self.offset
            whole = real.trunc() if self.towards_zero else real.round()
            rest = (whole + self.offset) * self.step - limited
        return limited + rest


@dataclass(frozen=True)
class Differentiable:
    """A program's step in torch. `readings` say how its vectors are read, by tensor; of a
    recurrent state only the matrices read so."""

    program: Program
    readings: Mapping[str, Reading]

    def reset(self, count: int) -> tuple[Any, ...]:
        """The states of `count` controllers after a reset."""
        torch = torch_library()
        return tuple(torch.zeros(count, self.program.size(x)) for x, _ in self.program.states)

    def step(
        self, weights: Mapping[str, Any], observation: Any, states: Sequence[Any]
    ) -> tuple[Any, tuple[Any, ...]]:
        """The action [B, m] and next states for an observation [B, n] and states, with torch
        tensors for weights, by the names of `weights_of`."""
        program = self.program
        whole: Tensors = {program.observation: observation}
        for (before, _), state in zip(program.states, states, strict=True):
            whole[before] = state
        read = _Read(whole, self.readings, {})
        for operation in program.operations:
            whole.update(_performed(operation, weights, whole, read))
        return whole[program.action], tuple(whole[after] for _, after in program.states)


@dataclass(frozen=True)
class _Read:
    """Vectors as they are read, each worked out once."""

    whole: Tensors
    readings: Mapping[str, Reading]
    known: Tensors

    def __getitem__(self, name: str) -> Any:
        if name not in self.known:
            x = self.whole[name]
            self.known[name] = self.readings[name](x) if name in self.readings else x
        return self.known[name]


def _performed(
    operation: Operation, weights: Mapping[str, Any], whole: Tensors, read: _Read
) -> list[tuple[str, Any]]:
    """What one operation writes."""
    torch = torch_library()
    layer = writes(operation)[0]
    own = {name: weights[f"{layer}.{name}"] for name in _FIELDS.get(type(operation), ())}
    match operation:
        case Dense(sources, _, y, activation, alpha):
            total = own["bias"]
            for x, _ in sources:
                total = torch.addmm(total, read[x], weights[f"{layer}.{x}"].T)
            return [(y, _activated(activation, total, alpha))]
        case Gru(x=x, h=h):
            of_x = torch.addmm(own["b_input"], read[x], own["w_input"].T).chunk(3, dim=-1)
            of_h = torch.addmm(own["b_hidden"], read[h], own["w_hidden"].T).chunk(3, dim=-1)
            r, z = (torch.sigmoid(of_x[k] + of_h[k]) for k in (0, 1))
            new = torch.tanh(of_x[2] + r * of_h[2])
            return [(layer, new + z * (whole[h] - new))]
        case Lstm(x=x, h=h, c=c, c_next=c_next):
            total = torch.addmm(own["bias"], read[x], own["w_input"].T)
            total = torch.addmm(total, read[h], own["w_hidden"].T)
            i, f, g, o = total.chunk(4, dim=-1)
            cell = torch.sigmoid(f) * whole[c] + torch.sigmoid(i) * torch.tanh(g)
            return [(layer, torch.sigmoid(o) * torch.tanh(cell)), (c_next, cell)]
        case Linear(terms, bias, y):
            total = torch.from_numpy(bias)
            for x, scale in terms:
                total = total + torch.from_numpy(scale) * read[x]
            return [(y, total)]
        case Activate(activation, x, y, alpha):
            return [(y, _activated(activation, read[x], alpha))]
        case Binary(operation=way, a=a, b=b, y=y):
            ways = {"mul": torch.mul, "div": torch.div, "min": torch.minimum, "max": torch.maximum}
            return [(y, ways[way](read[a], read[b]))]
        case Clip(x, low, high, y):
            return [(y, read[x].clamp(torch.from_numpy(low), torch.from_numpy(high)))]
        case Gather(sources, picks, y):
            starts = np.cumsum([0, *(whole[x].shape[-1] for x in sources)])
            chosen = [int(starts[k]) + j for k, j in picks]
            return [(y, torch.cat([read[x] for x in sources], dim=-1)[..., chosen])]
        case _:
            kind = type(operation).__name__
            raise UserError(f"{layer}: nothing can be trained through a {kind}")


def _activated(activation: Activation | None, x: Any, alpha: float) -> Any:
    torch = torch_library()
    functional = torch.nn.functional
    match activation:
        case None:
            return x
        case "elu" | "leaky_relu":
            return getattr(functional, activation)(x, alpha)
        case "hard_sigmoid" | "hard_swish":
            return getattr(functional, activation.replace("_", ""))(x)
        case "selu" | "silu" | "gelu" | "softplus" | "mish" | "softsign":
            return getattr(functional, activation)(x)
        case _:
            return getattr(torch, activation)(x)
