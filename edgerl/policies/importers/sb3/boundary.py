"""What Stable-Baselines3 does to observations before a network sees them, and to actions after.

Observations: the keys of a dictionary one after another, images divided by 255, integers as one
number for each possible one (stable_baselines3/common/preprocessing.py). Actions: what
`model.predict(..., deterministic=True)` returns.
"""

from collections.abc import Mapping

import numpy as np

from edgerl.errors import UserError
from edgerl.policies.graph import GraphBuilder
from edgerl.policies.importers.layers.network import Chain
from edgerl.policies.importers.sb3.spaces import (
    MOST_CHOICES,
    Box,
    Choices,
    Flat,
    Named,
    Space,
    Switches,
)
from edgerl.policies.importers.sb3.vecnormalize import Normalisation
from edgerl.policies.names import as_identifier, distinct
from edgerl.policies.spec import Signal

Range = tuple[float, float]
FREE: Range = (-1.0e6, 1.0e6)
_WIDEST = 1e30


def observation_signals(space: Space, ranged: bool) -> tuple[Signal, ...]:
    """One signal for each key of a dictionary, or one. Ranges are the space's own if `ranged`
    (values reach the policy as the environment gives them), else free."""
    signals: list[Signal] = []
    for key, part in _parts(space):
        taken = [signal.name for signal in signals]
        name = distinct(as_identifier(key, "observation"), taken)
        span = _span(part) if ranged else FREE
        signals.append(Signal(name=name, size=part.size, unit="1", frame="", range=span))
    return tuple(signals)


def action_signal(space: Space) -> Signal:
    """The action's one signal."""
    span = FREE if isinstance(space, Named) else _span(space)
    return Signal(name="action", size=space.size, unit="1", frame="", range=span)


def features(
    graph: GraphBuilder, space: Space, normalised: Mapping[str, Normalisation], images: bool
) -> Chain:
    """Adds the observation as an input, and what makes features of it; returns those.

    `normalised` holds the statistics of keys ("" for an observation without keys); `images` says
    whether bytes become numbers in [0, 1].
    """
    whole = graph.input("observation", space.size)
    if isinstance(space, Named) and all(key in normalised for key, _ in space.spaces):
        # All at once, which costs the emitted code one pass over the vector.
        every = Normalisation.joined([normalised[key] for key, _ in space.spaces])
        if every is not None and not any(isinstance(part, Choices) for _, part in space.spaces):
            return Chain(every.append(graph, whole), space.features)
    parts, start = [], 0
    for key, part in _parts(space):
        x = whole
        if part.size != space.size:
            x = graph.cut(whole, start, start + part.size)
        key = key if isinstance(space, Named) else ""
        if key in normalised:
            x = normalised[key].append(graph, x)
        if isinstance(part, Choices):
            x = _one_hot(graph, x, part)
        elif isinstance(part, Box) and part.image and images and key not in normalised:
            x = graph.add("Mul", [x, graph.constant(1.0 / 255.0)])
        parts.append(x)
        start += part.size
    return Chain(graph.concat(parts), space.features)


def append_action(graph: GraphBuilder, end: Chain, space: Space, squashed: bool, where: str) -> str:
    """Adds what makes the environment's action [1, space.size] of a network's output; returns it.

    `squashed` outputs in [-1, 1] span the action space; others are cut to its limits. Of choices
    the first most likely one is taken, by its index from 0; a switch is on where its logit is
    above 0. Raises UserError when sizes disagree or the space does not fit the policy.
    """
    if isinstance(space, Named) or (squashed and not isinstance(space, Box)):
        raise UserError(f"{where}: its action space is not one that its policy can act in")
    outputs = space.features
    if end.size != outputs:
        raise UserError(
            f"{where}: its network gives {end.size} values, its action space takes {outputs}"
        )
    if isinstance(space, Choices):
        return _first_largest(graph, end.x, space.counts)
    if isinstance(space, Switches):
        if space.size > MOST_CHOICES:
            raise UserError(
                f"{where}: {space.size} switches to act on; {MOST_CHOICES} are possible"
            )
        # Beside a 0 of its own, the logit is the larger of the two where it is above 0.
        pairs = np.zeros((2 * space.size, space.size), np.float32)
        pairs[1::2] = np.eye(space.size)
        return _first_largest(graph, graph.dense(end.x, pairs), (2,) * space.size)
    if not -_WIDEST < space.low.min() < space.high.max() < _WIDEST:
        raise UserError(f"{where}: its action space has no limits, or no room between them")
    if squashed:
        half = 0.5 * (space.high - space.low)
        return graph.affine(end.x, half, space.low + half)
    return graph.clip(end.x, space.low, space.high)


def _parts(space: Space) -> tuple[tuple[str, Flat], ...]:
    return space.spaces if isinstance(space, Named) else (("observation", space),)


def _span(space: Flat) -> Range:
    """The interval that holds all values of a space, a free one where there is none."""
    match space:
        case Choices():
            return 0.0, float(max(2, *space.counts) - 1)
        case Switches():
            return 0.0, 1.0
        case Box():
            low, high = float(space.low.min()), float(space.high.max())
            return (low, high) if -_WIDEST < low < high < _WIDEST else FREE


def _one_hot(graph: GraphBuilder, x: str, space: Choices) -> str:
    """max(0, 1 - |x - j|) for every possible integer j: exactly 1 for x = j, 0 for others."""
    spread = np.zeros((space.features, space.size), np.float32)
    spread[np.arange(space.features), np.repeat(np.arange(space.size), space.counts)] = 1.0
    places = np.concatenate([np.arange(n) for n in space.counts]).astype(np.float32)
    distance = graph.add("Abs", [graph.dense(x, spread, -places)])
    return graph.add("Relu", [graph.affine(distance, -np.ones(space.features), 1.0)])


def _first_largest(graph: GraphBuilder, x: str, counts: tuple[int, ...]) -> str:
    """For each group of logits, the index of the largest."""
    chosen, start = [], 0
    for count in counts:
        group = x if len(counts) == 1 else graph.cut(x, start, start + count)
        chosen.append(graph.argmax(group))
        start += count
    return graph.concat(chosen)
