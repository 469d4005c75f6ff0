"""The compile-time script: its code runs on a network that takes no time, and its committed
results name the networks and targets of today."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

from benchmarks import compile_time
from benchmarks.compile_time import RESULTS, SUBJECTS, TARGETS, Subject, Timing, measure, render
from benchmarks.networks import perceptron, recurrent
from edgerl.errors import ToolError

TINY = Subject("tiny", "MLP 3-4-2", 30.0, lambda g: perceptron((3, 4, 2), g))


def test_a_tiny_network_is_compiled_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compile_time, "TARGETS", ("host",))
    monkeypatch.setattr(compile_time, "measure", lambda s, t: measure(s, t, runs=1))
    assert compile_time.main([TINY], tmp_path) == 0
    (row,) = json.loads((tmp_path / "compile_time.json").read_text())["timings"]
    assert (row["name"], row["parameters"], len(row["seconds"])) == ("tiny", 26, 1)
    assert "| MLP 3-4-2 | 26 | host |" in (tmp_path / "compile_time.md").read_text()
    assert "tiny" in capsys.readouterr().out


def test_a_compile_that_fails_is_an_error() -> None:
    nowhere = replace(TINY, name="nowhere", model=None)
    with pytest.raises(ToolError, match="nowhere for host"):
        measure(nowhere, "host", runs=1)


def test_networks_have_the_sizes_that_they_are_named_for() -> None:

    rng = np.random.default_rng(0)
    for model, weights in (
        (recurrent("GRU", 5, 4, 2, rng), 3 * 4 * (5 + 4 + 2) + 2 * 5),
        (recurrent("LSTM", 5, 4, 2, rng), 4 * 4 * (5 + 4 + 2) + 2 * 5),
        (perceptron((5, 4, 2), rng), 4 * 6 + 2 * 5),
    ):
        arrays = [numpy_helper.to_array(t) for t in model.graph.initializer]
        assert sum(a.size for a in arrays if a.dtype == np.float32) == weights


def test_committed_results_are_of_these_networks() -> None:
    data = json.loads((RESULTS / "compile_time.json").read_text(encoding="utf-8"))
    rows = [(row["name"], row["target"]) for row in data["timings"]]
    assert rows == [(s.name, t) for t in TARGETS for s in SUBJECTS]
    timings = [Timing(**row) for row in data["timings"]]
    stated = render(timings)["compile_time.md"].splitlines()
    text = (RESULTS / "compile_time.md").read_text(encoding="utf-8")
    assert [x for x in stated if x.startswith("|")] == [
        x for x in text.splitlines() if x.startswith("|")
    ]
