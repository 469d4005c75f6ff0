"""Plot geometry: scales, ticks and paths, as plain numbers for the SVG templates.

Curves live in a square of FRAME units that the page stretches over the plot; ticks, marks and
rules are in per cent of the same square. So a plot takes any width while its text, strokes and
marks keep their size, which a scaled drawing would not.
"""

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgerl.toolchain.report.text import number, scientific

Array = npt.NDArray[np.float64]

FRAME = 4000
_HUGE = 1e30


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, in per cent from its low end."""

    at: float
    text: str
    zero: bool = False


@dataclass(frozen=True)
class Axis:
    """A scale from `low` to `high`, linear or logarithmic. `label` names quantity and unit."""

    label: str
    low: float
    high: float
    log: bool = False
    count: int = 5

    def fraction(self, values: npt.ArrayLike) -> Array:
        """Where `values` fall: 0 at `low`, 1 at `high`. A logarithmic axis has no place for
        zero and below, which land on `low`."""
        v = np.asarray(values, np.float64)
        if not self.log:
            return (v - self.low) / (self.high - self.low)
        v = np.log(np.maximum(v, self.low))
        return (v - math.log(self.low)) / (math.log(self.high) - math.log(self.low))

    @property
    def ticks(self) -> tuple[Tick, ...]:
        """Round values inside the axis, about `count` of them."""
        values = _log_ticks(self) if self.log else _linear_ticks(self)
        texts = _log_texts(values) if self.log else _linear_texts(values)
        places = 100.0 * self.fraction(values)
        return tuple(
            Tick(round(float(place), 2), text, value == 0.0)
            for place, text, value in zip(places, texts, values, strict=True)
        )


@dataclass(frozen=True)
class Curve:
    """A path in FRAME units. `role` is its CSS class, `title` what it says when pointed at."""

    d: str
    role: str
    title: str = ""


@dataclass(frozen=True)
class Mark:
    """A symbol at (x, y) per cent from the top left."""

    x: float
    y: float
    shape: Literal["start", "end", "lost"]
    role: str


@dataclass(frozen=True)
class Rule:
    """A labelled horizontal line `at` per cent from the top."""

    at: float
    text: str


@dataclass(frozen=True)
class Plot:
    """Everything a template needs to draw one plot. `key` is unique on the page; `legend`
    pairs the CSS class of a curve with what it stands for."""

    key: str
    title: str
    description: str
    x: Axis
    y: Axis
    curves: tuple[Curve, ...]
    marks: tuple[Mark, ...] = ()
    rules: tuple[Rule, ...] = ()
    legend: tuple[tuple[str, str], ...] = ()
    square: bool = False


def finite(values: Iterable[npt.ArrayLike]) -> Array:
    """All finite values of several arrays in one, kept within ±1e30."""
    arrays = [np.asarray(v, np.float64).ravel() for v in values]
    joined = np.concatenate(arrays) if arrays else np.empty(0)
    kept: Array = np.clip(joined[np.isfinite(joined)], -_HUGE, _HUGE)
    return kept


def linear_axis(label: str, *values: npt.ArrayLike, count: int = 5) -> Axis:
    """A linear axis over exactly the span of `values`, widened where that span is empty."""
    v = finite(values)
    low, high = (float(v.min()), float(v.max())) if v.size else (0.0, 1.0)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        margin = 0.1 * abs(high) or 1.0
        low, high = low - margin, high + margin
    return Axis(label, low, high, count=count)


def log_axis(label: str, *values: npt.ArrayLike, count: int = 5) -> Axis:
    """A logarithmic axis whose ends are 1, 2 or 5 times a power of ten around the positive
    `values`."""
    v = finite(values)
    v = v[v > 0.0]
    low, high = (float(v.min()), float(v.max())) if v.size else (0.1, 1.0)
    low = max(low, 1e-30)
    low, high = _round_log(low, up=False), _round_log(max(high, low), up=True)
    return Axis(label, low, high if high > low else 10.0 * low, log=True, count=count)


def _round_log(value: float, up: bool) -> float:
    exponent = math.floor(math.log10(value))
    steps = [m * 10.0 ** (exponent + e) for e in (-1, 0, 1) for m in (1.0, 2.0, 5.0)]
    # A hair of slack, because 10.0 ** -7 need not be the literal 1e-7.
    if up:
        return min(s for s in steps if s >= value * (1 - 1e-12))
    return max(s for s in steps if s <= value * (1 + 1e-12))


def _linear_ticks(axis: Axis) -> list[float]:
    rough = (axis.high - axis.low) / axis.count
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= rough * (1 - 1e-9))
    first = math.ceil(axis.low / step - 1e-9)
    last = math.floor(axis.high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _linear_texts(values: list[float]) -> list[str]:
    largest = max((abs(v) for v in values), default=0.0)
    step = values[1] - values[0] if len(values) > 1 else largest or 1.0
    if largest >= 1e6 or step < 1e-4:
        return ["0" if v == 0.0 else scientific(v) for v in values]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{v + 0.0:,.{decimals}f}".replace("-", "−") for v in values]


def _log_ticks(axis: Axis) -> list[float]:
    first = math.floor(math.log10(axis.low) + 1e-9)
    last = math.ceil(math.log10(axis.high) - 1e-9)
    decades = math.log10(axis.high / axis.low)
    # Fine steps while they fit, then whole decades, then every second, third… decade.
    multiples = (1.0, 2.0, 5.0) if 3 * decades <= axis.count + 1 else (1.0,)
    stride = max(1, math.ceil(decades / axis.count))
    values = [m * 10.0**e for e in range(first, last + 1, stride) for m in multiples]
    slack = 1e-9
    return [v for v in values if axis.low * (1 - slack) <= v <= axis.high * (1 + slack)]


def _log_texts(values: list[float]) -> list[str]:
    if all(1e-3 <= v < 1e5 for v in values):
        return [number(v) for v in values]
    return [scientific(v).removeprefix("1×") for v in values]


def simplify(points: Array, tolerance: float = 2.0, limit: int = 400) -> Array:
    """The fewest of `points` [n, 2] that keep every other one within `tolerance` of the line,
    `limit` at most.

    Douglas and Peucker's splitting (doi:10.3138/FM57-6770-U75U-7727), farthest point first, so
    that where `limit` cuts it short the largest excursions are the ones that stay.
    """
    if len(points) < 3:
        return points
    kept = {0, len(points) - 1}
    queue = [_farthest(points, 0, len(points) - 1)]
    while queue and len(kept) < limit:
        distance, first, middle, last = heapq.heappop(queue)
        if -distance <= tolerance:
            break
        kept.add(middle)
        for a, b in ((first, middle), (middle, last)):
            if b - a > 1:
                heapq.heappush(queue, _farthest(points, a, b))
    return points[sorted(kept)]


def _farthest(points: Array, first: int, last: int) -> tuple[float, int, int, int]:
    """(minus distance, first, index, last) of the point farthest from the segment."""
    origin, chord = points[first], points[last] - points[first]
    offset = points[first + 1 : last] - origin
    length = float(chord @ chord)
    along = np.clip(offset @ chord / length, 0.0, 1.0) if length else np.zeros(len(offset))
    distance = np.linalg.norm(offset - along[:, None] * chord, axis=1)
    worst = int(np.argmax(distance))
    return -float(distance[worst]), first, first + 1 + worst, last


def place(x: Axis, y: Axis, xs: npt.ArrayLike, ys: npt.ArrayLike) -> Array:
    """Points [n, 2] in FRAME units, y downwards; not-a-number where a value is not finite."""
    points = np.stack([x.fraction(xs), 1.0 - y.fraction(ys)], axis=1) * FRAME
    points[~np.isfinite(points).all(axis=1)] = np.nan
    # What lies far outside is cut off by the frame anyway; its coordinates stay sane.
    return np.clip(points, -9 * FRAME, 10 * FRAME)


def polyline(points: Array, limit: int = 400) -> str:
    """Path data through `points`, simplified to `limit` points a run at most, broken where points
    are not a number."""
    gaps = np.flatnonzero(np.isnan(points).any(axis=1))
    runs = np.split(points, gaps)
    # Every run but the first starts with the gap that ended the one before.
    solid = [run if i == 0 else run[1:] for i, run in enumerate(runs)]
    return "".join(_path(simplify(run, limit=limit)) for run in solid if len(run))


def band(lower: Array, upper: Array) -> str:
    """Path data of the closed area between two curves over the same x, gaps left out."""
    both = ~(np.isnan(lower).any(axis=1) | np.isnan(upper).any(axis=1))
    if not both.any():
        return ""
    there, back = simplify(upper[both]), simplify(lower[both])[::-1]
    return _path(np.concatenate([there, back])) + "Z"


def _path(points: Array) -> str:
    whole = np.rint(points).astype(np.int64)
    # A lone point still shows, as a dot of the stroke's width.
    whole = whole if len(whole) > 1 else np.repeat(whole, 2, axis=0)
    return "M" + "L".join(f"{x} {y}" for x, y in whole)
