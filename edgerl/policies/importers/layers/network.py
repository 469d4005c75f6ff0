"""Layer lists and the tensors that they name become a policy's graph.

`file` is the TOML file, `template` the first guess at one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgerl.errors import UserError
from edgerl.policies.assembly import Found
from edgerl.policies.graph import Array, GraphBuilder
from edgerl.policies.importers.containers.archive import shown_path
from edgerl.policies.importers.layers.file import (
    Activation,
    Argmax,
    Clip,
    Cut,
    Dense,
    Layer,
    LayerList,
    LayerNorm,
    Normalize,
    Numbers,
    Recurrent,
    Scale,
    load_layers,
)
from edgerl.policies.importers.layers.gated_cells import Cell, flax_cell, torch_cells
from edgerl.policies.importers.layers.template import NeedsLayers, template
from edgerl.policies.importers.layers.weights import Tensors, Weights
from edgerl.policies.names import shown
from edgerl.policies.spec import Signal

__all__ = [
    "Chain",
    "LayerList",
    "NeedsLayers",
    "State",
    "Weights",
    "append",
    "load_layers",
    "network",
    "template",
]

Range = tuple[float, float]
_UNUSED_SHOWN = 5


@dataclass(frozen=True)
class State:
    """A recurrent state: the input's name, the tensor that follows it, and its size."""

    name: str
    after: str
    size: int


@dataclass(frozen=True)
class Chain:
    """How far a network has come: a tensor [1, size], the states on the way to it, and the
    interval that holds every value, None where nothing bounds them."""

    x: str
    size: int
    states: tuple[State, ...] = ()
    range: Range | None = None


def network(tensors: Tensors, layers: Path | None, where: str) -> Found:
    """The step graph that the layer list in `layers` makes of a checkpoint's tensors.

    `where` names the checkpoint. Raises NeedsLayers, with a template, without `layers`; UserError
    in one line that names the layer and the tensor or key that is wrong.
    """
    if layers is None:
        raise NeedsLayers(where, template(tensors, where))
    listed, weights = load_layers(layers), Weights(tensors, where)
    title = shown_path(layers)
    size = listed.observation or _entry(listed.layer, weights)
    if size is None:
        raise UserError(
            f"{title}: no layer tells the size of the observation; add a line at the top: "
            "observation = SIZE"
        )
    graph = GraphBuilder()
    end = append(graph, Chain(graph.input("observation", size), size), listed.layer, weights)
    graph.output(end.x, "action", end.size)
    for state in end.states:
        graph.output(state.after, f"{state.name}_next", state.size)
    action = (Signal(name="action", size=end.size, range=end.range),) if end.range else None
    return Found(
        graph.finished(), action=action, assumed=_assumed(listed, weights, end, title, where)
    )


def append(graph: GraphBuilder, start: Chain, layers: Sequence[Layer], weights: Weights) -> Chain:
    """Adds `layers` to `graph`, the first reading `start.x`; returns where they lead.

    States become inputs of the graph as they come, so the observation must be one already;
    their next values are for the caller to output, in the order of `states`, after the action.
    `weights.used` tells afterwards which tensors the layers asked for. Raises UserError naming
    the layer (counted from 1) and the tensor or key that does not fit, with both shapes.
    """
    chain = start
    for number, layer in enumerate(layers, start=1):
        chain = _append_one(graph, chain, layer, weights, f"layer {number} ({layer.kind})")
    return chain


def _append_one(
    graph: GraphBuilder, chain: Chain, layer: Layer, weights: Weights, title: str
) -> Chain:
    x, size = chain.x, chain.size

    def on(y: str, n: int, values: Range | None = None) -> Chain:
        return Chain(y, n, chain.states, values)

    def each(values: Numbers, key: str) -> Array:
        if isinstance(values, list) and len(values) != size:
            raise UserError(
                f"{weights.where}: {title}: {key} has {len(values)} numbers, "
                f"the layer above gives {size} values"
            )
        return np.asarray(values, np.float32)

    match layer:
        case Dense():
            weight, bias = _dense(layer, weights, size, title)
            y = graph.activation(graph.dense(x, weight, bias), layer.activation)
            return on(y, weight.shape[0], _image(layer.activation))
        case Recurrent():
            return _recurrent(graph, chain, layer, weights, title)
        case LayerNorm():
            reason = f"the layer above gives {size} values"
            scale, offset = (
                np.full(size, default, np.float32)
                if name is None
                else weights.take(name, (size,), title, reason)
                for name, default in ((layer.weight, 1.0), (layer.bias, 0.0))
            )
            y = graph.layer_norm(x, scale, offset, layer.epsilon)
            return on(graph.activation(y, layer.activation), size, _image(layer.activation))
        case Normalize():
            mean, deviation = _statistics(layer, weights, size, title)
            shifted = graph.add("Sub", [x, graph.constant(mean)])
            return on(graph.add("Div", [shifted, graph.constant(deviation)]), size)
        case Scale():
            scale, offset = each(layer.scale, "scale"), each(layer.offset, "offset")
            return on(graph.affine(x, scale, offset), size, _scaled(chain.range, scale, offset))
        case Clip():
            low, high = each(layer.low, "low"), each(layer.high, "high")
            if (low >= high).any():
                raise UserError(f"{weights.where}: {title}: low is not below high")
            return on(graph.clip(x, low, high), size, (float(low.min()), float(high.max())))
        case Activation():
            y = graph.activation(x, layer.activation)
            kept = chain.range if layer.activation in ("linear", "identity") else None
            return on(y, size, _image(layer.activation) or kept)
        case Cut():
            if not layer.start < layer.stop <= size:
                raise UserError(
                    f"{weights.where}: {title}: values {layer.start} to {layer.stop} of the "
                    f"{size} that the layer above gives"
                )
            return on(graph.cut(x, layer.start, layer.stop), layer.stop - layer.start, chain.range)
        case Argmax():
            if size < 2:
                raise UserError(f"{weights.where}: {title}: the layer above gives one value only")
            return on(graph.argmax(x), 1, (0.0, size - 1.0))


def _dense(
    layer: Dense, weights: Weights, size: int | None, title: str
) -> tuple[Array, Array | None]:
    """Weight [out, in] and bias [out] of a layer that `size` values reach; None: any."""
    sizes = (size, None) if layer.transposed else (None, size)
    reason = "" if size is None else f"{size} values reach it"
    if size is not None and weights.shape(layer.weight)[1 - layer.transposed : 2] != (size,):
        turned = weights.shape(layer.weight)[::-1]
        if turned[1 - layer.transposed : 2] == (size,):
            reason += f"; transposed = {str(not layer.transposed).lower()} would fit"
    weight = weights.take(layer.weight, sizes, title, reason)
    weight = np.ascontiguousarray(weight.T) if layer.transposed else weight
    if layer.bias is None:
        return weight, None
    out = weight.shape[0]
    return weight, weights.take(layer.bias, (out,), title, f"{shown(layer.weight)} gives {out}")


def _recurrent(
    graph: GraphBuilder, chain: Chain, layer: Recurrent, weights: Weights, title: str
) -> Chain:
    states = list(chain.states)

    def new(stem: str, size: int) -> str:
        before = sum(state.name.startswith(stem) for state in states)
        return graph.input(stem if before == 0 else f"{stem}_{before + 1}", size)

    x, size = chain.x, chain.size
    for cell in _cells(layer, weights, size, title):
        operands = (cell.w_input, cell.w_hidden, cell.b_input, cell.b_hidden)
        size = cell.size
        hidden = new("hidden", size)
        if layer.kind == "gru":
            x = graph.gru(x, hidden, *operands)
            states.append(State(hidden, x, size))
        else:
            memory = new("cell", size)
            x, after = graph.lstm(x, hidden, memory, *operands)
            states += [State(hidden, x, size), State(memory, after, size)]
    return Chain(x, size, tuple(states), (-1.0, 1.0))


def _cells(layer: Recurrent, weights: Weights, size: int | None, title: str) -> tuple[Cell, ...]:
    if layer.framework == "torch":
        return torch_cells(weights, layer.kind, layer.prefix, size, title)
    return (flax_cell(weights, layer.kind, layer.prefix, size, title),)


def _statistics(
    layer: Normalize, weights: Weights, size: int | None, title: str
) -> tuple[Array, Array]:
    """Mean [n] and what the difference is divided by [n]."""
    reason = "" if size is None else f"{size} values reach it"
    mean = weights.take(layer.mean, (size,), title, reason)
    spread = layer.std or layer.var or ""
    found = weights.take(spread, mean.shape, title, f"as many as {shown(layer.mean)}")
    deviation = np.sqrt(found + layer.epsilon) if layer.std is None else found + layer.epsilon
    if not (deviation > 0.0).all():
        raise UserError(
            f"{weights.where}: {title}: tensor {shown(spread)} with epsilon {layer.epsilon:g} "
            "leaves nothing positive to divide by"
        )
    return mean, deviation.astype(np.float32)


def _entry(layers: Sequence[Layer], weights: Weights) -> int | None:
    """How many values the first layer takes that says so, seen through those that keep sizes;
    None where none does."""
    # Looking ahead uses no tensor up.
    weights = weights.fresh()
    for number, layer in enumerate(layers, start=1):
        title = f"layer {number} ({layer.kind})"
        match layer:
            case Dense():
                return int(_dense(layer, weights, None, title)[0].shape[1])
            case Recurrent():
                return int(_cells(layer, weights, None, title)[0].w_input.shape[1])
            case Normalize():
                return int(_statistics(layer, weights, None, title)[0].shape[0])
            case LayerNorm(weight=str(name)) | LayerNorm(bias=str(name)):
                return int(weights.take(name, (None,), title).shape[0])
            case Clip(low=list(values)) | Clip(high=list(values)):
                return len(values)
            case Scale(scale=list(values)) | Scale(offset=list(values)):
                return len(values)
            case Cut() | Argmax():
                return None
    return None


def _image(activation: str) -> Range | None:
    """The interval that holds an activation's values, where one does."""
    return {"tanh": (-1.0, 1.0), "softsign": (-1.0, 1.0), "sigmoid": (0.0, 1.0),
            "hard_sigmoid": (0.0, 1.0)}.get(activation)  # fmt: skip


def _scaled(values: Range | None, scale: Array, offset: Array) -> Range | None:
    if values is None:
        return None
    ends = np.concatenate([np.atleast_1d(end * scale + offset) for end in values])
    low, high = float(ends.min()), float(ends.max())
    return (low, high) if low < high else None


def _assumed(
    listed: LayerList, weights: Weights, end: Chain, title: str, where: str
) -> tuple[str, ...]:
    lines = [f"layers: {len(listed.layer)}, as {title} lists them"]
    if end.states:
        lines.append("recurrent state: zeros after a reset; gates sigmoid and tanh")
    if weights.rounded:
        lines.append("weights: rounded from float64 to float32")
    unused = weights.unused
    if unused:
        names = ", ".join(shown(name) for name in unused[:_UNUSED_SHOWN])
        more = f" and {len(unused) - _UNUSED_SHOWN} more" if len(unused) > _UNUSED_SHOWN else ""
        lines.append(f"not used of {where}: {names}{more}")
    return tuple(lines)
