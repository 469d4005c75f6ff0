"""Saved models to look at, and copies of them with something else inside."""

import base64
import json
import zipfile
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import stable_baselines3
from checkpoint import Checkpoint
from checkpoints_sb3 import ON_POLICY, by_key, pendulum, saved, trained

STEPS = 200
SMALL = {"net_arch": [8]}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """PPO on Pendulum, trained in VecNormalize."""
    folder = tmp_path_factory.mktemp("small")
    model, venv = trained(
        stable_baselines3.PPO, pendulum, 128, normalise={}, policy_kwargs=SMALL, **ON_POLICY
    )
    return saved(folder, model, venv, pendulum, STEPS)


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """PPO on the point mass observed by key, two of them normalised."""
    folder = tmp_path_factory.mktemp("keyed")
    model, venv = trained(
        stable_baselines3.PPO,
        by_key,
        0,
        policy="MultiInputPolicy",
        normalise={"norm_obs_keys": ["velocity", "position"]},
        policy_kwargs=SMALL,
    )
    return saved(folder, model, venv, by_key, STEPS)


def altered(
    path: Path,
    folder: Path,
    fields: dict[str, Any] | None = None,
    members: dict[str, bytes | None] | None = None,
) -> Path:
    """A copy of a saved model with other objects in fields and other bytes in members (None: no
    such member)."""
    with zipfile.ZipFile(path) as archive:
        content: dict[str, bytes | None] = {n: archive.read(n) for n in archive.namelist()}
    content.update(members or {})
    if fields:
        data = json.loads(content["data"] or b"")
        for key, value in fields.items():
            pickled = value if isinstance(value, bytes) else cloudpickle.dumps(value)
            data[key] = {":serialized:": base64.b64encode(pickled).decode()}
        content["data"] = json.dumps(data).encode()
    changed = folder / "changed.zip"
    with zipfile.ZipFile(changed, "w") as archive:
        for name, value in content.items():
            if value is not None:
                archive.writestr(name, value)
    return changed
