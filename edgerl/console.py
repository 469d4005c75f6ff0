"""Console: how the command line shows progress and results to a person."""

import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console as Screen
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from edgerl.diagnosis import Tool
    from edgerl.evaluation import Evaluation
    from edgerl.inspection import Inspection
    from edgerl.policies.vocabulary import Meaning
    from edgerl.stages import Advance
    from edgerl.targets import Region, Target
    from edgerl.toolchain.report.model import Limit, Parity, Report
    from edgerl.toolchain.report.replayed import Replay, ReplayedAction

Figure = tuple[str, str, str]  # name, value, and what the value is

_WORTH_A_LINE_S = 1.0
_GAP = 2
# A file or a pipe has no width; give every cell room.
_PIPED_WIDTH = 160


class Console:
    """Progress and remarks to standard error, results to standard output. A Watcher."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._said: set[str] = set()
        self._out = Screen(highlight=False, soft_wrap=True)
        self._err = Screen(stderr=True, highlight=False, soft_wrap=True)
        if not self._out.is_terminal:
            self._out.width = _PIPED_WIDTH

    def say(self, text: str) -> None:
        """One remark, once."""
        if not self.quiet and text not in self._said:
            self._said.add(text)
            self._err.print(f"  [dim]{escape(text)}[/dim]")

    def stage(self, name: str) -> "Iterator[Advance]":
        """A stage with a bar while it runs, where that is a terminal, and a line after it if it
        took a second."""
        if self.quiet:
            yield lambda done, of: None
            return
        begin = time.monotonic()
        if self._err.is_terminal:
            yield from self._bar(name)
        else:
            yield lambda done, of: None
        spent = time.monotonic() - begin
        if spent >= _WORTH_A_LINE_S:
            self._err.print(f"  [green]done[/green] {escape(name)} [dim]{spent:.1f} s[/dim]")

    def _bar(self, name: str) -> "Iterator[Advance]":
        columns = TextColumn("  {task.description}"), BarColumn(bar_width=24), TimeElapsedColumn()
        with Progress(*columns, console=self._err, transient=True) as progress:
            task = progress.add_task(escape(name), total=None)
            yield lambda done, of: progress.update(task, completed=done, total=of)

    def report(self, report: "Report", folder: Path) -> None:
        """The figures of a compile or check, what was missed, and where the page is."""
        self._figures(
            f"{report.policy.name} on {report.target}",
            [*_costs(report), *_comparisons(report), *_flights(report)],
        )
        self._verdict(report.limits)
        if report.parity and report.parity.first_difference:
            self._difference(report.parity)
        for note in report.notes:
            self.say(note)
        if not report.checked:
            self.say("not checked: add --check to prove it")
        self._out.print(str(folder / "report.html"), markup=False)

    def _difference(self, parity: "Parity") -> None:
        """Where two runs first part, and where inside the network that comes from."""
        first, place = parity.first_difference, parity.localisation
        assert first is not None
        sides = ", ".join(
            f"{value:.9g} ({bits}) in {who}"
            for value, bits, who in zip(first.values, first.bits, first.between, strict=True)
        )
        self._out.print(
            f"[red]first difference[/red] step {first.step} of trace {first.mode}, "
            f"{first.since_reset} after a reset, {escape(first.element)}: {escape(sides)}"
        )
        if place is not None:
            self._out.print(f"[red]arises[/red] {escape(place.text)}")
            if place.sources:
                self._out.print(f"{escape(place.sources)} is not what policy.onnx makes")

    def evaluation(self, evaluation: "Evaluation") -> None:
        """The scores of a suite."""
        flown = evaluation.flown
        rows = []
        for name, value in flown.metrics.items():
            interval = flown.intervals.get(name)
            low_high = [_metric(name, side) for side in interval] if interval else []
            about = f"95 % interval {' to '.join(low_high)}" if low_high else ""
            rows.append((name.replace("_", " "), _metric(name, value), about))
        self._figures(f"{evaluation.policy} in {flown.suite}, {flown.on}", rows)
        self._out.print(f"{flown.episodes:,} flights, {_seeds(flown.seeds)}")
        self._verdict(evaluation.limits)

    def replay(self, replay: "Replay") -> None:
        """How a replayed log compares with what was recorded, and where the page is."""
        guarded = [(n.replace("_", " "), f"{k:,}", "rows") for n, k in replay.status.items() if k]
        self._figures(
            f"{replay.log} through {replay.policy} on {replay.target}, {replay.on}, {replay.mode}",
            [("rows", f"{replay.rows:,}", f"{replay.resets:,} from reset"), *guarded],
        )
        if replay.first_flagged:
            first = replay.first_flagged
            what = f"{first.element} is {first.value:.9g}"
            self._out.print(f"the guard first objected at row {first.row}: {what}", markup=False)
        self.rows("action", [_replayed(action, replay.tolerance) for action in replay.actions])
        self._verdict(replay.limits)
        for note in replay.notes:
            self.say(note)
        self._out.print(replay.files["page"], markup=False)

    def inspection(self, facts: "Inspection") -> None:
        """What a policy is."""
        self._out.print(
            f"{facts.name}: {facts.parameters:,} parameters, {facts.macs:,} MACs a step, "
            f"{facts.rate_hz:g} Hz",
            markup=False,
        )
        self.rows("signal", [vars(signal) for signal in facts.signals])
        self.rows("layer", [vars(layer) for layer in facts.layers])
        for line in facts.assumed:
            self._out.print(f"assumed: {line}", markup=False)

    def targets(self, rows: "Sequence[Target]") -> None:
        """The table of targets."""
        listed = [
            {
                "target": row.name,
                "core": row.core.name,
                "FPU": "yes" if row.core.fpu else "no",
                # Under Linux the memories are a program's, and no bound of the board.
                "flash kB": _size(row.application) if row.core.hosting != "linux" else "",
                "RAM kB": _size(row.ram) if row.core.hosting != "linux" else "",
                "MHz": f"{row.clock_hz / 1e6:g}" if row.clock_hz else "",
                "verified by": row.verified_by,
            }
            for row in rows
        ]
        self.rows("target", listed)

    def vocabulary(self, known: "Mapping[str, Meaning]") -> None:
        """The table of the signals that have a meaning of their own."""
        listed = [
            {
                "signal": name,
                "size": "any" if row.size is None else row.size,
                "unit": row.unit,
                "frame": row.frame,
                "range": f"{row.range[0]:g} to {row.range[1]:g}",
                "about": row.about,
            }
            for name, row in known.items()
        ]
        self.rows("signal", listed)

    def explanation(self, facts: Mapping[str, str]) -> None:
        """Names and texts; a long text continues below its beginning."""
        margin = max(map(len, facts)) + _GAP
        for name, text in facts.items():
            lines = textwrap.wrap(text, self._room([margin - _GAP]), break_on_hyphens=False)
            shown = f"\n{' ' * margin}".join(lines)
            self._out.print(f"{name:{margin}}{shown}", markup=False)

    def diagnosis(self, rows: "Sequence[Tool]") -> None:
        """What doctor found."""
        for row in rows:
            mark = "[green]found[/green]  " if row.found else "[yellow]missing[/yellow]"
            rest = row.version if row.found else f"{row.adds}; {row.install}"
            self._out.print(f"{mark} {escape(row.name)}: {escape(rest)}")

    def rows(self, title: str, rows: Sequence[Mapping[str, object]]) -> None:
        """A plain table of like rows; a last cell too wide for the screen is cut, not wrapped."""
        columns = list(rows[0]) if rows else [title]
        cells = [[str(row[column]) for column in columns] for row in rows]
        widths = [max(len(line[k]) for line in [columns, *cells]) for k in range(len(columns) - 1)]
        room = self._room(widths)
        for line in [columns, *cells]:
            last = line[-1] if len(line[-1]) <= room else line[-1][: room - 1] + "…"
            start = "".join(f"{cell:{w + _GAP}}" for cell, w in zip(line, widths, strict=False))
            style = "bold" if line is columns else ""
            self._out.print((start + last).rstrip(), markup=False, style=style)

    def _figures(self, title: str, figures: Sequence[Figure]) -> None:
        """A table of figures; what is said of one continues on lines of its own."""
        self._out.print(title, markup=False, style="bold")
        names, values = (max((len(f[k]) for f in figures), default=0) for k in (0, 1))
        for name, value, about in figures:
            first, *rest = textwrap.wrap(about, self._room([names, values])) or [""]
            for n, v, text in [(name, value, first), *(("", "", line) for line in rest)]:
                start = f"{n:{names}}{'':{_GAP}}{v:>{values}}{'':{_GAP}}"
                line = (
                    f"{escape(start)}[dim]{escape(text)}[/dim]" if text else escape(start.rstrip())
                )
                self._out.print(line)

    def _room(self, widths: Sequence[int]) -> int:
        """What columns of these widths leave on the screen for one more."""
        return max(24, self._out.width - sum(widths) - _GAP * len(widths))

    def _verdict(self, limits: "Sequence[Limit]") -> None:
        from edgerl.toolchain.report.limits import limit_row

        rows = [limit_row(limit) for limit in limits]
        missed = [row for row in rows if not row.held]
        for row in missed:
            self._out.print(
                f"[red]missed[/red] {escape(row.name)}: {escape(row.value)}, "
                f"limit {escape(row.bound)}"
            )
        if rows and not missed:
            self._out.print(f"[green]all {len(rows)} limits held[/green]")


def _costs(report: "Report") -> Iterator[Figure]:
    """What a step takes."""
    measured = report.measured
    if measured.instructions:
        low, high = measured.instructions.min, measured.instructions.max
        value = f"{high:,}" if low == high else f"{low:,} to {high:,}"
        yield "instructions", value, "_evaluate, counted"
    if measured.step_overhead_instructions is not None:
        yield "guard", f"+{measured.step_overhead_instructions:,}", "instructions of _step, counted"
    if measured.cycles_model is not None:
        yield "cycles", f"{measured.cycles_model:,}", "_evaluate, modelled"
    for name, size, about in (
        ("flash", measured.flash_bytes, "code and constants, linked"),
        ("RAM", measured.ram_bytes, "state and static data"),
        ("stack", measured.stack_bytes, "worst path of the call graph"),
    ):
        if size is not None:
            yield name, f"{size:,} B", about


def _comparisons(report: "Report") -> Iterator[Figure]:
    """What the program was held against."""
    if report.parity:
        verdict = "equal bits" if report.parity.bit_exact else "DIFFERENT"
        runs = ", ".join(report.parity.between[1:])
        yield "parity", verdict, f"{report.parity.steps:,} steps on {runs}"
    for reference in (report.examples, report.reference):
        if reference:
            about = f"at most, against {reference.against}"
            yield "error", f"{reference.max_abs_error:.2g}", about


def _flights(report: "Report") -> Iterator[Figure]:
    for flown in report.closed_loop:
        about = f"{flown.episodes:,} flights, {flown.on}"
        yield "survival", _metric("survival", flown.metrics["survival"]), about
        end = flown.metrics.get("final_error_mean")
        if end is not None:
            yield "final error", _metric("final_error_mean", end), "mean of the last second"


def _replayed(action: "ReplayedAction", tolerance: float) -> dict[str, str]:
    """An action's row: its largest difference from what was recorded, and where."""
    if not action.compared:
        return {"action": action.name, "same bits": "", "largest difference": "not recorded"}
    about = f"{action.max_abs_difference:.3g} at row {action.largest_row}"
    if action.first_row is not None:
        about += f", first above {tolerance:g} at row {action.first_row}"
    same = f"{action.identical:,} of {action.compared:,}"
    return {"action": action.name, "same bits": same, "largest difference": about}


def _metric(name: str, value: float) -> str:
    """A score with its unit: shares in per cent, lengths in cm, durations in steps."""
    match name:
        case "survival":
            return f"{100.0 * value:.2f} %"
        case "mean_length":
            return f"{value:.1f} steps"
        case _:
            return f"{100.0 * value:.2f} cm"


def _seeds(seeds: Sequence[int]) -> str:
    if not seeds:
        return "no seeds: nothing is drawn"
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"


def _size(region: "Region | None") -> str:
    return "" if region is None else f"{region.size // 1024:,}"
