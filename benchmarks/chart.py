"""The table as bars: geometry in numbers, the drawing in `templates/table.svg.j2`."""

from dataclasses import dataclass

from benchmarks.results import COMPARED, Column, NetworkResult, Results, best

WIDTH = 1080
_MARGIN = 24
_LABELS = 176
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


def chart(results: Results) -> Chart:
    """One block for each network, one column for each compared figure, one row for each tool.

    A peer is drawn with its best build by that very figure, so its bars may be of different
    builds; that is the most favourable view of it.
    """
    labels: list[Label] = []
    bars: list[Bar] = []
    y = float(_TOP)
    for network in results.networks:
        labels.append(Label(_MARGIN, y + 14, network.about, "network"))
        for k, column in enumerate(COMPARED):
            labels.append(Label(_left(k), y + 42, f"{column.title} ({column.how})", "column"))
        names = [*network.edgerl, *(p.distribution for p in network.peers)]
        for row, name in enumerate(names):
            at = y + _HEAD + row * _ROW
            text = f"edgerl, {name}" if name in network.edgerl else name
            labels.append(Label(_MARGIN, at, text, "ours" if name in network.edgerl else "peer"))
        for k, column in enumerate(COMPARED):
            bars += _bars(network, column, _left(k), y + _HEAD)
        for row, peer in enumerate(network.peers, start=len(network.edgerl)):
            if not peer.measured:
                at = y + _HEAD + row * _ROW
                labels.append(Label(_left(0), at, _failure(network, row), "failed"))
        y += _HEAD + len(names) * _ROW + _GAP
    return Chart(WIDTH, round(y), tuple(labels), tuple(bars))


def _column_width() -> float:
    room = WIDTH - 2 * _MARGIN - _LABELS
    return (room - (len(COMPARED) - 1) * _GAP) / len(COMPARED)


def _left(column: int) -> float:
    return _MARGIN + _LABELS + column * (_column_width() + _GAP)


def _failure(network: NetworkResult, row: int) -> str:
    peer = network.peers[row - len(network.edgerl)]
    reason = peer.failure or next((b.failure for b in peer.builds if b.failure), "")
    return f"failed: {reason}"


def _bars(network: NetworkResult, column: Column, left: float, top: float) -> list[Bar]:
    values = [(column.value(f), name, "ours") for name, f in network.edgerl.items()]
    rows = list(range(len(values)))
    for row, peer in enumerate(network.peers, start=len(values)):
        chosen = best(peer, column)
        if chosen is not None and chosen.figures is not None:
            detail = f"{peer.distribution}, {chosen.family} {chosen.level}"
            values.append((column.value(chosen.figures), detail, "peer"))
            rows.append(row)
    longest = max(value for value, _, _ in values)
    scale = (_column_width() - _VALUE_ROOM) / longest
    return [
        Bar(left, top + row * _ROW, round(value * scale, 1), f"{value:,}", detail, role)
        for row, (value, detail, role) in zip(rows, values, strict=True)
    ]
