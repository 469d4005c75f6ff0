"""What `NAME_step` promises, drawn from the spec: ranges, rejection, the safe action."""

import textwrap
from dataclasses import dataclass

import numpy as np

from edgerl.policies.spec import PolicySpec, Signal, StateSignal

_WIDTH = 96


@dataclass(frozen=True)
class Group:
    """Consecutive elements with one valid range."""

    first: int
    count: int
    low: float
    high: float

    @property
    def symmetric(self) -> bool:
        """Whether the bounds differ in sign alone."""
        return self.low == -self.high

    @property
    def bits(self) -> int:
        """The upper bound's bit pattern."""
        return _bits(self.high)

    @property
    def low_order(self) -> int:
        """Where the lower bound stands among all floats; a bound of zero lets both zeros in."""
        return order(-0.0 if np.float32(self.low) == 0.0 else self.low)

    @property
    def high_order(self) -> int:
        """Where the upper bound stands among all floats."""
        return order(0.0 if np.float32(self.high) == 0.0 else self.high)


@dataclass(frozen=True)
class Run:
    """Consecutive elements with one value."""

    first: int
    count: int
    value: float


@dataclass(frozen=True)
class Contract:
    """How a bad observation is met.

    `holds` and `falls_back` say which of the two answers exist; `rejecting` is the C expression
    of the status bits that reject, `falling_back` the C condition under which a package with
    both answers gives the fallback. `out_of_range` and `non_finite` say it in words.
    """

    holds: bool
    falls_back: bool
    rejecting: str
    falling_back: str
    out_of_range: str
    non_finite: str
    safe_action: tuple[float, ...]
    safe_runs: tuple[Run, ...]


_IN_WORDS = {
    "saturate": "is replaced by the nearest valid one",
    "hold": "rejects the observation: act is the last good action",
    "fallback": "rejects the observation: act is the fallback action",
}


def contract(spec: PolicySpec, prefix: str) -> Contract:
    """The contract of `spec`, in a package whose macros start with `prefix`.

    Where values are both out of range and not finite, what the spec says of non-finite ones
    holds.
    """
    broken, outside = f"{prefix}_NON_FINITE", f"{prefix}_OUT_OF_RANGE"
    answers = {spec.non_finite, spec.out_of_range}
    return Contract(
        holds="hold" in answers,
        falls_back="fallback" in answers,
        rejecting=broken if spec.out_of_range == "saturate" else f"({broken} | {outside})",
        falling_back=(
            f"(status & {broken}) != 0u"
            if spec.non_finite == "fallback"
            else f"status == {outside}"
        ),
        out_of_range=_IN_WORDS[spec.out_of_range],
        non_finite=_IN_WORDS[spec.non_finite],
        safe_action=spec.safe_action(),
        safe_runs=_runs(spec.safe_action()),
    )


def groups(ranges: list[tuple[float, float]]) -> list[Group]:
    """Neighbours of one range together."""
    found: list[Group] = []
    for k, (low, high) in enumerate(ranges):
        last = found[-1] if found else None
        if last and (last.low, last.high) == (low, high):
            found[-1] = Group(last.first, last.count + 1, low, high)
        else:
            found.append(Group(k, 1, low, high))
    return found


def _runs(values: tuple[float, ...]) -> tuple[Run, ...]:
    found: list[Run] = []
    for k, value in enumerate(values):
        if found and found[-1].value == value:
            found[-1] = Run(found[-1].first, found[-1].count + 1, value)
        else:
            found.append(Run(k, 1, value))
    return tuple(found)


def order(value: float) -> int:
    """The unsigned number that stands where float32 `value` stands among all floats."""
    bits = _bits(value)
    return bits ^ (0xFFFFFFFF if bits >> 31 else 0x80000000)


def _bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def state_rows(states: tuple[StateSignal, ...]) -> list[str]:
    """The states as a table in plain text."""
    rows, first = [("index", "state", "holds" if any(s.about for s in states) else "")], 0
    for s in states:
        where = str(first) if s.size == 1 else f"{first}..{first + s.size - 1}"
        rows.append((where, s.name, s.about))
        first += s.size
    widths = [max(len(row[k]) for row in rows) + 2 for k in range(2)]
    hanging = " " * sum(widths)
    lines = (f"{a.ljust(widths[0])}{b.ljust(widths[1])}{c}".rstrip() for a, b, c in rows)
    return [
        part for line in lines for part in textwrap.wrap(line, _WIDTH, subsequent_indent=hanging)
    ]


def signal_rows(signals: tuple[Signal, ...], last: str) -> list[str]:
    """The signals as a table in plain text; `last` heads the column of ranges."""
    rows = [("index", "signal", "unit", "frame", last)]
    first = 0
    for s in signals:
        where = str(first) if s.size == 1 else f"{first}..{first + s.size - 1}"
        low, high = s.range
        limits = f"+-{high:g}" if low == -high else f"{low:g} to {high:g}"
        rows.append((where, s.name, s.unit, s.frame, limits))
        first += s.size
    widths = [max(len(row[k]) for row in rows) + 2 for k in range(len(rows[0]))]
    lines = [
        "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    hanging = " " * widths[0]
    table = textwrap.wrap(lines[0], _WIDTH, subsequent_indent=hanging)
    for line, s in zip(lines[1:], signals, strict=True):
        table += textwrap.wrap(line, _WIDTH, subsequent_indent=hanging)
        notes = ", ".join(s.labels)
        if s.discrete:
            low, high = s.range
            choice = f"a whole number, one of {high - low + 1:g} choices"
            notes = f"{choice}: {notes}" if notes else choice
        if s.spin:
            notes += ("; " if notes else "") + "spin " + ", ".join(f"{turn:+d}" for turn in s.spin)
        if notes:
            table += textwrap.wrap(notes, _WIDTH, initial_indent=hanging, subsequent_indent=hanging)
    return table
