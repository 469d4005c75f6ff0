"""The benchmark table: `python -m benchmarks.table` measures everything and writes the results.

Results go to `benchmarks/results`: table.json (everything), table.md and table.svg (to read).
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from benchmarks.chart import chart
from benchmarks.networks import networks
from benchmarks.results import Results, advantages, collect, shown
from edgerl.errors import EdgerlError
from edgerl.targets import target
from edgerl.toolchain.artifact import write_aside
from edgerl.toolchain.report.model import Spread

TARGET = "cortex-m4f"
INPUTS = 200
RESULTS = Path(__file__).parent / "results"


def render(results: Results) -> Mapping[str, str]:
    """The files of the results folder, by name."""
    environment = Environment(
        loader=PackageLoader("benchmarks"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown; the SVG template escapes what it is given
    )
    environment.filters.update(
        spread=_spread, thousands=_thousands, error=_error, bound=_bound, cell=_cell
    )
    values = {"r": results, "c": chart(results), "shown": shown, "advantages": advantages}
    texts = {
        n: environment.get_template(f"{n}.j2").render(values) for n in ("table.md", "table.svg")
    }
    return {"table.json": results.to_json(), **texts}


def main() -> int:
    """Measure, write, and print where and which limits were missed; the exit code."""
    try:
        results = collect(networks(INPUTS), target(TARGET), _say)
        RESULTS.mkdir(exist_ok=True)
        for name, text in render(results).items():
            write_aside(RESULTS / name, text)
    except EdgerlError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return error.exit_code
    missed = [v for n in results.networks for v in n.limits if not v.reached]
    for v in missed:
        print(f"missed: {v.limit.network}, {v.limit.variant}: {v.limit.figure} {v.value:,}")
    print(RESULTS / "table.md")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _thousands(value: float) -> str:
    return f"{value:,.0f}"


def _spread(counted: Spread) -> str:
    if counted.min == counted.max:
        return f"{counted.max:,}, always"
    return f"{counted.mean:,.0f} ({counted.min:,} to {counted.max:,})"


def _error(value: float) -> str:
    return f"{value:.1e}"


def _bound(value: float, figure: str) -> str:
    if figure == "flash bytes":
        return f"{value:,.0f} ({value / 1024:g} kB)"
    return f"{value:,.0f}"


def _cell(text: str) -> str:
    """`text` in one cell of a Markdown table."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
