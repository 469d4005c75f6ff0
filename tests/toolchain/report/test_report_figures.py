"""The plots drawn from a report."""

import math
import re
from dataclasses import replace

import pytest

from edgerl.toolchain.report.figures import (
    deviation_axes,
    deviation_plot,
    error_limit,
    error_plot,
    flight_box,
    flight_plots,
)
from edgerl.toolchain.report.model import ClosedLoop, Limit, Reference
from edgerl.toolchain.report.svg import FRAME


def loop(**fields) -> ClosedLoop:
    blank = ClosedLoop("plant", "suite", 8, (0,), "host", {})
    return replace(blank, **fields)


def test_the_limit_line_belongs_to_the_error_it_bounds():
    reference = Reference("onnxruntime", 7e-7)
    limits = (
        Limit("final_error_mean", 0.05, "<= 0.065", True),
        Limit("cycles", 7e-7, "<= 1", True),
        Limit("max_abs_error", 7e-7, "<= 2e-6", True),
    )
    bound = error_limit(reference, limits)
    assert bound is not None and bound.value == 2e-6
    assert error_limit(replace(reference, max_abs_error=6e-7), limits) is None
    assert error_limit(reference, limits[:2]) is None


def test_error_plot_places_errors_and_limit():
    reference = Reference("onnxruntime", 1e-6, 400, 100, (1e-7, 1e-6, 0.0, math.nan))
    bound = error_limit(reference, (Limit("error", 1e-6, "<= 1e-5", True),))
    plot = error_plot("key", reference, bound)
    assert plot is not None
    assert (plot.x.low, plot.x.high) == (0.0, 400.0)
    assert (plot.y.low, plot.y.high) == pytest.approx((1e-7, 1e-5))
    (curve,) = plot.curves
    # 1e-7 at the bottom, 1e-6 half way up, zero on the edge, then a gap.
    assert curve.d == f"M0 {FRAME}L1000 {FRAME // 2}L2000 {FRAME}"
    (rule,) = plot.rules
    assert (rule.at, rule.text) == (pytest.approx(0.0), "limit 1×10⁻⁵")
    assert "1 blocks without any error" in plot.description
    assert "1 blocks are not finite" in plot.description


@pytest.mark.parametrize("errors", [(), (0.0, 0.0), (math.nan,)])
def test_no_error_plot_without_an_error(errors):
    assert error_plot("key", Reference("onnxruntime", 0.0, 2, 1, errors), None) is None


def test_flight_views_have_one_scale_in_all_directions():
    path = ((0.0, 0.0, 0.0), (2.0, 0.5, -1.0))
    suite = loop(paths=(("a", True, path),))
    box = flight_box((suite,))
    top, side = flight_plots("key", suite, box)
    spans = {axis.high - axis.low for axis in (top.x, top.y, side.x, side.y)}
    assert max(spans) == pytest.approx(min(spans))
    assert top.square and side.square
    assert (top.y.label, side.y.label) == ("y, m", "z, m")
    assert [m.shape for m in top.marks] == ["start", "end"]


def test_a_lost_flight_is_drawn_until_it_leaves_the_frame():
    near = ((0.5, 0.0, 0.0), (0.0, 0.0, 0.0))
    away = tuple((0.0, 0.0, -0.3 * 2.0**k) for k in range(40))
    suite = loop(paths=(("near", True, near), ("away", False, away)))
    box = flight_box((suite,))
    assert box.half < 1.0
    _, side = flight_plots("key", suite, box)
    lost = side.curves[1]
    assert "dashed" in lost.role and lost.title == "away: lost"
    assert all(0 <= int(v) <= FRAME for v in re.findall(r"-?\d+", lost.d))
    assert [m.shape for m in side.marks] == ["start", "end", "start", "lost"]


def test_when_every_flight_is_lost_all_of_them_are_in_view():
    suite = loop(paths=(("a", False, ((0.0, 0.0, 0.0), (0.0, 0.0, -40.0))),))
    assert flight_box((suite,)).half > 20.0


def test_a_flight_that_is_not_finite_is_not_drawn():
    nan = math.nan
    suite = loop(paths=(("a", True, ((nan, nan, nan),)), ("b", False, ())))
    top, _ = flight_plots("key", suite, flight_box((suite,)))
    assert top.curves == () and top.marks == ()


def test_deviation_draws_band_median_and_what_else_there_is():
    series = {"p95": (0.5, 0.4), "median": (0.2, 0.1), "p05": (0.1, 0.05), "mean": (0.3, 0.2)}
    suite = loop(error_over_time=series, dt=0.5)
    plot = deviation_plot("key", suite, *deviation_axes((suite,)))
    assert plot is not None
    assert [c.title for c in plot.curves] == ["p05 to p95", "mean", "median"]
    assert [text for _, text in plot.legend] == ["p05 – p95", "mean", "median"]
    assert plot.x.high == 1.0


def test_deviation_without_a_full_band_draws_lines():
    suite = loop(error_over_time={"p95": (0.5, 0.4), "p50": (0.2,)})
    plot = deviation_plot("key", suite, *deviation_axes((suite,)))
    assert plot is not None
    assert [c.title for c in plot.curves] == ["p95", "median"]
    assert deviation_plot("key", loop(), *deviation_axes((loop(),))) is None


def test_suites_share_their_axes():
    small = loop(error_over_time={"median": (0.1, 0.1)})
    large = loop(error_over_time={"median": (3.0, 2.0, 0.9)})
    x, y = deviation_axes((small, large))
    assert (x.high, y.low, y.high) == (pytest.approx(0.03), 0.1, 5.0)
