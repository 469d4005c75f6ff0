"""The report's plots: error against a reference, flight paths, position error over time, and
what a search weighed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgerl.toolchain.report.limits import Bound, parse_bound
from edgerl.toolchain.report.model import Candidate, ClosedLoop, Limit, Reference
from edgerl.toolchain.report.svg import (
    FRAME,
    Array,
    Axis,
    Curve,
    Mark,
    Plot,
    Rule,
    band,
    finite,
    linear_axis,
    log_axis,
    place,
    polyline,
)
from edgerl.toolchain.report.text import number

SERIES = 6
"""How many colours the style sheet has for curves."""

_LOWER, _MIDDLE, _UPPER = ("p05", "p5"), ("median", "p50"), ("p95",)


def error_limit(reference: Reference, limits: tuple[Limit, ...]) -> Bound | None:
    """The upper bound that `reference`'s largest error was held to: the limit on an error whose
    value is that very figure."""
    for limit in limits:
        bound = parse_bound(limit.limit)
        of_error = "error" in limit.name and limit.value == reference.max_abs_error
        if bound is not None and bound.upper and of_error:
            return bound
    return None


def error_plot(key: str, reference: Reference, bound: Bound | None) -> Plot | None:
    """The largest error of each block over the steps, on a logarithmic axis; None when no block
    has an error above zero to draw."""
    errors = np.asarray(reference.errors, np.float64)
    if not (errors[np.isfinite(errors)] > 0.0).any():
        return None
    steps = np.arange(len(errors), dtype=np.float64) * reference.block
    limit = () if bound is None else (bound.value,)
    x = linear_axis("step", [0.0, steps[-1] + reference.block], count=6)
    y = log_axis("absolute error", errors, [reference.max_abs_error], limit)
    rules = tuple(
        Rule(100.0 * (1.0 - float(y.fraction(value))), f"limit {number(value)}")
        for value in limit
        if value > 0.0
    )
    asides = {
        "without any error stand on the lower edge": int((errors == 0.0).sum()),
        "are not finite and leave a gap": int((~np.isfinite(errors)).sum()),
    }
    said = "".join(f"; {number(n)} blocks {what}" for what, n in asides.items() if n)
    return Plot(
        key,
        f"Error against {reference.against}",
        f"Absolute error, largest of every {number(reference.block)} steps, over "
        f"{number(reference.steps)} steps; at most {number(reference.max_abs_error, 3)}{said}.",
        x,
        y,
        (Curve(polyline(place(x, y, steps, errors)), "line s0"),),
        rules=rules,
    )


@dataclass(frozen=True)
class Box:
    """A cube of space in metres: its centre and half its edge."""

    centre: tuple[float, float, float]
    half: float

    def axis(self, i: int) -> Axis:
        """The scale of coordinate `i`."""
        centre = self.centre[i]
        return Axis(f"{'xyz'[i]}, m", centre - self.half, centre + self.half)

    def inside(self, positions: Array) -> npt.NDArray[np.bool_]:
        """Which of `positions` [T, 3] lie in the box, [T]."""
        return np.asarray(np.all(np.abs(positions - self.centre) <= self.half, axis=1))


def flight_box(suites: tuple[ClosedLoop, ...]) -> Box:
    """The cube that all the suites' paths are drawn in, so that suites compare by eye and both
    views have one scale. A lost flight counts by its start only: it may end kilometres off."""
    flights = [(ok, _positions(path)) for suite in suites for _, ok, path in suite.paths]
    any_survived = any(ok for ok, _ in flights)
    seen = [p if ok or not any_survived else p[:1] for ok, p in flights]
    columns = [finite([[0.0], *(p[:, i] for p in seen)]) for i in range(3)]
    x, y, z = (float(c.min() + c.max()) / 2.0 for c in columns)
    widest = max(float(c.max() - c.min()) for c in columns)
    return Box((x, y, z), 0.54 * widest or 1.0)


def flight_plots(key: str, suite: ClosedLoop, box: Box) -> tuple[Plot, Plot]:
    """Top view (x, y) and side view (x, z) of the suite's few paths."""
    return _view(key, suite, box, "Top view", 1), _view(key, suite, box, "Side view", 2)


def _view(key: str, suite: ClosedLoop, box: Box, title: str, vertical: int) -> Plot:
    x, y = box.axis(0), box.axis(vertical)
    curves: list[Curve] = []
    marks: list[Mark] = []
    for i, (name, survived, path) in enumerate(suite.paths):
        positions = _visible(_positions(path), box)
        points = place(x, y, positions[:, 0], positions[:, vertical])
        solid = points[~np.isnan(points).any(axis=1)]
        if not len(solid):
            continue
        role = f"s{i % SERIES}"
        fate = "survived" if survived else "lost"
        line = f"line {role}" if survived else f"line dashed {role}"
        curves.append(Curve(polyline(points), line, f"{name}: {fate}"))
        start, end = (
            np.clip(p * 100.0 / FRAME, 0.0, 100.0).round(2) for p in (solid[0], solid[-1])
        )
        marks.append(Mark(float(start[0]), float(start[1]), "start", role))
        marks.append(Mark(float(end[0]), float(end[1]), "end" if survived else "lost", role))
    lost = sum(not survived for _, survived, _ in suite.paths)
    return Plot(
        f"{key}-{'xyz'[vertical]}",
        f"{title}, {suite.suite}",
        f"{len(suite.paths)} flights in the {x.label[0]}-{y.label[0]} plane, {lost} of them lost; "
        "an open circle is the start, a filled one the end, a cross a lost flight's last place "
        "in view.",
        x,
        y,
        tuple(curves),
        tuple(marks),
        square=True,
    )


def _positions(path: tuple[tuple[float, float, float], ...]) -> Array:
    return np.asarray(path, np.float64).reshape(-1, 3)


def _visible(positions: Array, box: Box) -> Array:
    """`positions` up to where they first leave the box."""
    outside = np.flatnonzero(~box.inside(positions))
    return positions[: outside[0]] if outside.size and outside[0] > 0 else positions


def deviation_axes(suites: tuple[ClosedLoop, ...]) -> tuple[Axis, Axis]:
    """Time and position-error axes shared by all the suites."""
    series = [values for suite in suites for values in suite.error_over_time.values()]
    longest = [
        suite.dt * len(values) for suite in suites for values in suite.error_over_time.values()
    ]
    return linear_axis("time, s", [0.0, *longest]), log_axis("position error, m", *series)


def deviation_plot(key: str, suite: ClosedLoop, x: Axis, y: Axis) -> Plot | None:
    """Position error over time: the band from the 5th to the 95th percentile, the median, and
    whatever other series the suite has; None when it has none."""
    points = {
        name: place(x, y, suite.dt * np.arange(len(values)), values)
        for name, values in suite.error_over_time.items()
        if len(values)
    }
    if not points:
        return None
    lower, middle, upper = (_first(points, names) for names in (_LOWER, _MIDDLE, _UPPER))
    curves: list[Curve] = []
    legend: list[tuple[str, str]] = []
    if lower is not None and upper is not None:
        length = min(len(points[lower]), len(points[upper]))
        area = band(points[lower][:length], points[upper][:length])
        curves.append(Curve(area, "band s0", f"{lower} to {upper}"))
        legend.append(("band s0", f"{lower} – {upper}"))
    else:
        lower = upper = None
    lines = [name for name in points if name not in (lower, upper, middle)]
    for i, name in enumerate([*lines, *([middle] if middle else [])]):
        role = "line s0" if name == middle else f"line dashed s{i % (SERIES - 1) + 1}"
        text = "median" if name == middle else name
        curves.append(Curve(polyline(points[name]), role, text))
        legend.append((role, text))
    return Plot(
        f"{key}-error",
        f"Position error over time, {suite.suite}",
        f"{', '.join(suite.error_over_time)} of the position error over "
        f"{number(suite.episodes)} episodes.",
        x,
        y,
        tuple(curves),
        legend=tuple(legend),
    )


def _first(points: dict[str, Array], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in points), None)


def candidates_plot(candidates: Sequence[Candidate]) -> Plot | None:
    """What the programs that a search looked at cost: bytes across, instructions up, the line
    through those that nothing working beats in both; None where nothing was counted."""
    seen = [c for c in candidates if c.flash_bytes and c.instructions]
    if not seen:
        return None
    bytes_of = [float(c.flash_bytes or 0) for c in seen]
    work = [float(c.instructions or 0) for c in seen]
    x = log_axis("flash, B", bytes_of)
    y = log_axis("instructions", work)
    points = place(x, y, bytes_of, work)
    working = [k for k, c in enumerate(seen) if c.works]
    front = sorted(
        (k for k in working if not any(_beats(seen[j], seen[k]) for j in working)),
        key=lambda k: bytes_of[k],
    )
    marks = tuple(
        Mark(
            round(float(px) / FRAME * 100.0, 2),
            round(float(py) / FRAME * 100.0, 2),
            "end" if c.chosen else "start" if c.works else "lost",
            "s0" if c.chosen else "s1" if c.works else "s2",
        )
        for (px, py), c in zip(points, seen, strict=True)
    )
    curves = (Curve(polyline(points[front]), "line dashed s1", "best that work"),) if front else ()
    return Plot(
        "candidates",
        "Programs that were weighed",
        f"Flash and instructions of {len(seen)} programs.",
        x,
        y,
        curves,
        marks=marks,
        legend=(("line dashed s1", "best that work"),) if front else (),
    )


def _beats(one: Candidate, other: Candidate) -> bool:
    """Whether `one` costs no more than `other` in anything, and less in something."""
    costs = [(c.flash_bytes or 0, c.instructions or 0) for c in (one, other)]
    return costs[0] != costs[1] and all(a <= b for a, b in zip(*costs, strict=True))
