"""Replay: run a recorded log of observations through an artifact, and see, action by action, how
its answers differ from those that were recorded."""

import csv
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgerl.errors import UserError, suggestion
from edgerl.policies.spec import PolicySpec
from edgerl.recording import Recording, read_recording
from edgerl.stages import Silence, Watcher, watched
from edgerl.subject import emulated_core
from edgerl.toolchain.artifact import Artifact, read_artifact, refusal, write_aside
from edgerl.toolchain.build import Mode, Run, build_host
from edgerl.toolchain.checks.limits import at_most
from edgerl.toolchain.compiling import temporary_folder
from edgerl.toolchain.emulators import Runner
from edgerl.toolchain.report.elements import elements
from edgerl.toolchain.report.replay_page import render_replay
from edgerl.toolchain.report.replayed import Flagged, Replay, ReplayedAction, Traces

On = Literal["host", "emulated"]
Flags = npt.NDArray[np.bool_]

LIMITED = ("max_abs_difference", "out_of_range", "non_finite")
ACTIONS, PAGE = "actions.csv", "replay.html"
_OUT_OF_RANGE, _NON_FINITE = 1, 2
_DONE = {"saturate": "saturated", "hold": "held", "fallback": "fallback"}
# Rows, answers and states of a replay are held at once.
_MOST_BYTES = 1 << 30


def replay(
    log: str | Path,
    artifact: str | Path,
    *,
    on: On = "host",
    mode: Mode = "step",
    output: str | Path | None = None,
    limits: Mapping[str, float] | None = None,
    watcher: Watcher | None = None,
) -> Replay:
    """Run the log through the artifact in a folder, its state carried from row to row.

    The CSV file `log` names its columns by the spec's signals (see `edgerl.recording`). `on` the
    `host` the artifact's sources run as its twin, `emulated` its firmware on an emulated core;
    both have the same bits. `mode` is the guarded `step` or the bare `evaluate`. Writes
    `actions.csv`, whose numbers read back exactly, and `replay.html` to `output`
    (`build/replay-LOG-POLICY-TARGET`
    unless given). `limits` bounds `max_abs_difference` from recorded actions,
    and the rows `out_of_range` or `non_finite`, from above; a figure that could not be had is a
    miss.

    Raises UserError when log, artifact or limits are wrong, ToolError when a tool is missing.
    """
    watcher, bounds = watcher or Silence(), dict(limits or {})
    for name in bounds:
        if name not in LIMITED:
            raise UserError(f"limit {name[:60]!r} is no figure; {suggestion(name, LIMITED)}")
    log, opened = Path(log), read_artifact(Path(artifact))
    folder = _folder(log, opened) if output is None else Path(output)
    _require_apart(log, folder)
    spec = opened.manifest.spec
    with watched(watcher, "read"):
        recording = read_recording(log, spec)
    _require_room(recording, opened)
    with _runner(opened, on, watcher) as runner, watched(watcher, f"replay on {runner.name}"):
        run = runner.trace(recording.observations, recording.resets, mode)
        name = runner.name
    tolerance = bounds.get("max_abs_difference", 0.0)
    actions = compared(spec, recording, run, tolerance)
    status = counts(spec, run)
    figures: dict[str, float | None] = {
        "max_abs_difference": max(
            (a.max_abs_difference for a in actions if a.max_abs_difference is not None),
            default=None,
        ),
        # The bare network has no guard, so nobody looked.
        **{
            each: status[each] if mode == "step" else None
            for each in ("out_of_range", "non_finite")
        },
    }
    time = recording.time_s if _rising(recording.time_s) else None
    result = Replay(
        log=log.name,
        policy=opened.name,
        target=opened.manifest.target.name,
        numerics=opened.manifest.numerics,
        on=name,
        mode=mode,
        rows=len(recording.resets),
        resets=int(recording.resets.sum()),
        rate_hz=spec.rate_hz,
        duration_s=None if time is None else float(time[-1] - time[0]),
        status=status,
        first_flagged=_first_flagged(spec, recording, run),
        actions=actions,
        tolerance=tolerance,
        limits=tuple(at_most(each, figures[each], bound) for each, bound in bounds.items()),
        notes=tuple(_notes(spec, recording)),
        files={"actions": str(folder / ACTIONS), "page": str(folder / PAGE)},
        traces=Traces(run.actions, recording.actions, run.status, time),
    )
    with watched(watcher, "write"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise refusal(folder, error, "; choose another with -o") from error
        write_aside(folder / ACTIONS, as_csv(spec, recording, run))
        write_aside(folder / PAGE, render_replay(result))
    return result


def _folder(log: Path, opened: Artifact) -> Path:
    return Path("build", f"replay-{log.stem}-{opened.name}-{opened.manifest.target.name}")


def compared(
    spec: PolicySpec, recording: Recording, run: Run, tolerance: float
) -> tuple[ReplayedAction, ...]:
    """Every element of the action against what was recorded of it; an empty cell is compared
    with nothing. A number against a NaN differs infinitely."""
    units = [signal.unit for signal in spec.action for _ in range(signal.size)]
    found = []
    for k, (name, unit) in enumerate(zip(elements(spec.action), units, strict=True)):
        recorded, replayed = recording.actions[:, k], run.actions[:, k]
        rows = np.flatnonzero(~np.isnan(recorded))
        if not rows.size:
            found.append(ReplayedAction(name, unit))
            continue
        one, other = recorded[rows], replayed[rows]
        same = one.view(np.uint32) == np.ascontiguousarray(other).view(np.uint32)
        with np.errstate(invalid="ignore"):
            apart = np.abs(one.astype(np.float64) - other.astype(np.float64))
        # Infinity minus itself, or anything minus NaN.
        apart[np.isnan(apart)] = np.inf
        apart[same] = 0.0
        beyond = np.flatnonzero(apart > tolerance)
        found.append(
            ReplayedAction(
                name,
                unit,
                compared=len(rows),
                identical=int(same.sum()),
                max_abs_difference=float(apart.max()),
                largest_row=int(rows[apart.argmax()]) + 1,
                first_row=int(rows[beyond[0]]) + 1 if beyond.size else None,
            )
        )
    return tuple(found)


def counts(spec: PolicySpec, run: Run) -> dict[str, int]:
    """Rows by what the guard said (`out_of_range`: finite but outside; `non_finite`) and by what
    was then done (`saturated`, `held`, `fallback`)."""
    broken = run.status & _NON_FINITE != 0
    outside = ~broken & (run.status & _OUT_OF_RANGE != 0)
    found = {"out_of_range": int(outside.sum()), "non_finite": int(broken.sum())}
    done = dict.fromkeys(_DONE.values(), 0)
    done[_DONE[spec.out_of_range]] += found["out_of_range"]
    done[_DONE[spec.non_finite]] += found["non_finite"]
    return found | done


def as_csv(spec: PolicySpec, recording: Recording, run: Run) -> str:
    """The replayed actions as CSV: the time where the log has it, whether the row began with a
    reset, every action, and the status. Numbers read back exactly."""
    names = [name.split(" ")[0] for name in elements(spec.action)]
    time = recording.time_s
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(["time_s"] if time is not None else []), "reset", *names, "status"])
    times = [[]] * len(run.status) if time is None else [[repr(t)] for t in time.tolist()]
    rows = zip(
        times,
        recording.resets.tolist(),
        run.actions.tolist(),
        run.status.tolist(),
        strict=True,
    )
    for at, reset, action, status in rows:
        writer.writerow([*at, int(reset), *map(repr, action), status])
    return text.getvalue()


@contextmanager
def _runner(artifact: Artifact, on: On, watcher: Watcher) -> Iterator[Runner]:
    """What the log runs on."""
    with temporary_folder() as scratch:
        if on == "host":
            with watched(watcher, "build"):
                twin = build_host(artifact.source, artifact.name, scratch)
            yield twin
            return
        core = emulated_core(artifact, scratch, watcher)
        if core is None:
            raise UserError(
                f"{artifact.folder}: is for {artifact.manifest.target.name}, which has no "
                "emulated core; replay on the host"
            )
        yield core


def _first_flagged(spec: PolicySpec, recording: Recording, run: Run) -> Flagged | None:
    """Where the guard first objected. Where it objects it is to some element of the row."""
    rows = np.flatnonzero(run.status & (_OUT_OF_RANGE | _NON_FINITE))
    if not rows.size:
        return None
    row = recording.observations[rows[0]]
    low, high = np.array(spec.observation_ranges(), np.float32).T
    wrong = ~((row >= low) & (row <= high))
    # What is not finite decides over what is only outside.
    worst = wrong & ~np.isfinite(row) if run.status[rows[0]] & _NON_FINITE else wrong
    k = int(np.argmax(worst))
    return Flagged(int(rows[0]) + 1, elements(spec.observation)[k], float(row[k]))


def _notes(spec: PolicySpec, recording: Recording) -> Iterator[str]:
    """What a reader should know of the log."""
    ignored = recording.ignored
    if ignored:
        more = f" and {len(ignored) - 8} more" if len(ignored) > 8 else ""
        yield f"columns ignored: {', '.join(name[:40] for name in ignored[:8])}{more}"
    time = recording.time_s
    if time is None:
        return
    if not _rising(time):
        yield "time_s does not rise from row to row; plots are over rows"
    elif len(time) > 1:
        rate = 1.0 / float(np.median(np.diff(time)))
        if abs(rate / spec.rate_hz - 1.0) > 0.1:
            yield f"the log has {rate:.4g} rows a second, the policy runs at {spec.rate_hz:g} Hz"


def _rising(time: npt.NDArray[np.float64] | None) -> bool:
    """Whether there is a time of every row, later than that of the row before."""
    return time is not None and bool(np.isfinite(time).all() and (np.diff(time) > 0.0).all())


def _require_apart(log: Path, folder: Path) -> None:
    """UserError when a result would overwrite the log that it comes from."""
    for name in (ACTIONS, PAGE):
        if (folder / name).absolute() == log.absolute():
            raise UserError(f"{log}: would be overwritten; choose another folder with -o")


def _require_room(recording: Recording, artifact: Artifact) -> None:
    """UserError when the answers to the log would fill the memory."""
    n, m = recording.observations.shape[1], recording.actions.shape[1]
    width = 4 * (n + 2 * m + 1) + artifact.manifest.state_bytes
    most = _MOST_BYTES // width
    if len(recording.resets) > most:
        raise UserError(
            f"the log has {len(recording.resets):,} rows; with {width:,} B each, {most:,} can be "
            "replayed at once; split it"
        )
