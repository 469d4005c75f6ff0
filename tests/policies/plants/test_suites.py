"""The suites, and the published policy's place in them."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerl.errors import UserError
from edgerl.policies.plants import (
    DT,
    FIRST_REPORTING_SEED,
    SUITES,
    FigureEight,
    Hover,
    Step,
    SuiteResult,
    fly,
    rollout,
    suite_named,
)
from edgerl.policies.plants.suites import COHORT, bootstrap_interval, wilson_interval

FreshPolicy = Callable[[int], Step]


def never(observation: np.ndarray) -> np.ndarray:
    return np.full((len(observation), 4), np.nan, dtype=np.float32)


@pytest.fixture(scope="module")
def hover(published_policy: FreshPolicy) -> SuiteResult:
    return fly(SUITES["hover"], published_policy(2048), feedback="raw", episodes=2048)


@pytest.fixture(scope="module")
def figure_eight(published_policy: FreshPolicy) -> SuiteResult:
    return fly(SUITES["figure8"], published_policy(4), feedback="raw")


def test_hover_meets_the_anchors_of_the_published_policy(hover: SuiteResult) -> None:
    """Anchors, measured with the authors' own simulator: survival 95.5 to 96.0 %, mean length
    482 to 485, final error .0583 to .0586 m in the mean and .037 m in the median."""
    for name, anchor, width in [
        ("survival", (0.955, 0.960), 0.02),
        ("mean_length", (482.1, 484.6), 8.0),
        ("final_error_mean", (0.0583, 0.0586), 0.006),
        ("final_error_median", (0.036, 0.038), 0.005),
        ("final_error_p95", (0.16, 0.18), 0.04),
    ]:
        low, high = hover.intervals[name]
        assert high - low < width, name
        assert low <= anchor[1], name
        assert high >= anchor[0], name


def test_clamped_feedback_changes_little(hover: SuiteResult, published_policy: FreshPolicy) -> None:
    clamped = fly(SUITES["hover"], published_policy(2048), feedback="clamped", episodes=2048)
    assert clamped.metrics != hover.metrics
    assert clamped.metrics["survival"] == pytest.approx(hover.metrics["survival"], abs=0.005)
    assert clamped.metrics["final_error_mean"] == pytest.approx(
        hover.metrics["final_error_mean"], abs=0.001
    )


def test_figure_eight_meets_the_anchors_of_the_published_policy(
    figure_eight: SuiteResult,
) -> None:
    assert figure_eight.metrics == {
        "survival": 1.0,
        "rmse_crazyflie_10s": pytest.approx(0.084, abs=0.001),
        "rmse_crazyflie_5.5s": pytest.approx(0.199, abs=0.001),
        "rmse_x500_10s": pytest.approx(0.061, abs=0.001),
        "rmse_x500_5.5s": pytest.approx(0.162, abs=0.001),
    }


def test_hover_without_limits_or_disturbance(published_policy: FreshPolicy) -> None:
    """Anchors: 98.7 % stay within reach without limits; the undisturbed error is .022 m."""
    calm = replace(Hover(), disturbance=False, limits=None)
    result = fly(calm, published_policy(512), feedback="raw", episodes=512)
    assert result.metrics["survival"] == 1.0
    assert result.metrics["final_error_median"] == pytest.approx(0.021, abs=0.002)


def test_result_of_hover(hover: SuiteResult) -> None:
    assert (hover.plant, hover.suite, hover.episodes, hover.dt) == ("quadrotor", "hover", 2048, DT)
    assert hover.seeds == tuple(range(1000, 1008))
    assert set(hover.intervals) == set(hover.metrics)
    for name, (low, high) in hover.intervals.items():
        assert low < hover.metrics[name] < high
    assert {len(band) for band in hover.error_over_time.values()} == {501}
    bands = np.array([hover.error_over_time[name] for name in ("p05", "p50", "p95")])
    assert (np.diff(bands, axis=0) >= 0.0).all()
    assert len(hover.paths) == 6
    assert {survived for _, survived, _ in hover.paths} == {True, False}
    for _, survived, path in hover.paths:
        assert (len(path) == 501) == survived
        assert all(len(point) == 3 for point in path)
    json.dumps(asdict(hover), allow_nan=False)


def test_result_of_figure_eight(figure_eight: SuiteResult) -> None:
    assert figure_eight.episodes == 4
    assert figure_eight.seeds == ()
    assert [len(path) for _, _, path in figure_eight.paths] == [3001, 1651, 3001, 1651]
    assert all(survived for _, survived, _ in figure_eight.paths)
    json.dumps(asdict(figure_eight), allow_nan=False)


def test_metrics_are_those_of_the_rollout(published_policy: FreshPolicy) -> None:
    suite = replace(Hover(), steps=160)
    result = fly(suite, published_policy(200), feedback="raw", episodes=200)
    quads, start = suite.draw(200)
    flight = rollout(quads, start, published_policy(200), steps=160)
    final = flight.error[-100:, flight.survived].mean(axis=0)
    assert 0 < flight.survived.sum() < 200
    assert result.metrics == {
        "survival": flight.survived.mean(),
        "mean_length": flight.length.mean(),
        "final_error_mean": final.mean(),
        "final_error_median": np.median(final),
        "final_error_p95": np.quantile(final, 0.95),
    }
    flying = flight.length >= 120
    assert result.error_over_time["p50"][120] == np.median(flight.error[120, flying])


def test_fewer_episodes_are_the_first_of_the_same() -> None:
    suite = Hover()
    many, starts = suite.draw(2 * COHORT + 5)
    for count in (1, 64, COHORT, COHORT + 1):
        few, few_starts = suite.draw(count)
        assert len(suite.seeds(count)) == -(-count // COHORT)
        for some, whole in [(few, many), (few_starts, starts)]:
            for name, array in vars(some).items():
                assert array.flags.c_contiguous
                np.testing.assert_array_equal(array, getattr(whole, name)[..., :count])


def test_reporting_seeds_are_apart_from_others() -> None:
    assert min(Hover().seeds(4096)) == FIRST_REPORTING_SEED == 1000
    quads, _ = Hover().draw(8)
    other, _ = replace(Hover(), first_seed=0).draw(8)
    assert not np.isin(quads.mass, other.mass).any()


def test_same_seeds_same_result(published_policy: FreshPolicy) -> None:
    results = [
        fly(replace(Hover(), steps=120), published_policy(64), feedback="raw", episodes=64)
        for _ in range(2)
    ]
    assert results[0] == results[1]


def test_metrics_without_survivors_are_absent() -> None:
    hover = fly(SUITES["hover"], never, feedback="raw", episodes=16)
    assert hover.metrics == {"survival": 0.0, "mean_length": 0.0}
    assert [len(path) for _, survived, path in hover.paths if not survived] == [1, 1]
    assert {len(band) for band in hover.error_over_time.values()} == {1}
    eight = fly(SUITES["figure8"], never, feedback="raw")
    assert eight.metrics == {"survival": 0.0}


def test_figure_eight_reference_is_smooth_and_closed() -> None:
    suite = FigureEight()
    steps = suite.steps(10.0)
    reference = suite.reference(10.0, steps)
    assert reference.shape == (3000, 6)
    np.testing.assert_allclose(
        np.gradient(reference[:, :3], DT, axis=0)[1:-1], reference[1:-1, 3:], atol=3e-3
    )
    assert (reference[0] == 0.0).all()
    lap = round(10.0 / DT)
    settled = reference[round(suite.ramp / DT) :]
    np.testing.assert_allclose(settled[lap:], settled[:-lap], atol=1e-9)
    assert np.abs(reference[:, 0]).max() == pytest.approx(1.0, abs=1e-4)
    assert np.abs(reference[:, 1]).max() == pytest.approx(0.5, abs=1e-4)


def test_mistakes_are_one_line() -> None:
    with pytest.raises(UserError, match=r"unknown suite 'hoover'; did you mean 'hover'\?"):
        suite_named("hoover")
    with pytest.raises(UserError, match="known: hover, figure8"):
        suite_named("acrobatics")
    with pytest.raises(UserError, match="cannot fly 0 episodes"):
        fly(SUITES["hover"], never, feedback="raw", episodes=0)
    with pytest.raises(UserError, match="4 fixed flights, not 9"):
        fly(SUITES["figure8"], never, feedback="raw", episodes=9)
    assert suite_named("figure8") is SUITES["figure8"]


def test_wilson_interval_known_values() -> None:
    assert wilson_interval(95, 100) == pytest.approx((0.8882, 0.9785), abs=1e-4)
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


@given(trials=st.integers(1, 10**6), data=st.data())
def test_wilson_interval_solves_the_score_equation(trials: int, data: st.DataObject) -> None:
    """At either end p, the observed share lies 1.96 standard errors of p away."""
    successes = data.draw(st.integers(0, trials))
    share = successes / trials
    low, high = wilson_interval(successes, trials)
    assert 0.0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1.0
    for p in (low, high):
        if 1e-12 < p < 1.0 - 1e-12:
            distance = abs(share - p) / np.sqrt(p * (1.0 - p) / trials)
            assert distance == pytest.approx(1.959964, rel=1e-4)


def test_bootstrap_interval_of_a_mean() -> None:
    sample = np.random.default_rng(5).normal(3.0, 2.0, 4000)
    low, high = bootstrap_interval(sample, np.mean)
    half = 1.96 * sample.std() / np.sqrt(sample.size)
    assert low == pytest.approx(sample.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(sample.mean() + half, abs=0.1 * half)
    assert bootstrap_interval(sample, np.mean) == (low, high)
