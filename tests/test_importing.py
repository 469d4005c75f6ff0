"""`edgerl import`: the verb, the spec it writes, and what it says when it cannot know."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from edgerl.cli import run
from edgerl.policies import load
from edgerl.policies.memory import load_spec
from edgerl.policies.raptor import spec as raptor_spec
from edgerl.policies.spec_text import spec_text

RNG = np.random.default_rng(2)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Bare weights of an actor 5-8-2, in the working folder."""
    monkeypatch.chdir(tmp_path)
    sizes = {"actor.0": (8, 5), "actor.2": (2, 8)}
    tensors = {}
    for name, shape in sizes.items():
        tensors[f"{name}.weight"] = RNG.normal(0.0, 0.4, shape).astype(np.float32)
        tensors[f"{name}.bias"] = RNG.normal(0.0, 0.1, shape[0]).astype(np.float32)
    save_file(tensors, "actor.safetensors")
    return tmp_path / "actor.safetensors"


def filled(path: Path) -> None:
    text = path.read_text()
    assert '"?"' in text
    first, second = text.rsplit('"?"', 1)
    path.write_text(first.replace('"?"', '"elu"') + '"tanh"' + second)


def test_weights_without_layers(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["import", "actor.safetensors"]) == 2
    said = capsys.readouterr().err
    assert "wrote actor.layers.toml" in said and said.count("\n") == 1
    assert run(["import", "actor.safetensors"]) == 2
    assert "fill in actor.layers.toml" in capsys.readouterr().err
    filled(Path("actor.layers.toml"))
    arguments = ["import", "actor.safetensors", "--layers", "actor.layers.toml", "-o", "a.onnx"]
    assert run(arguments) == 0
    said = capsys.readouterr()
    assert "a: 66 parameters" in said.out and "wrote a.onnx" in said.err
    assert load("a.onnx").spec.observation_size == 5


def test_json_says_all(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["import", "actor.safetensors"])
    filled(Path("actor.layers.toml"))
    capsys.readouterr()
    arguments = ["import", "actor.safetensors", "--layers", "actor.layers.toml", "--json"]
    assert run(arguments) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["file"] == "actor.onnx" and facts["parameters"] == 66
    assert facts["sha256"] == load("actor.onnx").sha256()
    assert any("observation" in line for line in facts["assumed"])


def test_the_spec_template_reads_back(weights: Path) -> None:
    run(["import", "actor.safetensors"])
    filled(Path("actor.layers.toml"))
    base = ["import", "actor.safetensors", "--layers", "actor.layers.toml"]
    assert run([*base, "--template", "spec.toml"]) == 0
    assert run([*base, "--template", "spec.toml"]) == 2, "never over a file that is there"
    assert not Path("actor.onnx").exists()
    assert run([*base, "--spec", "spec.toml"]) == 0
    assert load("actor.onnx").spec == load_spec(Path("spec.toml"))


def test_a_full_spec_survives_its_text(tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text(spec_text(raptor_spec(), ("a line",)))
    assert load_spec(tmp_path / "spec.toml") == raptor_spec()


def test_never_over_the_source(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["import", "actor.safetensors"])
    filled(Path("actor.layers.toml"))
    run(["import", "actor.safetensors", "--layers", "actor.layers.toml"])
    before = Path("actor.onnx").read_bytes()
    capsys.readouterr()
    assert run(["import", "actor.onnx"]) == 2
    assert "is the source itself" in capsys.readouterr().err
    assert Path("actor.onnx").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["import", "missing.zip"], "missing.zip: cannot be read"),
        (["import", "policy.xyz"], "is no policy: give raptor, an .onnx file, or a checkpoint"),
        (["import", "actor.safetensors", "-o", "out.bin"], "a policy's file ends in .onnx"),
    ],
)
def test_one_line_each(
    arguments: list[str], says: str, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["import", "actor.safetensors"])
    filled(Path("actor.layers.toml"))
    if "-o" in arguments:
        arguments = [*arguments, "--layers", "actor.layers.toml"]
    capsys.readouterr()
    assert run(arguments) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
