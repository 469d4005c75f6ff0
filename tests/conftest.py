"""Makes what all tests share importable: `graphs`, `exports` and `parity`; policies and artifacts
that several of them look at."""

import os
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from graphs import Graph, gru_operator

from edgerl.pipeline import Outcome, run
from edgerl.recipe import Check, Recipe, Source, TargetChoice

# onnxruntime reports the models that it runs to its makers unless asked not to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# Tests run beside each other; libraries that each take every core only get into the way.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache that no test shares with the user."""
    folder = tmp_path_factory.mktemp("edgerl-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGERL_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def small_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense policy of 3 observations and 2 actions in an .onnx file."""
    graph = Graph(seed=1)
    observation = ("observation", 3)
    hidden = graph.one("Tanh", graph.dense(observation, 4)[0])
    path = tmp_path_factory.mktemp("policies") / "small.onnx"
    onnx.save(graph.model(observation, graph.dense((hidden, 4), 2)), path)
    return path


@pytest.fixture(scope="session")
def recurrent_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gated recurrent policy of 3 observations, 4 states and 2 actions in an .onnx file."""
    graph = Graph(seed=2)
    observation = ("observation", 3)
    memory = gru_operator(graph, observation, 4, True)
    path = tmp_path_factory.mktemp("policies") / "recurrent.onnx"
    onnx.save(graph.model(observation, graph.dense(memory, 2)), path)
    return path


@pytest.fixture(scope="session")
def small_artifact(small_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dense policy compiled for a bare core, not checked. Copy it before changing it."""
    return _compiled(small_policy, tmp_path_factory.mktemp("artifacts") / "small")


@pytest.fixture(scope="session")
def recurrent_artifact(recurrent_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recurrent policy compiled for a bare core, not checked. Copy it before changing it."""
    return _compiled(recurrent_policy, tmp_path_factory.mktemp("artifacts") / "recurrent")


def _compiled(policy: Path, output: Path) -> Path:
    choice = TargetChoice(name="cortex-m4f", fma="on", output=output)
    return run(Recipe(source=Source(policy=str(policy)), target=choice)).artifact.folder


@pytest.fixture(scope="session")
def raptor(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """RAPTOR compiled for the Crazyflie and checked, with few flights."""
    recipe = Recipe(
        source=Source(policy="raptor"),
        target=TargetChoice(
            name="crazyflie21", output=tmp_path_factory.mktemp("artifacts") / "raptor"
        ),
        check=Check(episodes=256, limits={"instructions": 8000.0, "ram_bytes": 136.0}),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgerl.checking._EMULATED_FLIGHTS", 8)
        return run(recipe)
