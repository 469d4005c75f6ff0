"""Stable-Baselines3 models from Python: written as an .onnx policy, custom networks included.

What the file of a model tells is read as from any file. Where a policy runs code of the user's
own, its network is traced by torch instead. Either way the policy has to give the actions of
`model.predict(..., deterministic=True)` before it is written.
"""

import os
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.errors import UserError
from edgerl.policies import importers
from edgerl.policies.assembly import Found, assemble
from edgerl.policies.graph import GraphBuilder
from edgerl.policies.importers.layers.network import Chain
from edgerl.policies.importers.module import from_module
from edgerl.policies.importers.sb3.boundary import (
    action_signal,
    append_action,
    features,
    observation_signals,
)
from edgerl.policies.importers.sb3.saved_model import OwnCode, open_model
from edgerl.policies.importers.sb3.traceable import traceable
from edgerl.policies.importers.sb3.vecnormalize import VecNormalize, read_vecnormalize
from edgerl.policies.importers.source import Source
from edgerl.policies.importers.stable_baselines import assumed, foreign, provenance
from edgerl.policies.names import as_identifier
from edgerl.policies.policy import Policy

CHECKED = 64
TOLERANCE = 1e-4
Floats = npt.NDArray[np.float32]


def export_sb3(model: Any, vecnormalize: Any, path: str | Path) -> Policy:
    """Write the deterministic policy of a Stable-Baselines3 `model` to `path`, an .onnx file.

    `vecnormalize` is the VecNormalize that the model was trained in, None without one; its
    observation statistics are folded in. Policies and features extractors of the user's own
    are traced by torch, in eval mode. Returns the policy. Raises UserError when the model is of
    an algorithm that is not known, its network does what no policy can, or the policy's actions
    are not those of `model.predict` for `CHECKED` sampled observations; ToolError without torch.
    """
    path = Path(path)
    if path.suffix.lower() != ".onnx":
        raise UserError(f"{path}: a policy is written to an .onnx file")
    if not all(hasattr(model, name) for name in ("policy", "predict", "save")):
        raise UserError(f"a {type(model).__name__} is no model of Stable-Baselines3")
    with tempfile.TemporaryDirectory() as folder:
        source = _saved(model, vecnormalize, Path(folder), path.stem)
        try:
            policy = importers.read(source)
        except OwnCode:
            policy = _traced(model, source, path.stem)
    _check(policy, model, vecnormalize)
    for line in policy.assumed:
        if line.startswith("WARNING: "):
            warnings.warn(line.removeprefix("WARNING: "), stacklevel=2)
    policy.save(path)
    return policy


def _saved(model: Any, vecnormalize: Any, folder: Path, stem: str) -> Source:
    """The model and the statistics in files, as the library writes them."""
    source = Source(folder / f"{as_identifier(stem, 'policy')}.zip")
    model.save(source.path)
    if vecnormalize is None:
        return source
    if not hasattr(vecnormalize, "obs_rms") or not hasattr(vecnormalize, "save"):
        raise UserError(
            f"a {type(vecnormalize).__name__} is no VecNormalize; give the model's own, "
            "model.get_vec_normalize_env(), or None"
        )
    statistics = folder / "vecnormalize.pkl"
    vecnormalize.save(str(statistics))
    return replace(source, vecnormalize=statistics)


def _traced(model: Any, source: Source, stem: str) -> Policy:
    """The policy whose network torch traces, between the ends that the library gives it."""
    saved = open_model(source.path)
    observed, acted = saved.space("observation_space"), saved.space("action_space")
    statistics = VecNormalize({})
    if source.vecnormalize is not None:
        statistics = read_vecnormalize(source.vecnormalize, observed, source.where)
    core = traceable(model.policy, observed)
    network = from_module(core.module, core.example)
    graph = GraphBuilder()
    start = features(graph, observed, statistics.parts, model.policy.normalize_images)
    states = [graph.input(state.name, state.size) for state in network.spec.state]
    x, *after = graph.include(network.graph, [start.x, *states])
    end = Chain(x, network.spec.action_size)
    action = append_action(graph, end, acted, core.squashed, source.where)
    graph.output(action, "action", acted.size)
    for state, tensor in zip(network.spec.state, after, strict=True):
        graph.output(tensor, f"{state.name}_next", state.size)
    found = Found(
        graph.finished(),
        provenance={**provenance(source, saved), "network": "traced by torch"},
        observation=observation_signals(observed, ranged=not foreign(source, saved)),
        action=(action_signal(acted),),
        assumed=assumed(source, saved, observed, acted, statistics),
    )
    return assemble(found, stem, source.where)


def _check(policy: Policy, model: Any, vecnormalize: Any) -> None:
    """UserError where the policy and the model act differently on sampled observations."""
    session, state = _session(policy), None
    inputs = session.get_inputs()
    ours = [np.zeros(port.shape, np.float32) for port in inputs[1:]]
    model.observation_space.seed(0)
    for step in range(CHECKED):
        observation = _plain(model.observation_space.sample())
        seen = observation if vecnormalize is None else vecnormalize.normalize_obs(observation)
        start = np.array([step == 0])
        wanted, state = model.predict(seen, state, start, deterministic=True)
        values = [_row(observation), *ours]
        feed = {port.name: value for port, value in zip(inputs, values, strict=True)}
        action, *ours = session.run(None, feed)
        error = np.abs(action - _row(wanted)).max()
        if not error <= TOLERANCE * max(1.0, float(np.abs(_row(wanted)).max())):
            raise UserError(
                f"the policy of {type(model.policy).__name__} acts otherwise than model.predict "
                f"on sampled observation {step} (by {error:.3g}); does it override predict, or "
                "the like? Trace its actor yourself: edgerl.load(module, example=...)"
            )


def _session(policy: Policy) -> Any:
    # It reports the models that it runs to its makers unless asked not to.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    content = policy.graph.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _plain(observation: Any) -> Any:
    """A sample as an environment gives it, integers as arrays."""
    if isinstance(observation, dict):
        return {key: np.asarray(part) for key, part in observation.items()}
    return np.asarray(observation)


def _row(values: Any) -> Floats:
    """Values of a space as the policy has them: one after another, [1, n]."""
    parts: Sequence[Any] = list(values.values()) if isinstance(values, dict) else [values]
    flat = [np.asarray(part, np.float32).reshape(1, -1) for part in parts]
    return np.concatenate(flat, axis=1)
