"""Observation statistics that Stable-Baselines3's `VecNormalize.save` writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.documents import read_bytes
from edgerl.errors import UserError
from edgerl.policies.graph import GraphBuilder
from edgerl.policies.importers.containers.archive import shown_path
from edgerl.policies.importers.containers.pickles import read_pickle
from edgerl.policies.importers.containers.records import Record, record
from edgerl.policies.importers.sb3.spaces import Box, Named, Space, space_records
from edgerl.policies.names import shown

MOST_BYTES = 64 << 20
_WIDEST = 1e30
_CLASSES = {
    "stable_baselines3.common.vec_env.vec_normalize.VecNormalize": record("VecNormalize"),
    "stable_baselines3.common.running_mean_std.RunningMeanStd": record("RunningMeanStd"),
}

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Normalisation:
    """y = clip((x - mean) / deviation, -limit, limit), mean and deviation [n]."""

    mean: Doubles
    deviation: Doubles
    limit: float

    @classmethod
    def joined(cls, parts: Sequence["Normalisation"]) -> "Normalisation | None":
        """The parts one after another as one; None where their limits are not the same."""
        if len({part.limit for part in parts}) != 1:
            return None
        means, deviations = ([getattr(p, n) for p in parts] for n in ("mean", "deviation"))
        return cls(np.concatenate(means), np.concatenate(deviations), parts[0].limit)

    def append(self, graph: GraphBuilder, x: str) -> str:
        """Adds the normalisation of tensor `x` to a graph; returns its output."""
        shifted = graph.add("Sub", [x, graph.constant(self.mean)])
        scaled = graph.add("Mul", [shifted, graph.constant(1.0 / self.deviation)])
        return graph.clip(scaled, -self.limit, self.limit) if self.limit < _WIDEST else scaled


@dataclass(frozen=True)
class VecNormalize:
    """What was normalised in training: by key of a Dict space, by "" for any other space, empty
    where observations were left as they are."""

    parts: dict[str, Normalisation]


def read_vecnormalize(path: Path, space: Space, space_where: str) -> VecNormalize:
    """The statistics in a file that `VecNormalize.save` wrote, for observations of `space`.

    `space_where` names the file that the space is from. Raises UserError in one line when the
    file holds something else, or statistics of other sizes or keys than the space.
    """
    where = shown_path(path)
    saved = read_pickle(
        read_bytes(path, MOST_BYTES, where, "no statistics are"),
        where,
        lambda n: _CLASSES.get(n) or space_records(n),
    )
    if not isinstance(saved, Record) or saved.kind != "VecNormalize":
        raise UserError(f"{where}: holds no VecNormalize; save it with env.save(PATH)")
    if saved.get("norm_obs") is not True:
        return VecNormalize({})
    statistics = saved.get("obs_rms")
    if isinstance(statistics, dict) != isinstance(space, Named):
        raise UserError(
            f"{where}: normalises {_form(isinstance(statistics, dict))}, {space_where} observes "
            f"{_form(isinstance(space, Named))}"
        )
    limits = _number(saved, "epsilon", where), _number(saved, "clip_obs", where)
    if not isinstance(space, Named):
        return VecNormalize({"": _one(statistics, space, *limits, where, space_where)})
    spaces, keys = dict(space.spaces), saved.get("norm_obs_keys") or list(statistics)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise UserError(f"{where}: normalises keys that are no texts")
    parts = {}
    for key in keys:
        title = f"{where}: key {shown(key)}"
        if key not in spaces or key not in statistics:
            known = ", ".join(shown(name) for name in list(spaces)[:20])
            raise UserError(f"{title} is not both in its statistics and in {space_where}: {known}")
        parts[key] = _one(statistics[key], spaces[key], *limits, title, space_where)
    return VecNormalize(parts)


def _form(by_key: bool) -> str:
    return "a dictionary of observations" if by_key else "one vector"


def _number(saved: Record, name: str, where: str) -> float:
    value = saved.get(name)
    if not isinstance(value, int | float | np.number) or not value > 0:
        raise UserError(f"{where}: {name} is no positive number")
    return float(min(value, _WIDEST))


def _one(
    statistics: Any, space: Space, epsilon: float, limit: float, where: str, space_where: str
) -> Normalisation:
    """Statistics of one vector; sqrt(var + epsilon) is what SB3 divides by."""
    if not isinstance(space, Box):
        raise UserError(f"{where}: normalises what {space_where} does not observe as a Box")
    if not isinstance(statistics, Record) or statistics.kind != "RunningMeanStd":
        raise UserError(f"{where}: has no running mean and variance of observations")
    mean, variance = statistics.get("mean"), statistics.get("var")
    for name, values in (("mean", mean), ("variance", variance)):
        if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
            raise UserError(f"{where}: its {name} is no array of numbers")
        if values.shape != space.shape:
            raise UserError(
                f"{where}: its {name} has shape {list(values.shape)}, an observation of "
                f"{space_where} has {list(space.shape)}"
            )
        if not np.isfinite(values).all() or np.abs(values).max() > _WIDEST:
            raise UserError(f"{where}: its {name} is not finite")
    flat = mean.astype(np.float64).reshape(-1), variance.astype(np.float64).reshape(-1)
    if (flat[1] + epsilon < 1.0 / _WIDEST).any():
        raise UserError(f"{where}: its variance with epsilon {epsilon:g} is not positive")
    return Normalisation(flat[0], np.sqrt(flat[1] + epsilon), limit)
