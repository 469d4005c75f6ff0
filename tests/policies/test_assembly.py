"""What a policy is taken for where nobody says: choices, limits, files beside the source."""

from pathlib import Path

import numpy as np
import pytest

from edgerl.errors import UserError
from edgerl.policies import load
from edgerl.policies.graph import GraphBuilder

WEIGHT = np.random.default_rng(0).normal(0.0, 1.0, (4, 3)).astype(np.float32)


def saved(path: Path, end: str) -> Path:
    """An .onnx file of a dense layer that ends in "choice", "choices", "tanh" or nothing."""
    build = GraphBuilder()
    x = build.dense(build.input("observation", 3), WEIGHT)
    size = 4
    if end == "choice":
        x, size = build.argmax(x), 1
    elif end == "choices":
        parts = [build.argmax(build.cut(x, k, k + 2)) for k in (0, 2)]
        x, size = build.concat(parts), 2
    elif end:
        x = build.activation(x, end)
    build.output(x, "action", size)
    path.write_bytes(build.finished().SerializeToString())
    return path


@pytest.mark.parametrize(("end", "size"), [("choice", 1), ("choices", 2)])
def test_indices_are_choices(end: str, size: int, tmp_path: Path) -> None:
    policy = load(saved(tmp_path / "net.onnx", end))
    (action,) = policy.spec.action
    assert action.discrete and action.size == size and action.range[1] > 3.0
    assert any(f"{size} choices by index" in line for line in policy.assumed)


def test_other_actions_are_not(tmp_path: Path) -> None:
    (action,) = load(saved(tmp_path / "net.onnx", "tanh")).spec.action
    assert not action.discrete and action.range == (-1.0, 1.0)


@pytest.mark.parametrize(("end", "warned"), [("", True), ("relu", True), ("tanh", False)])
def test_limits_that_the_network_does_not_have_are_a_warning(
    end: str, warned: bool, tmp_path: Path
) -> None:
    policy = load(saved(tmp_path / "net.onnx", end))
    assert any(line.startswith("WARNING: action") for line in policy.assumed) == warned


@pytest.mark.parametrize("beside", ["layers", "vecnormalize"])
@pytest.mark.parametrize("source", ["net.onnx", "raptor"])
def test_a_file_that_would_be_ignored_is_refused(
    source: str, beside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "net.onnx", "tanh")
    with pytest.raises(UserError, match=f"{source}: takes no --{beside} other.file"):
        load(source, **{beside: "other.file"})  # type: ignore[arg-type]  # chosen by name


def test_a_path_may_be_text(tmp_path: Path) -> None:
    policy = load(saved(tmp_path / "net.onnx", "tanh"))
    policy.save(str(tmp_path / "again.onnx"))
    assert load(tmp_path / "again.onnx").spec == policy.spec
