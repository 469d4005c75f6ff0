"""Closed loop: compiled programs fly, and two that fly alike are told from two that do not."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgerl
from edgerl import cli
from edgerl.errors import UserError
from edgerl.evaluation import evaluate, scores
from edgerl.policies import Signal, load
from edgerl.policies.plants import SUITES, Hover
from edgerl.toolchain.build import HostTwin, build_host
from edgerl.toolchain.checks.closed_loop import (
    closed_loop,
    require_suited,
    same_flights,
    stepper,
    suite_for,
)


@pytest.fixture(scope="module")
def host(raptor, tmp_path_factory: pytest.TempPathFactory) -> HostTwin:
    source = raptor.artifact.source
    return build_host(source, "raptor", tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="module")
def spec():
    return load("raptor").spec


def test_a_suite_for_the_signals_that_fit(spec, small_policy):
    assert isinstance(suite_for(spec), Hover)
    assert suite_for(load(small_policy).spec) is None
    swapped = spec.model_copy(update={"observation": spec.observation[::-1]})
    assert suite_for(swapped) is None
    wide = (*spec.action, Signal(name="extra", size=1, range=(-1.0, 1.0)))
    assert suite_for(spec.model_copy(update={"action": wide})) is None


def test_what_does_not_fit_is_refused_with_the_signals(spec, small_policy):
    for suite in SUITES.values():
        require_suited(spec, suite)
        with pytest.raises(UserError) as error:
            require_suited(load(small_policy).spec, suite)
        assert "observation (3)" in str(error.value) and "position_error (3)" in str(error.value)


def test_each_flight_has_its_own_memory(host):
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(6, 3, 22)).astype(np.float32) * 0.1
    together = stepper(host, "evaluate")
    actions = np.stack([together(rows) for rows in observations])
    alone = stepper(host, "evaluate")
    first = np.stack([alone(rows[:1])[0] for rows in observations])
    assert np.array_equal(actions[:, 0], first)
    run = host.trace(observations[:, 2].copy(), np.arange(6) == 0, "evaluate")
    assert np.array_equal(actions[:, 2], run.actions)


def test_a_flight_says_on_what_it_was_flown(host):
    flown = closed_loop(Hover(), host, "step", "clamped", episodes=5).report
    assert flown.on == "host, _step, clamped feedback"
    assert (flown.plant, flown.suite, flown.episodes) == ("quadrotor", "hover", 5)
    assert flown == closed_loop(Hover(), host, "step", "clamped", episodes=5).report


class Nudged:
    """The host twin with one bit of one action of one step changed."""

    name = "nudged"

    def __init__(self, honest: HostTwin, at: int) -> None:
        self.honest, self.left = honest, at

    def reset_states(self, count: int):
        return self.honest.reset_states(count)

    def trace(self, observations, resets, mode="step"):
        raise NotImplementedError("flights of many controllers need none")

    def many(self, states, observations, mode="step"):
        run = self.honest.many(states, observations, mode)
        self.left -= 1
        if self.left == 0:
            actions = run.actions.copy()
            actions.view(np.uint32)[0, 0] ^= 1
            run = replace(run, actions=actions)
        return run


def test_flights_are_the_same_only_to_the_last_bit(host):
    suite = replace(Hover(), steps=50)
    assert same_flights(suite, host, host, 4)
    assert not same_flights(suite, host, Nudged(host, 40), 4)
    with pytest.raises(UserError, match="draws no vehicles"):
        same_flights(SUITES["figure8"], host, host, 4)


class Alone:
    """A runner that holds one controller; `nudged` is a step whose answer has another last bit."""

    def __init__(self, honest, nudged: int | None = None) -> None:
        self.honest, self.nudged = honest, nudged
        self.name = "alone"

    def trace(self, observations, resets, mode="step"):
        run = self.honest.trace(observations, resets, mode)
        if self.nudged is not None:
            run.actions.view(np.uint32)[self.nudged, 0] ^= 1
        return run


def test_flights_of_one_controller_after_another(host):
    suite = replace(Hover(), steps=50)
    assert same_flights(suite, host, Alone(host), 4)
    assert not same_flights(suite, host, Alone(host, 199), 4)


def test_the_emulated_core_flew_the_same(raptor):
    certificate = raptor.report.certificates["emulated_flights_identical"]
    assert certificate.value is True and certificate.kind == "measured"
    assert [flown.on for flown in raptor.report.closed_loop] == [
        "host, _evaluate, raw feedback",
        "host, _step, clamped feedback",
    ]


# The verb


def test_an_artifact_flies_as_what_it_was_checked_as(raptor):
    folder, checked = raptor.artifact.folder, raptor.report.closed_loop
    for feedback, before in zip(("raw", "clamped"), checked, strict=True):
        flown = evaluate(folder, "hover", episodes=256, feedback=feedback).flown
        assert flown == before


def test_a_policy_flies_without_being_compiled_for_a_target(raptor):
    evaluation = edgerl.evaluate("raptor", suite="figure8")
    assert evaluation.policy == "raptor" and evaluation.ok
    assert tuple(evaluation.flown.metrics) == scores(SUITES["figure8"])
    assert evaluation.flown.seeds == ()
    hover = edgerl.evaluate("raptor", suite="hover", episodes=3)
    assert tuple(hover.flown.metrics) == scores(SUITES["hover"])


def test_scores_are_held_from_the_side_that_is_better(raptor):
    bounds = {"survival": 0.5, "final_error_mean": 0.5, "mean_length": 1.0}
    folder = raptor.artifact.folder
    assert evaluate(folder, "hover", episodes=8, limits=bounds).ok
    beyond = {"survival": 1.1, "final_error_mean": 1e-6, "mean_length": 501.0}
    missed = evaluate(folder, "hover", episodes=8, limits={**beyond, "final_error_p95": 5.0})
    assert [limit.name for limit in missed.limits if not limit.held] == list(beyond)


def test_a_score_of_another_suite_is_a_mistake(raptor):
    with pytest.raises(UserError, match="did you mean 'survival'"):
        evaluate("raptor", "hover", limits={"survivals": 1.0})
    with pytest.raises(UserError, match="is no score of suite figure8"):
        evaluate("raptor", "figure8", limits={"final_error_mean": 1.0})


def test_an_artifact_has_its_spec(raptor, tmp_path):
    with pytest.raises(UserError, match="brings its own spec"):
        evaluate(raptor.artifact.folder, "hover", spec=tmp_path / "spec.toml")
    with pytest.raises(UserError, match="no artifact"):
        evaluate(tmp_path, "hover")


def test_a_family_is_found_beside_a_folder_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("raptor").mkdir()
    assert evaluate("raptor", "hover", episodes=1).policy == "raptor"


def test_the_table_states_seeds_units_and_what_was_missed(raptor, capsys):
    folder = str(raptor.artifact.folder)
    arguments = ["evaluate", folder, "-s", "hover", "-n", "300", "--limit", "final_error_p95=0.001"]
    assert cli.run(arguments) == 1
    out = capsys.readouterr().out
    assert "300 flights, seeds 1000 to 1001" in out
    assert " %  95 % interval" in out and " cm  95 % interval" in out and " steps" in out
    assert "missed final error p95: " in out or "missed final_error_p95: " in out
    assert cli.run([*arguments, "--json", "-q"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["seeds"] == [1000, 1001] and not data["ok"]
    assert set(data["metrics"]) == set(data["intervals"]) == set(scores(SUITES["hover"]))
