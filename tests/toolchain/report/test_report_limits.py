"""Limits as verdict, rows and figures in print."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerl.toolchain.report.limits import BOUND_AT, limit_row, parse_bound, verdict
from edgerl.toolchain.report.model import Limit
from edgerl.toolchain.report.text import (
    anything,
    number,
    number_beside,
    percent,
    printable,
    scientific,
)


@pytest.mark.parametrize(
    ("text", "upper", "value", "shown"),
    [
        ("<= 2900", True, 2900.0, "≤ 2,900"),
        ("≤ 14.2 kB", True, 14.2 * 1024, "≤ 14.2 kB"),
        (">=95%", False, 0.95, "≥ 95 %"),
        (">= 0.95", False, 0.95, "≥ 0.95"),
        ("<= 2e-6", True, 2e-6, "≤ 2×10⁻⁶"),
        ("< 1,000 B", True, 1000.0, "< 1,000 B"),
        ("<= 0.0123456789 m", True, 0.0123456789, "≤ 0.0123456789 m"),
    ],
)
def test_bounds_are_understood(text, upper, value, shown):
    bound = parse_bound(text)
    assert bound is not None
    assert (bound.upper, bound.text) == (upper, shown)
    assert bound.value == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("text", ["bit-exact", "", "2900", "== 3", "<= many", "<= 3 metres a s"])
def test_other_bounds_are_left_alone(text):
    assert parse_bound(text) is None
    assert limit_row(Limit("figure", 1.0, text, True)).bound == text


def test_bar_is_measured_against_the_bound():
    row = limit_row(Limit("instructions", 1450, "<= 2900", True))
    assert (row.filled, row.share, row.upper) == (BOUND_AT / 2, 0.5, True)
    over = limit_row(Limit("instructions", 29000, "<= 2900", False))
    assert (over.filled, over.share, over.held) == (100.0, 10.0, False)


@pytest.mark.parametrize(
    "limit",
    [
        Limit("cycles", None, "<= 7800", True),
        Limit("cycles", None, "<= 7800", False),
        Limit("error", math.nan, "<= 2e-6", True),
    ],
)
def test_what_was_not_obtained_is_a_miss(limit):
    row = limit_row(limit)
    assert not row.held
    assert row.filled is None
    assert verdict((limit,)).state == "missed"


@pytest.mark.parametrize(
    "limit",
    [
        Limit("latency_us", 900.0, "<= 2", True),  # ok says the bound's unit is another one
        Limit("static_ram_bytes", 0, "<= 0", True),
        Limit("margin", -1.0, ">= -3", True),
        Limit("error", math.inf, "<= 1", False),
        Limit("parity", True, "bit-exact", True),
    ],
)
def test_no_bar_where_there_is_no_honest_one(limit):
    row = limit_row(limit)
    assert row.filled is None
    assert row.held == limit.ok


def test_verdicts():
    good, bad = Limit("a", 1, "<= 2", True), Limit("b", 3, "<= 2", False)
    assert verdict(()).state == "none"
    assert verdict((good,)).headline == "The one limit held"
    assert verdict((good, good)).headline == "All 2 limits held"
    missed = verdict((good, bad))
    assert (missed.state, missed.headline, missed.missed) == (
        "missed",
        "1 of 2 limits missed",
        ("b",),
    )


@given(st.floats(1e-8, 1e8), st.floats(-1e-9, 1e-9))
def test_rounding_never_carries_a_value_over_its_bound(bound, nudge):
    value = bound * (1.0 + nudge)
    text = number_beside(value, bound)
    superscripts = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻−", "0123456789--", ",")
    shown = float(text.replace("×10", "e").translate(superscripts))
    assert (shown <= bound) == (value <= bound)
    assert (shown >= bound) == (value >= bound)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "not run"), (True, "yes"), (0, "0"), (12180, "12,180"), (-1000.0, "−1,000"),
        (0.058321, "0.05832"), (483.2, "483.2"), (7.152557e-07, "7.153×10⁻⁷"),
        (0.0, "0"), (-0.5, "−0.5"), (1e12, "1×10¹²"), (math.nan, "not a number"),
        (-math.inf, "−∞"),
    ],
)  # fmt: skip
def test_numbers(value, text):
    assert number(value) == text


def test_percent_is_never_rounded_up_to_all():
    assert percent(0.9583) == "95.8\u202f%"
    assert percent(1.0) == "100\u202f%"
    assert percent(0.0) == "0\u202f%"
    assert percent(4095 / 4096) == "99.98\u202f%"
    assert percent(math.nan) == "not a number"


def test_scientific_trims():
    assert scientific(2e-6) == "2×10⁻⁶"
    assert scientific(-1.25e10) == "−1.25×10¹⁰"


def test_certificate_values_of_any_type():
    assert anything(None) == "–"
    assert anything(False) == "no"
    assert anything("296 B") == "296 B"
    assert anything({"b": [1, 2.5], "a": None}) == "b 1 … 2.5, a –"
    assert anything({"b": {"c": True, "d": "x"}}) == "b: c yes, d x"
    assert anything([1, None, {"b": 2}]) == '[1, null, {"b": 2}]'


def test_unprintable_characters_are_replaced():
    assert printable("a\x00b\u202ec\ud800d é→\u202f%\n") == "a\ufffdb\ufffdc\ufffdd é→\u202f%\n"
