"""Replay: what an artifact answered to a recorded log, typed, against what was recorded."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.toolchain.report.model import Limit

SCHEMA = 1


@dataclass(frozen=True)
class ReplayedAction:
    """One element of the action: how the replayed values differ from the recorded ones.

    Of `compared` rows `identical` had the recorded bits. Rows count from 1, the header's left
    out: `largest_row` has the largest difference, `first_row` the first one above the tolerance.
    """

    name: str
    unit: str
    compared: int = 0
    identical: int = 0
    max_abs_difference: float | None = None
    largest_row: int | None = None
    first_row: int | None = None


@dataclass(frozen=True)
class Flagged:
    """The first observation that the guard objected to: its row, and which element it was."""

    row: int
    element: str
    value: float


@dataclass(frozen=True)
class Traces:
    """What is drawn: actions replayed and recorded [T, m] (not a number where none was), status
    [T], and the time [T] in seconds or None."""

    replayed: npt.NDArray[np.float32]
    recorded: npt.NDArray[np.float32]
    status: npt.NDArray[np.uint32]
    time_s: npt.NDArray[np.float64] | None


@dataclass(frozen=True)
class Replay:
    """A log run through an artifact. `status` counts rows by what the guard said and did;
    `tolerance` is the difference above which a row counts as the first that differs."""

    log: str
    policy: str
    target: str
    numerics: str
    on: str
    mode: str
    rows: int
    resets: int
    rate_hz: float
    duration_s: float | None
    status: dict[str, int]
    first_flagged: Flagged | None
    actions: tuple[ReplayedAction, ...]
    tolerance: float = 0.0
    limits: tuple[Limit, ...] = ()
    notes: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    traces: Traces | None = field(default=None, repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """True when every limit held."""
        return all(limit.held for limit in self.limits)

    @property
    def max_abs_difference(self) -> float | None:
        """The largest difference of all actions; None where none was recorded."""
        found = [a.max_abs_difference for a in self.actions if a.max_abs_difference is not None]
        return max(found, default=None)

    def to_json(self) -> dict[str, Any]:
        """As plain data, without what is only there to be drawn. JSON has no word for a figure
        that is not finite; it becomes null."""
        rows = {name: value for name, value in vars(self).items() if name != "traces"}
        plain = {name: _plain(value) for name, value in rows.items()}
        difference = _plain(self.max_abs_difference)
        return {"schema": SCHEMA, "ok": self.ok, "max_abs_difference": difference, **plain}


def _plain(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case list() | tuple():
            return [_plain(each) for each in value]
        case dict():
            return {key: _plain(each) for key, each in value.items()}
        case ReplayedAction() | Flagged() | Limit():
            return _plain(asdict(value))
        case _:
            return value
