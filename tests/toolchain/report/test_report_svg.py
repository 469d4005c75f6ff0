"""Scales, ticks and paths."""

import math
import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerl.toolchain.report.svg import (
    FRAME,
    band,
    linear_axis,
    log_axis,
    place,
    polyline,
    simplify,
)

reals = st.floats(-1e12, 1e12, allow_subnormal=False)
spans = st.lists(reals, min_size=1, max_size=8)
positives = st.lists(st.floats(1e-20, 1e20), min_size=1, max_size=8)


def coordinates(d: str) -> list[tuple[int, int]]:
    return [(int(x), int(y)) for x, y in re.findall(r"(-?\d+) (-?\d+)", d)]


@given(spans)
def test_linear_axis_holds_its_values_and_its_ticks(values):
    axis = linear_axis("x", values)
    assert (axis.fraction(values) >= -1e-9).all() and (axis.fraction(values) <= 1 + 1e-9).all()
    places = [tick.at for tick in axis.ticks]
    assert 1 <= len(places) <= axis.count + 2
    assert places == sorted(places)
    assert all(-0.01 <= p <= 100.01 for p in places)
    assert len({tick.text for tick in axis.ticks}) == len(places)


@given(positives)
def test_log_axis_holds_its_values_and_its_ticks(values):
    axis = log_axis("y", values)
    assert axis.low <= min(values) * (1 + 1e-9) and axis.high >= max(values) * (1 - 1e-9)
    places = [tick.at for tick in axis.ticks]
    assert 1 <= len(places) <= axis.count + 3
    assert places == sorted(places)
    assert all(-0.01 <= p <= 100.01 for p in places)
    assert len({tick.text for tick in axis.ticks}) == len(places)


@pytest.mark.parametrize(
    ("axis", "texts"),
    [
        (linear_axis("t", [0.0, 5.0]), ["0", "1", "2", "3", "4", "5"]),
        (linear_axis("x", [-0.47, 0.45]), ["−0.4", "−0.2", "0.0", "0.2", "0.4"]),
        (linear_axis("n", [0.0, 20000.0]), ["0", "5,000", "10,000", "15,000", "20,000"]),
        (log_axis("e", [3e-7, 2e-6]), ["2×10⁻⁷", "5×10⁻⁷", "10⁻⁶", "2×10⁻⁶"]),
        (log_axis("e", [1e-9, 1e-3]), ["10⁻⁹", "10⁻⁷", "10⁻⁵", "10⁻³"]),
        (log_axis("p", [0.02, 0.8]), ["0.02", "0.05", "0.1", "0.2", "0.5", "1"]),
    ],
)
def test_ticks_are_round(axis, texts):
    assert [tick.text for tick in axis.ticks] == texts


def test_only_the_tick_at_zero_is_marked():
    assert [t.text for t in linear_axis("x", [-1.0, 1.0]).ticks if t.zero] == ["0.0"]
    assert not any(t.zero for t in log_axis("y", [0.1, 1.0]).ticks)


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf, -math.inf], [3.0], [0.0, 0.0]])
def test_axes_stand_without_a_span(values):
    for axis in (linear_axis("x", values), log_axis("y", values)):
        assert axis.low < axis.high
        assert axis.ticks


def distance(point, a, b):
    chord = b - a
    length = float(chord @ chord)
    t = np.clip((point - a) @ chord / length, 0.0, 1.0) if length else 0.0
    return float(np.linalg.norm(point - a - t * chord))


@given(
    st.lists(st.tuples(st.floats(0, 4000), st.floats(0, 4000)), min_size=1, max_size=60),
    st.floats(0.5, 300.0),
)
def test_simplify_stays_within_its_tolerance(points, tolerance):
    given_points = np.array(points)
    kept = simplify(given_points, tolerance, limit=1000)
    assert (kept[0] == given_points[0]).all() and (kept[-1] == given_points[-1]).all()
    for point in given_points:
        near = [distance(point, a, b) for a, b in pairwise(kept)]
        assert min(near, default=0.0) <= tolerance + 1e-6


def test_simplify_keeps_the_spike_when_the_limit_is_tight():
    rng = np.random.default_rng(0)
    x = np.arange(10_000.0) * 0.4
    y = rng.normal(2000.0, 5.0, x.size)
    y[7321] = 100.0
    kept = simplify(np.stack([x, y], axis=1), limit=50)
    assert len(kept) == 50
    assert 100.0 in kept[:, 1]


def test_polyline_breaks_at_what_is_not_finite():
    x, y = linear_axis("x", [0.0, 6.0]), linear_axis("y", [0.0, 1.0])
    d = polyline(place(x, y, range(7), [0.0, 1.0, math.nan, math.inf, 0.5, 1.0, 0.0]))
    assert d.count("M") == 2
    assert coordinates(d)[0] == (0, FRAME)
    assert coordinates(d)[-1] == (FRAME, FRAME)


def test_polyline_shows_a_lone_point():
    x, y = linear_axis("x", [0.0, 2.0]), linear_axis("y", [0.0, 1.0])
    assert coordinates(polyline(place(x, y, [1.0], [0.5]))) == [(FRAME // 2, FRAME // 2)] * 2


def test_nothing_to_draw_is_no_path():
    x, y = linear_axis("x", [0.0, 2.0]), linear_axis("y", [0.0, 1.0])
    gone = place(x, y, [0.0, 1.0], [math.nan, math.nan])
    assert polyline(gone) == ""
    assert band(gone, gone) == ""


def test_far_points_keep_small_coordinates():
    x, y = linear_axis("x", [0.0, 1.0]), linear_axis("y", [0.0, 1.0])
    d = polyline(place(x, y, [0.0, 1e30, 1.0], [0.0, 1e300, 1.0]))
    assert max(max(abs(a), abs(b)) for a, b in coordinates(d)) <= 10 * FRAME


def test_zero_stands_on_the_lower_edge_of_a_log_axis():
    y = log_axis("y", [1e-7, 1e-5])
    assert y.fraction([0.0, -1.0, 1e-5]).tolist() == pytest.approx([0.0, 0.0, 1.0])


def test_band_runs_there_and_back():
    x, y = linear_axis("x", [0.0, 1.0]), linear_axis("y", [0.0, 1.0])
    d = band(place(x, y, [0.0, 1.0], [0.2, 0.2]), place(x, y, [0.0, 1.0], [0.8, 0.8]))
    assert coordinates(d) == [(0, 800), (4000, 800), (4000, 3200), (0, 3200)]
    assert d.endswith("Z")
