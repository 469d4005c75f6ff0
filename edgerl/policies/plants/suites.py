"""Suites: closed-loop conditions with published seeds, and what a policy scores in them.

`hover` holds sampled quadrotors at the origin, each pushed by a constant force; `figure8` flies
named vehicles along a Lissajous curve. Both are the conditions of RAPTOR's closed-loop anchors
(arXiv:2509.11481).

Seeds. One seed draws one cohort of `COHORT` vehicles with their starts, so `episodes` vehicles
take ceil(episodes / COHORT) consecutive seeds, and a flight of fewer episodes flies the first of
the same vehicles. Seeds from `FIRST_REPORTING_SEED` (1000) on are for reporting only: training,
calibration and search draw from seeds below it, `replace(SUITES["hover"], first_seed=0)`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, pi, sqrt

import numpy as np

from edgerl.errors import UserError, suggestion
from edgerl.policies.plants.quadrotor import (
    DT,
    POSITION,
    Floats,
    Quadrotors,
    Start,
    columns,
    hovering,
    joined,
    named_vehicles,
    sample_quadrotors,
    sample_starts,
)
from edgerl.policies.plants.rollout import (
    PUBLISHED_LIMITS,
    Counts,
    Feedback,
    Flags,
    Flight,
    Limits,
    Progress,
    Step,
    rollout,
)

COHORT = 256
FIRST_REPORTING_SEED = 1000

Path = tuple[str, bool, tuple[tuple[float, float, float], ...]]
Interval = tuple[float, float]

_SECOND = round(1.0 / DT)
_SHOWN = 6  # flights drawn in a report, up to a third of them lost ones
_LOOKED_AT = 64  # flights they are picked from
_RESAMPLES = 1000


@dataclass(frozen=True)
class Hover:
    """Hold sampled quadrotors at the origin.

    Starts lie within +-`span` m (None: 10 rotor distances) and are moving and tilted as
    `sample_starts` says; with `disturbance`, a constant force acts throughout.
    """

    name: str = "hover"
    plant: str = "quadrotor"
    episodes: int = 4096
    steps: int = 500
    first_seed: int = FIRST_REPORTING_SEED
    span: float | None = 0.5
    disturbance: bool = True
    limits: Limits | None = PUBLISHED_LIMITS

    def seeds(self, episodes: int) -> tuple[int, ...]:
        """The seeds that `episodes` vehicles are drawn from."""
        return tuple(range(self.first_seed, self.first_seed + ceil(episodes / COHORT)))

    def draw(self, episodes: int) -> tuple[Quadrotors, Start]:
        """The first `episodes` vehicles and starts of the suite."""
        cohorts = [self._cohort(seed) for seed in self.seeds(episodes)]
        part = slice(0, episodes)
        return (
            columns(joined([quads for quads, _ in cohorts]), part),
            columns(joined([start for _, start in cohorts]), part),
        )

    def _cohort(self, seed: int) -> tuple[Quadrotors, Start]:
        rng = np.random.default_rng(seed)
        quads = sample_quadrotors(COHORT, rng)
        start = sample_starts(quads, rng, span=self.span, disturbance=self.disturbance)
        return quads, start


@dataclass(frozen=True)
class FigureEight:
    """Track x = sin(p), y = sin(2 p) / 2 m, p = 2 pi t / lap time, with each vehicle at each lap
    time [s], for `laps` lap times.

    The speed ramps up linearly over the first `ramp` s. Flights start hovering at the origin,
    without disturbance; no limit terminates them. The score leaves out the ramp.
    """

    name: str = "figure8"
    plant: str = "quadrotor"
    vehicles: tuple[str, ...] = ("crazyflie", "x500")
    lap_times: tuple[float, ...] = (10.0, 5.5)
    laps: int = 3
    ramp: float = 1.0

    @property
    def flights(self) -> tuple[tuple[str, float], ...]:
        """(vehicle, lap time) of every flight, in order."""
        return tuple((v, t) for v in self.vehicles for t in self.lap_times)

    def steps(self, lap_time: float) -> int:
        """Steps of one flight."""
        return round(self.laps * lap_time / DT)

    def reference(self, lap_time: float, steps: int) -> Floats:
        """Position and velocity to track in each step, [steps, 6]."""
        t = np.arange(steps) * DT
        ramped = np.minimum(t, self.ramp)
        speed = ramped / self.ramp * (2.0 * pi / lap_time)
        p = (ramped * ramped / (2.0 * self.ramp) + (t - ramped)) * (2.0 * pi / lap_time)
        zero = np.zeros_like(t)
        place = [np.sin(p), 0.5 * np.sin(2.0 * p), zero]
        return np.stack([*place, np.cos(p) * speed, np.cos(2.0 * p) * speed, zero], axis=1)


Suite = Hover | FigureEight

SUITES: dict[str, Suite] = {suite.name: suite for suite in (Hover(), FigureEight())}


@dataclass(frozen=True)
class SuiteResult:
    """A policy's scores in one suite; lengths in m.

    `intervals` are 95 %, under the names of the metrics they belong to. A metric over survivors
    is absent when there is none, that of a single flight when it was lost. `paths` are a few
    flights to draw: name, survived, position at every step flown (to 0.1 mm). `error_over_time`
    has the quantiles p05, p50 and p95 of the position error over the vehicles still flying, one
    value every `dt` s from the start on, for as long as any flies.
    """

    plant: str
    suite: str
    episodes: int
    seeds: tuple[int, ...]
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    paths: tuple[Path, ...]
    error_over_time: dict[str, tuple[float, ...]]
    dt: float = DT
    outcomes: "Outcomes | None" = None


@dataclass(frozen=True)
class Outcomes:
    """How each vehicle of `hover` did: whether it survived, and the mean distance, m, over the
    last second; what it means for a lost one nobody knows."""

    survived: tuple[bool, ...]
    final_error: tuple[float, ...]


@dataclass(frozen=True)
class Paired:
    """Two policies on the same vehicles, flight by flight: of survival and of the mean distance
    over the last second, m, where both survived, the first's less the second's, with 95 %
    intervals."""

    survival: float
    survival_interval: Interval
    final_error: float | None
    final_error_interval: Interval | None


def paired(one: Outcomes, other: Outcomes) -> Paired:
    """How `one` differs from `other`, which flew the same vehicles."""
    lived, lasted = np.array(one.survived), np.array(other.survived)
    survival = lived.astype(np.float64) - lasted
    error = (np.array(one.final_error) - np.array(other.final_error))[lived & lasted]
    return Paired(
        float(survival.mean()),
        bootstrap_interval(survival, np.mean),
        float(error.mean()) if error.size else None,
        bootstrap_interval(error, np.mean) if error.size else None,
    )


def suite_named(name: str) -> Suite:
    """The suite called `name`; UserError, with the nearest name, when there is none."""
    if name in SUITES:
        return SUITES[name]
    raise UserError(f"unknown suite {name[:60]!r}; {suggestion(name, SUITES)}")


def fly(
    suite: Suite,
    step: Step,
    *,
    feedback: Feedback,
    episodes: int | None = None,
    progress: Progress | None = None,
) -> SuiteResult:
    """Fly `suite` under a policy fresh from reset, and score it.

    `episodes` flies the first so many vehicles of `hover` (its own number when None); `step` is
    called with that many observations, one for each of its flights in `figure8`. Raises
    UserError when `episodes` does not suit.
    """
    match suite:
        case Hover():
            return _fly_hover(suite, step, feedback, episodes, progress)
        case FigureEight():
            return _fly_figure_eight(suite, step, feedback, episodes, progress)


def _fly_hover(
    suite: Hover,
    step: Step,
    feedback: Feedback,
    episodes: int | None,
    progress: Progress | None,
) -> SuiteResult:
    """Survival: never outside the limits. Final error: mean distance over the last second."""
    count = suite.episodes if episodes is None else episodes
    if count < 1:
        raise UserError(f"suite {suite.name!r} cannot fly {count} episodes; give 1 or more")
    quads, start = suite.draw(count)
    flight = rollout(
        quads,
        start,
        step,
        steps=suite.steps,
        feedback=feedback,
        limits=suite.limits,
        record=_LOOKED_AT,
        progress=progress,
    )
    survived = flight.survived
    metrics = {"survival": float(survived.mean()), "mean_length": float(flight.length.mean())}
    intervals = {
        "survival": wilson_interval(int(survived.sum()), count),
        "mean_length": bootstrap_interval(flight.length.astype(np.float64), np.mean),
    }
    final = flight.error[-_SECOND:, survived].mean(axis=0)
    if final.size:
        for name, statistic in _FINAL_ERROR.items():
            metrics[f"final_error_{name}"] = float(statistic(final))
            intervals[f"final_error_{name}"] = bootstrap_interval(final, statistic)
    names = [
        f"{i}: {mass:.3g} kg, thrust/weight {ratio:.2f}"
        for i, (mass, ratio) in enumerate(zip(quads.mass, quads.thrust_to_weight, strict=True))
    ]
    return SuiteResult(
        plant=suite.plant,
        suite=suite.name,
        episodes=count,
        seeds=suite.seeds(count),
        metrics=metrics,
        intervals=intervals,
        paths=_paths(flight, names, flight.length, survived, _picked(survived[:_LOOKED_AT])),
        error_over_time=_error_over_time(flight.error, flight.length),
        outcomes=Outcomes(
            tuple(survived.tolist()), tuple(flight.error[-_SECOND:].mean(axis=0).tolist())
        ),
    )


def _fly_figure_eight(
    suite: FigureEight,
    step: Step,
    feedback: Feedback,
    episodes: int | None,
    progress: Progress | None,
) -> SuiteResult:
    """RMSE of the position error of each completed flight, from the end of the ramp on. All fly
    as long as the slowest, and each is scored over its own laps."""
    flights = suite.flights
    count = len(flights)
    if episodes not in (None, count):
        raise UserError(f"suite {suite.name!r} has {count} fixed flights, not {episodes} episodes")
    ends = np.array([suite.steps(lap_time) for _, lap_time in flights])
    steps = int(ends.max())
    quads = named_vehicles([vehicle for vehicle, _ in flights])
    reference = np.stack([suite.reference(lap_time, steps) for _, lap_time in flights], axis=2)
    flight = rollout(
        quads,
        hovering(quads),
        step,
        steps=steps,
        feedback=feedback,
        limits=None,
        reference=reference,
        record=count,
        progress=progress,
    )
    begin = round(suite.ramp / DT) + 1
    flown = np.minimum(flight.length, ends)
    completed = flown == ends
    metrics = {"survival": float(completed.mean())}
    for i in np.flatnonzero(completed):
        vehicle, lap_time = flights[i]
        error = flight.error[begin : ends[i] + 1, i]
        metrics[f"rmse_{vehicle}_{lap_time:g}s"] = sqrt(float(np.mean(error * error)))
    return SuiteResult(
        plant=suite.plant,
        suite=suite.name,
        episodes=count,
        seeds=(),
        metrics=metrics,
        intervals={},
        paths=_paths(
            flight, [f"{v}, {t:g} s a lap" for v, t in flights], flown, completed, range(count)
        ),
        error_over_time=_error_over_time(flight.error, flown),
    )


def wilson_interval(successes: int, trials: int) -> Interval:
    """95 % score interval of a proportion (Wilson, J. Am. Stat. Assoc. 22, 1927)."""
    z = 1.959963984540054
    share = successes / trials
    centre = share + z * z / (2.0 * trials)
    half = z * sqrt(share * (1.0 - share) / trials + z * z / (4.0 * trials * trials))
    scale = 1.0 + z * z / trials
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def bootstrap_interval(sample: Floats, statistic: Callable[[Floats], np.floating]) -> Interval:
    """95 % percentile-bootstrap interval of `statistic` (Efron, Ann. Stat. 7, 1979), from a
    fixed seed: the same sample gives the same interval."""
    rng = np.random.default_rng(0)
    n = sample.size
    spread = [statistic(sample[rng.integers(0, n, n)]) for _ in range(_RESAMPLES)]
    low, high = np.quantile(spread, (0.025, 0.975))
    return float(low), float(high)


def _p95(sample: Floats) -> np.floating:
    return np.quantile(sample, 0.95)


_FINAL_ERROR: dict[str, Callable[[Floats], np.floating]] = {
    "mean": np.mean,
    "median": np.median,
    "p95": _p95,
}


def _picked(survived: Flags) -> list[int]:
    """Indices of the flights to draw: some lost ones where there are any, else survivors."""
    lost = np.flatnonzero(~survived)[: _SHOWN // 3]
    kept = np.flatnonzero(survived)[: _SHOWN - lost.size]
    return sorted(int(i) for i in (*kept, *lost))


def _paths(
    flight: Flight,
    names: Sequence[str],
    flown: Counts,
    survived: Flags,
    picked: Sequence[int],
) -> tuple[Path, ...]:
    paths = []
    for i in picked:
        positions = np.round(flight.states[: flown[i] + 1, POSITION, i], 4).tolist()
        path = tuple((x, y, z) for x, y, z in positions)
        paths.append((names[i], bool(survived[i]), path))
    return tuple(paths)


def _error_over_time(error: Floats, flown: Counts) -> dict[str, tuple[float, ...]]:
    """Quantiles over the vehicles still flying at each step, up to the longest flight."""
    seen = range(int(flown.max()) + 1)
    bands = [np.quantile(error[k, flown >= k], (0.05, 0.5, 0.95)) for k in seen]
    return dict(zip(("p05", "p50", "p95"), map(tuple, np.array(bands).T.tolist()), strict=True))
