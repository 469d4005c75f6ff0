"""Limits: a miss is a miss, and what could not be had is one."""

import math

import pytest

from edgerl.errors import UserError
from edgerl.toolchain.checks import limits
from edgerl.toolchain.report.model import (
    Certificate,
    ClosedLoop,
    Limit,
    Measured,
    Parity,
    PolicyFacts,
    Reference,
    Report,
    Spread,
)

BLANK = Report(PolicyFacts("p", "0" * 64, 1, 1), "host", "f32", "x", "zig", "same-binary", "none")


@pytest.mark.parametrize(
    ("value", "upper", "lower"),
    [
        (1.0, True, False), (2.0, True, True), (3.0, False, True), (None, False, False),
        (math.nan, False, False), (math.inf, False, True), (-math.inf, True, False),
    ],
)  # fmt: skip
def test_bounds_include_themselves_and_nothing_that_is_no_number(value, upper, lower):
    assert limits.at_most("x", value, 2.0).held == upper
    assert limits.at_least("x", value, 2.0).held == lower


def test_holds_only_when_true():
    assert limits.holds("x", True).held
    assert not limits.holds("x", False).held
    assert not limits.holds("x", None).held


def test_a_budget_is_held_by_the_largest_count():
    measured = Measured(instructions=Spread(10, 20, 15.0), flash_bytes=100)
    held = limits.of_budget(measured, {"instructions": 19, "flash_bytes": 100, "cycles_model": 5})
    assert [(limit.name, limit.value, limit.held) for limit in held] == [
        ("instructions", 20, False),
        ("flash_bytes", 100, True),
        ("cycles_model", None, False),
    ]
    assert limits.of_budget(measured, {}) == []


def test_every_figure_that_can_be_limited_is_measured():
    assert all(hasattr(Measured(), name) for name in limits.LIMITED)
    for name in limits.LIMITED:
        limits.require_figure(name)
    with pytest.raises(UserError, match="did you mean 'flash_bytes'"):
        limits.require_figure("flash_byte")
    with pytest.raises(UserError, match="known: instructions"):
        limits.of_budget(Measured(), {"?": 1.0})


def test_what_a_check_holds_programs_to():
    assert not limits.of_parity(Parity(False, 1, ("a", "b")))[0].held
    assert limits.of_published(None) == []
    assert limits.of_published(Reference("x", 2e-6))[0].held
    assert not limits.of_published(Reference("x", 2.1e-6))[0].held
    assert not limits.of_published(Reference("x", math.nan))[0].held

    def flown(**metrics: float) -> ClosedLoop:
        return ClosedLoop("quadrotor", "hover", 1, (), "host", metrics)

    assert all(
        each.held for each in limits.of_closed_loop(flown(survival=0.95, final_error_mean=0.06))
    )
    assert not any(each.held for each in limits.of_closed_loop(flown(survival=0.0)))
    certificates = {
        "yes": Certificate(True, "proved", ""),
        "no_good": Certificate(False, "measured", ""),
        "bytes": Certificate(12, "proved", ""),
        "none": Certificate(None, "not_applicable", ""),
    }
    held = limits.of_certificates(certificates)
    assert [(limit.name, limit.held) for limit in held] == [("yes", True), ("no good", False)]


def test_a_report_is_good_only_when_every_limit_was_held():
    from dataclasses import replace

    good, bad = Limit("a", 1.0, "<= 2", True), Limit("b", 3.0, "<= 2", False)
    claims = (Limit("c", None, "<= 2", True), Limit("d", math.nan, "<= 2", True))
    assert BLANK.ok
    assert replace(BLANK, limits=(good,), checked=True).ok
    assert not replace(BLANK, limits=(good, bad), checked=True).ok
    for claim in claims:
        assert not claim.held
        assert not replace(BLANK, limits=(good, claim)).ok
    # A check that held the program to nothing has shown nothing.
    assert not replace(BLANK, checked=True).ok
