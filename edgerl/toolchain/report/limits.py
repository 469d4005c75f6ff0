"""Limits as a reader sees them: one verdict, and each figure as a bar against its bound."""

import math
import re
from dataclasses import dataclass

from edgerl.toolchain.report.model import Limit
from edgerl.toolchain.report.text import number, number_beside

_BOUND = re.compile(
    r"\s*(?P<relation><=|>=|≤|≥|<|>)\s*"
    r"(?P<value>[+-]?\d[\d,_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*(?P<unit>\S*)\s*\Z"
)
_SCALE = {"kB": 1024.0, "KiB": 1024.0, "MB": 1024.0**2, "MiB": 1024.0**2, "%": 0.01}

BOUND_AT = 75.0
"""Where on its track a bar's bound stands, in per cent."""


@dataclass(frozen=True)
class Bound:
    """A numeric bound: `value` in the figure's own unit, from above or from below, and `text`,
    how a page sets it."""

    upper: bool
    value: float
    text: str

    def holds(self, value: float) -> bool:
        """Whether `value` keeps to the bound."""
        return value <= self.value if self.upper else value >= self.value


@dataclass(frozen=True)
class LimitRow:
    """One line of the limits table. `filled` is the bar's length in per cent of its track and
    `share` the value as a share of the bound; both are None where the bound is no number."""

    name: str
    value: str
    bound: str
    held: bool
    upper: bool = True
    filled: float | None = None
    share: float | None = None


def parse_bound(text: str) -> Bound | None:
    """`<= 14.2 kB`, `≥ 95 %`… as a Bound (kB = 1024 B, % = a hundredth); None when `text` is
    not a comparison with a number."""
    match = _BOUND.match(text)
    if match is None:
        return None
    upper = match["relation"] in ("<=", "≤", "<")
    relation = {"<=": "≤", ">=": "≥"}.get(match["relation"], match["relation"])
    value, unit = float(re.sub(r"[,_]", "", match["value"])), match["unit"]
    shown = f"{relation} {number_beside(value, value)} {unit}".rstrip()
    return Bound(upper, value * _SCALE.get(unit, 1.0), shown)


def limit_row(limit: Limit) -> LimitRow:
    """`limit` ready for the table. No bar is drawn where value and bound cannot be compared,
    or where comparing them would contradict the limit's own verdict (a unit not known here)."""
    value, bound = limit.value, parse_bound(limit.limit)
    shown = bound.text if bound else limit.limit
    if value is None:
        return LimitRow(limit.name, "not obtained", shown, False)
    if isinstance(value, bool) or bound is None or not math.isfinite(value):
        return LimitRow(limit.name, number(value), shown, limit.held)
    text = number_beside(value, bound.value) + (" B" if limit.name.endswith("_bytes") else "")
    if bound.value <= 0.0 or value < 0.0 or bound.holds(value) != limit.ok:
        return LimitRow(limit.name, text, shown, limit.held)
    share = value / bound.value
    filled = round(min(100.0, BOUND_AT * share), 2)
    return LimitRow(limit.name, text, shown, limit.held, bound.upper, filled, share)


@dataclass(frozen=True)
class Verdict:
    """The page's one sentence. `state` is `held`, `missed` or `none` (nothing was limited)."""

    state: str
    headline: str
    missed: tuple[str, ...] = ()


def verdict(limits: tuple[Limit, ...]) -> Verdict:
    """All limits held, some missed, or none set, which is not a pass."""
    missed = tuple(limit.name for limit in limits if not limit.held)
    if not limits:
        return Verdict("none", "No limits were set")
    if missed:
        noun = "limit" if len(limits) == 1 else "limits"
        return Verdict("missed", f"{len(missed)} of {len(limits)} {noun} missed", missed)
    return Verdict(
        "held", "The one limit held" if len(limits) == 1 else f"All {len(limits)} limits held"
    )
