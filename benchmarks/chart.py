"""The table as bars: geometry in numbers, the drawing in `templates/table.svg.j2`."""

from dataclasses import dataclass

from benchmarks.measure import Figures
from benchmarks.results import COMPARED, Column, NetworkResult, Results

WIDTH = 1080
_MARGIN = 24
_LABELS = 206
_GAP = 28
_ROW = 26
_HEAD = 74
_TOP = 56
_VALUE_ROOM = 58


@dataclass(frozen=True)
class Bar:
    """One bar: where it starts, how long it is, and what it says. `role` is its CSS class."""

    x: float
    y: float
    width: float
    text: str
    detail: str
    role: str


@dataclass(frozen=True)
class Label:
    """A line of text from (x, y) on. `role` is its CSS class."""

    x: float
    y: float
    text: str
    role: str


@dataclass(frozen=True)
class Chart:
    """Everything the template draws, in pixels."""

    width: int
    height: int
    labels: tuple[Label, ...]
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class _Row:
    """One tool: its builds, or why it has none."""

    name: str
    role: str
    builds: tuple[tuple[str, Figures], ...]
    failure: str | None = None


def chart(results: Results) -> Chart:
    """One block for each network, one column for each compared figure, one row for each tool.

    A peer is drawn with its best build by that very figure, so its bars may be of different
    builds; that is the most favourable view of it.
    """
    labels: list[Label] = []
    bars: list[Bar] = []
    y = float(_TOP)
    for network in results.networks:
        rows = _rows(network)
        labels.append(Label(_MARGIN, y + 14, network.about, "network"))
        for k, row in enumerate(rows):
            labels.append(Label(_MARGIN, y + _HEAD + k * _ROW, row.name, row.role))
            if row.failure:
                failure = Label(_left(0), y + _HEAD + k * _ROW, f"failed: {row.failure}", "failed")
                labels.append(failure)
        for k, column in enumerate(COMPARED):
            title = f"{column.title} ({column.how})"
            labels.append(Label(_left(k), y + 42, title, "column"))
            bars += _bars(rows, column, _left(k), y + _HEAD)
        y += _HEAD + len(rows) * _ROW + _GAP
    return Chart(WIDTH, round(y), tuple(labels), tuple(bars))


def _rows(network: NetworkResult) -> list[_Row]:
    ours = [_Row(f"edgerl, {name}", "ours", ((name, f),)) for name, f in network.edgerl.items()]
    peers = [
        _Row(
            peer.distribution,
            "peer",
            tuple((f"{b.family} {b.level}", b.figures) for b in peer.builds if b.figures),
            peer.failure or (None if peer.measured else peer.builds[0].failure),
        )
        for peer in network.peers
    ]
    return ours + peers


def _column_width() -> float:
    room = WIDTH - 2 * _MARGIN - _LABELS
    return (room - (len(COMPARED) - 1) * _GAP) / len(COMPARED)


def _left(column: int) -> float:
    return _MARGIN + _LABELS + column * (_column_width() + _GAP)


def _bars(rows: list[_Row], column: Column, left: float, top: float) -> list[Bar]:
    best = {
        k: min((column.value(figures), build) for build, figures in row.builds)
        for k, row in enumerate(rows)
        if row.builds
    }
    scale = (_column_width() - _VALUE_ROOM) / max(value for value, _ in best.values())
    return [
        Bar(
            x=round(left, 1),
            y=top + k * _ROW,
            width=round(value * scale, 1),
            text=f"{value:,}",
            detail=f"{rows[k].name}, {build}",
            role=rows[k].role,
        )
        for k, (value, build) in best.items()
    ]
