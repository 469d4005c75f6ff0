"""A replay as one self-contained HTML page: a plot for every element of the action."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgerl.toolchain.report.html import environment
from edgerl.toolchain.report.limits import BOUND_AT, limit_row, verdict
from edgerl.toolchain.report.replayed import Replay, ReplayedAction, Traces
from edgerl.toolchain.report.svg import (
    FRAME,
    Array,
    Axis,
    Curve,
    Plot,
    linear_axis,
    place,
    polyline,
)
from edgerl.toolchain.report.text import number

# More curves than anybody looks at, and more than a page should hold.
MOST_PLOTS = 64
# A plot's frame shows no more than this many spans of steps apart from each other.
_SPANS = 2000
_POINTS = 2000
_OUT_OF_RANGE, _NON_FINITE = 1, 2
# The narrowest mark of a rejected or mended observation, in units of the frame.
_NARROWEST = 12.0


@dataclass(frozen=True)
class _View:
    """One element of the action with its plot."""

    action: ReplayedAction
    plot: Plot


def render_replay(replay: Replay) -> str:
    """The replay as one HTML file that needs nothing beside it. The same replay gives the same
    bytes. `replay.traces` must be there."""
    assert replay.traces is not None
    traces = replay.traces
    shown = replay.actions[:MOST_PLOTS]
    x, at = _steps(traces)
    return environment().get_template("replay.html.j2").render(
        replay=replay,
        verdict=verdict(replay.limits),
        limits=[limit_row(limit) for limit in replay.limits],
        bound_at=BOUND_AT,
        views=[_View(a, _plot(k, a, traces, x, at)) for k, a in enumerate(shown)],
        left_out=len(replay.actions) - len(shown),
        compared=any(a.compared for a in replay.actions),
        frame=FRAME,
        not_run="not run",
    )  # fmt: skip


def _steps(traces: Traces) -> tuple[Axis, Array]:
    """The horizontal axis and where each step lies on it: time where it is known, else rows."""
    if traces.time_s is not None:
        return linear_axis("time, s", traces.time_s, count=8), traces.time_s
    rows = np.arange(1, len(traces.status) + 1, dtype=np.float64)
    return linear_axis("row", rows, count=8), rows


def _plot(k: int, action: ReplayedAction, traces: Traces, x: Axis, at: Array) -> Plot:
    replayed, recorded = traces.replayed[:, k], traces.recorded[:, k]
    unit = "" if action.unit == "1" else f", {action.unit}"
    y = linear_axis(action.name + unit, replayed, recorded)
    marks = [
        ("band outside", "observation out of range", traces.status == _OUT_OF_RANGE),
        ("band broken", "observation not finite", traces.status & _NON_FINITE != 0),
    ]
    curves = [
        Curve(_bands(x.fraction(at) * FRAME, where), role, text)
        for role, text, where in marks
        if where.any()
    ]
    legend = [(role, text) for role, text, where in marks if where.any()]
    lines = [("line s0", "replayed", replayed)]
    lines += [("line dashed s1", "recorded", recorded)] if action.compared else []
    for role, text, values in lines:
        path = polyline(_envelope(place(x, y, at, values)), limit=_POINTS)
        curves.append(Curve(path, role, text))
        legend.append((role, text))
    said = f"{action.name} over {number(len(at))} rows"
    if action.max_abs_difference is not None:
        said += f"; at most {number(action.max_abs_difference, 3)} from what was recorded"
    return Plot(
        f"action{k}",
        action.name,
        f"{said}.",
        x,
        y,
        tuple(curves),
        legend=tuple(legend),
    )


def _envelope(points: Array) -> Array:
    """Points [n, 2], or where there are more than a frame can show the lowest and the highest of
    each span of neighbours, so that no excursion is lost."""
    if len(points) <= 2 * _SPANS:
        return points
    starts = np.linspace(0, len(points), _SPANS, endpoint=False).astype(np.int64)
    across = points[starts, 0]
    ends = [edge.reduceat(points[:, 1], starts) for edge in (np.fmin, np.fmax)]
    return np.stack([np.repeat(across, 2), np.stack(ends, axis=1).ravel()], axis=1)


def _bands(across: Array, where: npt.NDArray[np.bool_]) -> str:
    """Path data of the spans of steps in `where`, as wide as they are but never invisible; spans
    that would touch are one."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], where, [False]]).astype(np.int8)))
    spans: list[tuple[float, float]] = []
    for start, stop in edges.reshape(-1, 2):
        left = float(across[start]) - _NARROWEST / 2
        right = max(float(across[stop - 1]), float(across[start])) + _NARROWEST / 2
        if spans and left <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(right, spans[-1][1]))
        else:
            spans.append((left, right))
    return "".join(f"M{round(a)} 0H{round(b)}V{FRAME}H{round(a)}Z" for a, b in spans)
