"""Console: how the command line shows progress and results to a person."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console as Screen
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from edgerl.stages import Advance

if TYPE_CHECKING:
    from edgerl.diagnosis import Tool
    from edgerl.inspection import Inspection
    from edgerl.targets import Target

_WORTH_A_LINE_S = 1.0


class Console:
    """Progress and remarks to standard error, results to standard output. A Watcher."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._out = Screen(highlight=False, soft_wrap=True)
        self._err = Screen(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """One remark."""
        if not self.quiet:
            self._err.print(f"  [dim]{escape(text)}[/dim]")

    def stage(self, name: str) -> Iterator[Advance]:
        """A stage with a bar while it runs, and a line after it if it took a second."""
        if self.quiet:
            yield lambda done, of: None
            return
        begin = time.monotonic()
        with Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            console=self._err,
            transient=True,
        ) as progress:
            task = progress.add_task(name, total=None)
            yield lambda done, of: progress.update(task, completed=done, total=of)
        spent = time.monotonic() - begin
        if spent >= _WORTH_A_LINE_S:
            self._err.print(f"  [green]done[/green] {escape(name)} [dim]{spent:.1f} s[/dim]")

    def report(self, data: Mapping[str, Any], folder: Path) -> None:
        """The final table of a compile or check."""
        measured = data["measured"]
        policy, target = escape(data["policy"]["name"]), escape(data["target"])
        table = Table(title=f"{policy} on {target}", box=None, title_justify="left", pad_edge=False)
        for column, side in (("figure", "left"), ("value", "right"), ("", "left")):
            table.add_column(column, justify=side)  # type: ignore[arg-type]  # literals above
        spread = measured["instructions"]
        if spread:
            low, high = spread["min"], spread["max"]
            value = f"{high:,}" if low == high else f"{low:,} to {high:,}"
            table.add_row("instructions, _evaluate", value, "counted")
            more = f"+{measured['step_overhead_instructions']:,}"
            table.add_row("guard and saturation, _step", more, "counted")
        if measured["cycles_model"]:
            table.add_row("cycles, _evaluate", f"{measured['cycles_model']:,}", "modelled")
        for name, key, word in (
            ("flash", "flash_bytes", "linked"),
            ("RAM", "ram_bytes", "state"),
            ("stack, worst", "stack_bytes", "call graph"),
        ):
            if measured[key] is not None:
                table.add_row(name, f"{measured[key]:,} B", word)
        if data["parity"]:
            parity = data["parity"]
            where = ", ".join(parity["between"][1:])
            verdict = "equal bits" if parity["bit_exact"] else "DIFFERENT"
            table.add_row("parity", verdict, f"{parity['steps']:,} steps: {escape(where)}")
        for key, name in (("examples", "error"), ("reference", "error")):
            if data[key]:
                error, against = data[key]["max_abs_error"], data[key]["against"]
                table.add_row(name, f"{error:.2g}", f"against {escape(against)}")
        flights = [data["closed_loop"], *data["closed_loop_also"]]
        for flown in (f for f in flights if f):
            metrics = flown["metrics"]
            survival = f"{100 * metrics['survival']:.1f} %"
            end = metrics.get("final_error_mean")
            about = f"{flown['episodes']:,} flights, {escape(flown['on'])}"
            table.add_row("survival", survival, about)
            if end is not None:
                table.add_row("final error", f"{100 * end:.1f} cm", "mean of the last second")
        self._out.print(table)
        limits = data["limits"]
        missed = [limit for limit in limits if not limit["ok"]]
        for limit in missed:
            value = "not obtained" if limit["value"] is None else limit["value"]
            self._out.print(
                f"[red]missed[/red] {escape(limit['name'])}: {value}, limit {escape(limit['limit'])}"
            )
        if data["parity"] and data["parity"]["first_difference"]:
            first = data["parity"]["first_difference"]
            self._out.print(
                f"[red]first difference[/red] step {first['step']}, {escape(first['tensor'])}"
                f"[{first['index']}]: {first['values'][0]!r} and {first['values'][1]!r}"
            )
        if limits and not missed:
            self._out.print(f"[green]all {len(limits)} limits held[/green]")
        for note in data["notes"]:
            self.say(note)
        self._out.print(f"{folder / 'report.html'}", markup=False)

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
                "flash": _size(row.application.size if row.application else None),
                "RAM": _size(row.ram.size if row.ram else None),
                "verified by": row.verified_by,
                "about": row.about,
            }
            for row in rows
        ]
        self.rows("target", listed)

    def diagnosis(self, rows: "Sequence[Tool]") -> None:
        """What doctor found."""
        for row in rows:
            mark = "[green]found[/green]  " if row.found else "[yellow]missing[/yellow]"
            rest = row.version if row.found else f"{row.adds}; {row.install}"
            self._out.print(f"{mark} {escape(row.name)}: {escape(rest)}")

    def rows(self, title: str, rows: Sequence[Mapping[str, object]]) -> None:
        """A plain table of like rows."""
        table = Table(box=None, pad_edge=False)
        for column in rows[0] if rows else (title,):
            table.add_column(str(column))
        for row in rows:
            table.add_row(*(escape(str(value)) for value in row.values()))
        self._out.print(table)


def _size(size: int | None) -> str:
    return "" if size is None else f"{size // 1024:,} kB"
