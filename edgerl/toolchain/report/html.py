"""The report as one self-contained HTML page: no script, no font, nothing loaded.

Python decides what is shown; `templates/` says how. Every value is escaped on its way into the
page, whatever its source, and the page's own content policy forbids it to load or run a thing.
"""

import math
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from edgerl.policies.spec import PolicySpec, Signal
from edgerl.policies.vocabulary import VOCABULARY
from edgerl.toolchain.report.figures import (
    SERIES,
    candidates_plot,
    deviation_axes,
    deviation_plot,
    error_limit,
    error_plot,
    flight_box,
    flight_plots,
)
from edgerl.toolchain.report.limits import BOUND_AT, limit_row, verdict
from edgerl.toolchain.report.model import ClosedLoop, Measured, Parity, Reference, Report
from edgerl.toolchain.report.svg import FRAME, Plot
from edgerl.toolchain.report.text import (
    NOT_RUN,
    anything,
    kilobytes,
    number,
    percent,
    printable,
    words,
)

_VERIFIED = {
    "same-binary": "checks run the shipped binary itself",
    "relinked-stand-in": "checks run the same objects, relinked for a stand-in machine",
    "host-only": "checks run only the portable twin, on a host",
}
_FEEDBACK = {
    "raw": "the network's own output, before saturation",
    "clamped": "the output after saturation",
    "applied": "what the actuators applied, after their slew limits",
}
_GUARD = {
    "saturate": "each value is replaced by the nearest valid one",
    "hold": "the last good action is repeated and the state stays as it was",
    "fallback": "the fallback action is output and the state stays as it was",
}


@dataclass(frozen=True)
class Tile:
    """One figure of the summary. `source` is `counted`, `modelled` or `measured`; `state` is
    empty, or `good`, `bad` or `absent`."""

    label: str
    source: str
    value: str = NOT_RUN
    unit: str = ""
    detail: str = ""
    state: str = ""


@dataclass(frozen=True)
class Part:
    """A share of a stacked bar: from `start`, `width` wide, in per cent."""

    name: str
    size: int
    start: float
    width: float
    role: str


@dataclass(frozen=True)
class SuiteView:
    """A closed-loop suite with its plots."""

    suite: ClosedLoop
    views: tuple[Plot, ...]
    deviation: Plot | None
    survival: float | None


def render(report: Report, spec: PolicySpec, *, clock_hz: int = 0) -> str:
    """The whole report as one HTML file, UTF-8 text that needs nothing beside it.

    `spec` is the policy's contract, printed signal by signal. With `clock_hz`, the target's
    clock, the modelled cycles are shown as time per step too. What `report` lacks is shown as
    not run. The same report gives the same bytes.
    """
    return environment().get_template("report.html.j2").render(
        report=report,
        spec=spec,
        verdict=verdict(report.limits),
        verified=_VERIFIED.get(report.verified_by, ""),
        tiles=_tiles(report, spec, clock_hz),
        parity_state=_parity_state(report.parity),
        missing=_missing(report),
        limits=[limit_row(limit) for limit in report.limits],
        bound_at=BOUND_AT,
        flash=_flash_parts(report.measured),
        most_instructions=max((la.instructions or 0 for la in report.measured.layers), default=0),
        most_weights=max((la.weight_bytes for la in report.measured.layers), default=0),
        references=_references(report),
        weighed=candidates_plot(report.candidates),
        suites=_suites(report.closed_loop),
        signals={"Observation": _indexed(spec.observation), "Action": _indexed(spec.action)},
        feedback=_FEEDBACK[spec.feedback],
        out_of_range=_GUARD[spec.out_of_range],
        non_finite=_GUARD[spec.non_finite],
        frame=FRAME,
        series=SERIES,
        not_run=NOT_RUN,
    )  # fmt: skip


@cache
def environment() -> Environment:
    """The templates of every page, with their filters; values are escaped and made printable."""
    environment = Environment(
        loader=PackageLoader("edgerl.toolchain.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda v: printable(v) if isinstance(v, str) and not isinstance(v, Markup) else v,
    )
    environment.filters.update(
        number=number, percent=percent, kilobytes=kilobytes, words=words, anything=anything
    )
    return environment


def _parity_state(parity: Parity | None) -> str:
    """`exact`, `differs`, or `absent` when no step was compared with anything."""
    if parity is None:
        return "absent"
    if parity.first_difference is not None:
        return "differs"
    if parity.steps <= 0 or len(parity.between) < 2:
        return "absent"
    return "exact" if parity.bit_exact else "differs"


def _survival(suite: ClosedLoop) -> float | None:
    """The share of episodes survived, where the suite reports one."""
    share = suite.metrics.get("survival")
    return share if share is not None and 0.0 <= share <= 1.0 and suite.episodes > 0 else None


def _missing(report: Report) -> list[str]:
    """What the report has nothing to say about."""
    obtained = {
        "instruction count": report.measured.instructions is not None,
        "cycle model": report.measured.cycles_model is not None,
        "parity": _parity_state(report.parity) != "absent",
        "reference": report.reference is not None,
        "closed loop": bool(report.closed_loop),
    }
    return [name for name, there in obtained.items() if not there]


def _tiles(report: Report, spec: PolicySpec, clock_hz: int) -> list[Tile]:
    measured = report.measured
    tiles = [_instructions(measured), _cycles(measured)]
    if clock_hz > 0:
        tiles.append(_time(measured, spec.rate_hz, clock_hz))
    return [
        *tiles,
        _bytes("Flash", measured.flash_bytes, "code and constants of the package"),
        _bytes("RAM", measured.ram_bytes, _of_state(measured)),
        _stack(measured),
        _error(report.reference),
        _parity(report.parity),
        _survivors(report.closed_loop),
    ]


def _instructions(measured: Measured) -> Tile:
    label, source = "Instructions per step", "counted"
    spread, guard = measured.instructions, measured.step_overhead_instructions
    if spread is None:
        return Tile(label, source, state="absent")
    same = spread.min == spread.max
    detail = (
        "the same for every input"
        if same
        else f"worst case; from {number(spread.min)}, mean {number(spread.mean)}"
    )
    if guard is not None:
        detail += f"; guard and saturation add {number(guard)}"
    return Tile(label, source, number(spread.max), detail=detail)


def _cycles(measured: Measured) -> Tile:
    if measured.cycles_model is None:
        return Tile("Cycles per step", "modelled", state="absent")
    detail = "from a published timing table, not from silicon"
    return Tile("Cycles per step", "modelled", number(measured.cycles_model), detail=detail)


def _time(measured: Measured, rate_hz: float, clock_hz: int) -> Tile:
    if measured.cycles_model is None:
        return Tile("Time per step", "modelled", state="absent")
    seconds = measured.cycles_model / clock_hz
    detail = f"at {number(clock_hz / 1e6)} MHz; {percent(seconds * rate_hz, 2)} of a control period"
    return Tile("Time per step", "modelled", number(1e6 * seconds, 3), "µs", detail)


def _bytes(label: str, size: int | None, detail: str) -> Tile:
    if size is None:
        return Tile(label, "counted", state="absent")
    shown = f"{kilobytes(size)}; {detail}" if size >= 1024 else detail
    return Tile(label, "counted", number(size), "B", shown)


def _of_state(measured: Measured) -> str:
    if measured.state_bytes is None:
        return "stack apart"
    return f"of it {number(measured.state_bytes)} B state; stack apart"


def _stack(measured: Measured) -> Tile:
    painted = measured.stack_painted_bytes
    if measured.stack_bytes is None:
        if painted is None:
            return Tile("Stack", "counted", state="absent")
        return Tile("Stack", "measured", number(painted), "B", "deepest paint overwritten")
    seen = "not painted" if painted is None else f"painted: {number(painted)} B measured"
    return _bytes("Stack", measured.stack_bytes, f"worst path of the call graph; {seen}")


def _error(reference: Reference | None) -> Tile:
    if reference is None:
        return Tile("Worst error", "measured", state="absent")
    detail = f"against {reference.against}, {number(reference.steps)} steps"
    state = "" if math.isfinite(reference.max_abs_error) else "bad"
    value = number(reference.max_abs_error, 3)
    return Tile("Worst error", "measured", value, detail=detail, state=state)


def _parity(parity: Parity | None) -> Tile:
    state = _parity_state(parity)
    if parity is None or state == "absent":
        return Tile("Parity", "measured", state="absent")
    detail = f"{number(parity.steps)} steps, {len(parity.between)} runs compared"
    if state == "exact":
        return Tile("Parity", "measured", "bit-exact", detail=detail, state="good")
    return Tile("Parity", "measured", "differs", detail=detail, state="bad")


def _survivors(suites: tuple[ClosedLoop, ...]) -> Tile:
    share = _survival(suites[0]) if suites else None
    if share is None:
        return Tile("Survival", "measured", state="absent")
    suite = suites[0]
    detail = f"{suite.suite}, {number(suite.episodes)} episodes"
    interval = suite.intervals.get("survival")
    if interval is not None:
        low, high, confidence = percent(interval[0]), percent(interval[1]), percent(0.95, 2)
        detail += f"; {low} to {high} at {confidence} confidence"
    return Tile("Survival", "measured", percent(share), detail=detail)


def _flash_parts(measured: Measured) -> list[Part]:
    """Code, weights, tables, and what of the package's flash is none of them."""
    known = [
        ("code", measured.code_bytes or 0),
        ("weights", measured.weight_bytes or 0),
        ("tables", measured.table_bytes or 0),
        *([("run-time library", measured.library_bytes)] if measured.library_bytes else []),
    ]
    rest = (measured.flash_bytes or 0) - sum(size for _, size in known)
    if not any(size for _, size in known):
        return []
    sizes = [*known, ("other", rest)] if rest > 0 else known
    total = sum(size for _, size in sizes)
    parts, start = [], 0.0
    for i, (name, size) in enumerate(sizes):
        width = 100.0 * size / total
        role = "rest" if name == "other" else f"s{i}"
        parts.append(Part(name, size, round(start, 3), round(width, 3), role))
        start += width
    return parts


def _references(report: Report) -> list[tuple[str, Reference | None, Plot | None]]:
    """(heading, reference, plot) for the reference runtime and the authors' own examples."""
    rows = (
        ("Against the reference runtime", "reference", report.reference),
        ("Against the authors' examples", "examples", report.examples),
    )
    return [
        (
            heading,
            reference,
            error_plot(key, reference, error_limit(reference, report.limits))
            if reference
            else None,
        )
        for heading, key, reference in rows
    ]


def _suites(suites: tuple[ClosedLoop, ...]) -> list[SuiteView]:
    box = flight_box(suites)
    x, y = deviation_axes(suites)
    return [
        SuiteView(
            suite,
            flight_plots(f"suite{i}", suite, box) if suite.paths else (),
            deviation_plot(f"suite{i}", suite, x, y),
            _survival(suite),
        )
        for i, suite in enumerate(suites)
    ]


def _indexed(signals: tuple[Signal, ...]) -> list[tuple[str, Signal, str]]:
    """Each signal with its elements' index range and, for a name of the shared vocabulary, what
    that name means."""
    rows, first = [], 0
    for signal in signals:
        last = first + signal.size - 1
        known = VOCABULARY.get(signal.name)
        span = str(first) if first == last else f"{first}–{last}"
        rows.append((span, signal, known.about if known else ""))
        first = last + 1
    return rows
