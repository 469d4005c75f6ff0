"""Recording: a log of observations, and perhaps of actions, as a CSV file of named columns.

An element of a signal is a column: `position_error[0]`, `position_error.0` or
`position_error_0`; a label stands for its index, or for the whole name where no other element has
it; a signal of one element is just its name. Where observation and action have a signal of one
name, `action.` before it means the action.
"""

import csv
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, TextIO

import numpy as np
import numpy.typing as npt

from edgerl.errors import UserError
from edgerl.policies.spec import PolicySpec, Signal
from edgerl.toolchain.report.elements import elements

Floats = npt.NDArray[np.float32]
Kind = Literal["observation", "action"]
Place = tuple[Kind, int]

MOST_BYTES = 1 << 29
MOST_ROWS = 1_000_000
_MOST_VALUES = 1 << 26
_LONGEST_LINE = 1 << 20
_COMPARED = 1000
_TIME, _RESET = "time_s", "reset"
_MARKS = {"": False, "0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}


@dataclass(frozen=True)
class Recording:
    """A log of T steps.

    observations [T, n] and actions [T, m], float32, not a number where a cell is empty, or for
    want of a column all along. `resets` [T] marks steps before which the controller starts anew,
    the first among them. `time_s` [T] is in seconds, None without such a column. `ignored` are
    the columns that mean nothing to the spec.
    """

    observations: Floats
    resets: npt.NDArray[np.bool_]
    time_s: npt.NDArray[np.float64] | None
    actions: Floats
    ignored: tuple[str, ...]


def read_recording(path: Path, spec: PolicySpec) -> Recording:
    """The log in a CSV file, read as the signals of `spec`.

    Raises UserError, naming line and column, when the file cannot be read, is too large, lacks a
    column of the observation, or has a cell that is no number.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.stat().st_size > MOST_BYTES:
                raise UserError(f"{path}: is larger than {MOST_BYTES >> 20} MiB; split the log")
            return _recording(_Table(path, file), spec)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no UTF-8 text, so no CSV file") from error


class _Table:
    """The rows of a CSV file, one at a time. Every row has as many cells as the header."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path = path
        self._length = 0
        self._reader = csv.reader(self._lines(file), strict=True)
        self.header = [cell.strip() for cell in next(self._rows(), [])]
        if not any(self.header):
            raise UserError(f"{path}: is empty; its first row must name the columns")
        if len(self.header) == 1 and any(mark in self.header[0] for mark in ";\t"):
            raise UserError(f"{path}: columns must be separated by commas")

    @property
    def line(self) -> int:
        """The line of the file that was read last, from 1."""
        return self._reader.line_num

    def __iter__(self) -> Iterator[list[str]]:
        for cells in self._rows():
            if len(cells) != len(self.header):
                raise UserError(
                    f"{self.path}: line {self.line} has {len(cells)} cells, "
                    f"the header has {len(self.header)}"
                )
            yield cells

    def _rows(self) -> Iterator[list[str]]:
        try:
            for cells in self._reader:
                self._length = 0
                if cells:
                    yield cells
        except csv.Error as error:
            raise UserError(f"{self.path}: line {self.line}: not CSV ({error})") from error

    def _lines(self, file: TextIO) -> Iterator[str]:
        while line := file.readline(_LONGEST_LINE):
            # A row goes over several lines where line ends stand in quotes.
            self._length += len(line)
            if self._length >= _LONGEST_LINE:
                raise UserError(f"{self.path}: has a row of more than a million characters")
            yield line


@dataclass(frozen=True)
class _Columns:
    """Where in a row everything stands: observations [n], actions by element, and the rest."""

    observation: tuple[int, ...]
    action: dict[int, int]
    time: int | None
    reset: int | None
    ignored: tuple[str, ...]


def _recording(table: _Table, spec: PolicySpec) -> Recording:
    columns = _columns(table, spec)
    numeric = [*columns.observation, *columns.action.values()]
    numeric += [columns.time] if columns.time is not None else []
    values, marks = array("d"), bytearray()
    for cells in table:
        values.extend(_numbers(table, cells, numeric))
        marks.append(_mark(table, cells, columns.reset))
        if len(marks) > MOST_ROWS or len(values) > _MOST_VALUES:
            raise UserError(f"{table.path}: has more than {len(marks) - 1:,} rows; split the log")
    if not marks:
        raise UserError(f"{table.path}: has a header and no rows")
    rows = np.frombuffer(values, np.float64).reshape(len(marks), len(numeric))
    marks[0] = True
    n = spec.observation_size
    actions = np.full((len(rows), spec.action_size), np.nan, np.float32)
    # What is too large for a float32 becomes an infinity, which the guard reports.
    with np.errstate(over="ignore"):
        for k, element in enumerate(columns.action, n):
            actions[:, element] = rows[:, k]
        observations = np.ascontiguousarray(rows[:, :n], np.float32)
    return Recording(
        observations,
        np.frombuffer(bytes(marks), np.uint8).astype(bool),
        rows[:, -1].copy() if columns.time is not None else None,
        actions,
        columns.ignored,
    )


def _numbers(table: _Table, cells: list[str], positions: list[int]) -> list[float]:
    try:
        return [float(cells[k]) for k in positions]
    except ValueError:
        return [_number(table, cells, k) for k in positions]


def _number(table: _Table, cells: list[str], k: int) -> float:
    text = cells[k].strip()
    try:
        return float(text) if text else float("nan")
    except ValueError:
        raise UserError(
            f"{table.path}: line {table.line}, column {table.header[k]}: {text[:40]!r} is no number"
        ) from None


def _mark(table: _Table, cells: list[str], k: int | None) -> bool:
    if k is None:
        return False
    mark = _MARKS.get(cells[k].strip().lower())
    if mark is None:
        where = f"{table.path}: line {table.line}, column {_RESET}"
        raise UserError(f"{where}: {cells[k][:40]!r} is neither 0 nor 1")
    return mark


def _columns(table: _Table, spec: PolicySpec) -> _Columns:
    """What the header's names mean to `spec`. UserError for a missing or a doubled column."""
    meant = spellings(spec)
    found: dict[Place | str, int] = {}
    ignored: list[str] = []
    for k, name in enumerate(table.header):
        place = meant.get(name) or (name if name in (_TIME, _RESET) else None)
        if place is None:
            ignored.append(name)
        elif place in found:
            raise UserError(
                f"{table.path}: columns {table.header[found[place]]!r} and {name!r} are the same"
            )
        else:
            found[place] = k
    for k, name in enumerate(elements(spec.observation)):
        if ("observation", k) not in found:
            raise UserError(f"{table.path}: {_missing(name, ignored)}")
    return _Columns(
        tuple(found["observation", k] for k in range(spec.observation_size)),
        {k: found["action", k] for k in range(spec.action_size) if ("action", k) in found},
        found.get(_TIME),
        found.get(_RESET),
        tuple(ignored),
    )


def _missing(element: str, others: Sequence[str]) -> str:
    name = element.split(" ")[0]
    close = get_close_matches(name, others[:_COMPARED], n=1)
    return f"has no column {name}" + (f"; did you mean {close[0][:60]!r}?" if close else "")


def spellings(spec: PolicySpec) -> dict[str, Place]:
    """Every name that a column may have, and the element of observation or action it means.

    A name in brackets or with a dot is never ambiguous. One with an underscore yields to a
    signal that is called just so, and a bare label counts only where no other element has it.
    """
    kinds: tuple[tuple[Kind, tuple[Signal, ...]], ...] = (
        ("action", spec.action),
        ("observation", spec.observation),
    )
    exact: dict[str, Place] = {}
    joined: dict[str, set[Place]] = defaultdict(set)
    for kind, signals in kinds:
        for place, signal, i in _placed(kind, signals):
            keys = [str(i), *signal.labels[i : i + 1]]
            names = [f"{signal.name}[{key}]" for key in keys]
            names += [f"{signal.name}.{key}" for key in keys]
            names += [signal.name] if signal.size == 1 else []
            for name in names:
                exact[name] = exact[f"{kind}.{name}"] = place
            for name in (*(f"{signal.name}_{key}" for key in keys), *signal.labels[i : i + 1]):
                joined[name].add(place)
    loose = {name: places.pop() for name, places in joined.items() if len(places) == 1}
    return loose | exact


def _placed(kind: Kind, signals: tuple[Signal, ...]) -> Iterator[tuple[Place, Signal, int]]:
    """Every element: where it stands in the vector, its signal, its index there."""
    pairs = [(signal, i) for signal in signals for i in range(signal.size)]
    for k, (signal, i) in enumerate(pairs):
        yield (kind, k), signal, i
