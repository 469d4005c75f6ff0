"""Policies that Stable-Baselines3 and sb3-contrib saved with `model.save`.

The policy's action is what `model.predict(observation, deterministic=True)` returns for the
environment's own observation. Neither library is needed, and nothing in the file is executed.
"""

import hashlib

from edgerl.errors import UserError
from edgerl.policies.assembly import Found
from edgerl.policies.graph import GraphBuilder
from edgerl.policies.importers.containers.archive import shown_path
from edgerl.policies.importers.layers.network import (
    NeedsLayers,
    Weights,
    append,
    load_layers,
    template,
)
from edgerl.policies.importers.sb3.boundary import (
    action_signal,
    append_action,
    features,
    observation_signals,
)
from edgerl.policies.importers.sb3.networks import NO_IMAGES, Actor, Layers, actor
from edgerl.policies.importers.sb3.saved_model import OwnCode, SavedModel, open_model
from edgerl.policies.importers.sb3.spaces import Box, Choices, Named, Space
from edgerl.policies.importers.sb3.vecnormalize import VecNormalize, read_vecnormalize
from edgerl.policies.importers.source import Source
from edgerl.policies.names import shown

_PLAIN_EXTRACTORS = tuple(
    f"<class 'stable_baselines3.common.torch_layers.{name}'>"
    for name in ("FlattenExtractor", "CombinedExtractor")
)


class NeedsExtractor(NeedsLayers, OwnCode):
    """A features extractor of the user's own without a list of its layers; `template` is one."""

    def __init__(self, message: str, template: str) -> None:
        OwnCode.__init__(self, message)
        self.template = template


def read(source: Source) -> Found:
    """The actor in a zip file that `model.save` wrote, `source.vecnormalize` folded in.

    `source.layers` lists the layers of a features extractor that is not the library's own, from
    the observation (keys one after another) to the features. Raises UserError, in one line, for
    anything that is not supported or does not fit together.
    """
    model = open_model(source.path)
    acting = actor(model)
    observed, acted = model.space("observation_space"), model.space("action_space")
    statistics = (
        read_vecnormalize(source.vecnormalize, observed, source.where)
        if source.vecnormalize
        else VecNormalize({})
    )
    graph, weights = GraphBuilder(), Weights(model.weights, model.where)
    images = model.options.get("normalize_images") is not False
    start = features(graph, observed, statistics.parts, images)
    end = append(graph, start, (*_extractor(model, acting, source), *acting.layers), weights)
    _refuse_unknown(model, acting, weights)
    action = append_action(graph, end, acted, acting.squashed, model.where)
    graph.output(action, "action", acted.size)
    for state in end.states:
        graph.output(state.after, f"{state.name}_next", state.size)
    return Found(
        graph.finished(),
        provenance=provenance(source, model),
        observation=observation_signals(observed, ranged=not foreign(source, model)),
        action=(action_signal(acted),),
        assumed=assumed(source, model, observed, acted, statistics),
    )


def assumed(
    source: Source, model: SavedModel, observed: Space, acted: Space, statistics: VecNormalize
) -> tuple[str, ...]:
    """What a user of the policy should check, line by line."""
    return (
        *_about_observation(observed, statistics, source, model.normalised),
        *_about_action(acted),
    )


def foreign(source: Source, model: SavedModel) -> bool:
    """Whether the policy's observations are normalised by statistics that are not at hand."""
    return model.normalised is True and source.vecnormalize is None


def _extractor(model: SavedModel, acting: Actor, source: Source) -> Layers:
    """The layers between observation and features: none for the library's own extractors."""
    held = {n: w for n, w in model.weights.items() if n.startswith(acting.extractor)}
    given = model.options.get("features_extractor_class", _PLAIN_EXTRACTORS[0])
    image = next((name for name, weight in held.items() if weight.ndim > 2), None)
    if image is not None:
        raise UserError(
            f"{model.where}: tensor {shown(image)} is a convolution's, over images; {NO_IMAGES}"
        )
    if not held and given in _PLAIN_EXTRACTORS:
        if source.layers is not None:
            raise UserError(
                f"{model.where}: has no features extractor of its own, whose layers "
                f"{shown_path(source.layers)} could list; leave the layer list out"
            )
        return ()
    if source.layers is None:
        raise NeedsExtractor(
            f"{model.where}: its features extractor {shown(str(given))} is not the library's own; "
            "list its layers in a file for --layers",
            template(held, model.where),
        )
    return load_layers(source.layers).layer


def _refuse_unknown(model: SavedModel, acting: Actor, weights: Weights) -> None:
    """UserError for weights that neither act nor are known not to: the network is another.

    Of a features extractor's, the layer list says which ones act.
    """
    for name in weights.unused:
        if not name.startswith((*acting.others, acting.extractor)):
            raise OwnCode(
                f"{model.where}: tensor {shown(name)} belongs to no layer of the policy as the "
                "library builds it"
            )


def provenance(source: Source, model: SavedModel) -> dict[str, str]:
    """Where a policy comes from: the library that wrote the model, and hashes of its files."""
    origin = {
        "source": "stable-baselines3",
        "producer": f"stable-baselines3 {model.version}".strip(),
    }
    for key, path in (("sha256", source.path), ("vecnormalize_sha256", source.vecnormalize)):
        if path is not None:
            with path.open("rb") as file:
                origin[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return origin


def _about_observation(
    space: Space, statistics: VecNormalize, source: Source, normalised: bool | None
) -> tuple[str, ...]:
    lines = []
    if isinstance(space, Named):
        order = ", ".join(f"{shown(name)[1:-1]} ({part.size})" for name, part in space.spaces)
        lines.append(f"observation: the keys one after another: {order}")
    if any(
        isinstance(part, Box) and len(part.shape) > 1
        for part in (dict(space.spaces).values() if isinstance(space, Named) else (space,))
    ):
        lines.append("observation: arrays row by row (C order)")
    if normalised is None and source.vecnormalize is None:
        lines.append(
            "observation: as the environment gives it; the file does not tell whether training "
            "normalised it (then: --vecnormalize FILE)"
        )
    if normalised and source.vecnormalize is None:
        lines.append(
            "WARNING: the model was trained inside VecNormalize; without its statistics "
            "(--vecnormalize FILE) the policy takes observations that are normalised already"
        )
    if source.vecnormalize is not None:
        what = "normalised with the statistics of" if statistics.parts else "not normalised, says"
        lines.append(f"observation: {what} {shown_path(source.vecnormalize)}")
    return tuple(lines)


def _about_action(space: Space) -> tuple[str, ...]:
    if isinstance(space, Box):
        return ()
    lines = ["action: what model.predict returns, whole numbers counted from 0"]
    if isinstance(space, Choices) and space.shifted:
        lines.append(
            "WARNING: the action space does not start at 0; Stable-Baselines3 ignores that, and "
            "so does this policy"
        )
    return tuple(lines)
