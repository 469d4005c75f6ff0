"""Parity: the same bits on every runner, over whole recurrent sequences with resets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgerl.policies.spec import PolicySpec
from edgerl.toolchain.build.run import Flags, Run, first_difference
from edgerl.toolchain.emulators.runner import Runner
from edgerl.toolchain.golden import GoldenFile, Trace
from edgerl.toolchain.report.elements import elements, state_elements
from edgerl.toolchain.report.model import Difference, Parity

_GOLDEN = "golden.bin"


def parity(
    golden: GoldenFile,
    runners: Sequence[Runner],
    progress: Callable[[str], None] | None = None,
    spec: PolicySpec | None = None,
) -> Parity:
    """Run every golden trace on every runner and compare bits, states included where visible.

    `steps` counts the bare network's steps. The first difference names the runner's tensor,
    step and element (as `spec` calls it), with both values; at most one is reported, the
    earliest of the first runner that differs.
    """
    difference: Difference | None = None
    states: dict[int, tuple[str, Run]] = {}
    for runner in runners:
        if progress is not None:
            progress(runner.name)
        for k, trace in enumerate(golden.traces):
            run = runner.trace(trace.observations, trace.resets, trace.mode)
            sides = _Sides(_GOLDEN, trace.expected, runner.name, replace(run, states=None))
            found = first_difference(sides.believed, sides.run)
            if found is None and run.states is not None:
                sides = _Sides(*states.setdefault(k, (runner.name, run)), runner.name, run)
                found = first_difference(sides.believed, sides.run)
            if found is not None and difference is None:
                difference = _told(found, sides, trace, spec)
    return Parity(
        bit_exact=difference is None and len(runners) > 0,
        steps=sum(len(t.resets) for t in golden.traces if t.mode == "evaluate"),
        between=(_GOLDEN, *(r.name for r in runners)),
        first_difference=difference,
    )


def last_reset(resets: Flags, step: int) -> int:
    """The step at or before `step` with a reset before it; a trace starts from one."""
    before = np.flatnonzero(resets[: step + 1])
    return int(before[-1]) if before.size else 0


@dataclass(frozen=True)
class _Sides:
    """Two runs of one trace, with their names."""

    first: str
    believed: Run
    second: str
    run: Run

    def bits(self, found: Difference) -> tuple[str, str]:
        """Both bit patterns of the differing element."""
        one, other = (_word(run, found) for run in (self.believed, self.run))
        return one, other


def _told(found: Difference, sides: _Sides, trace: Trace, spec: PolicySpec | None) -> Difference:
    """What two runs differ in, said in full."""
    return replace(
        found,
        tensor=f"{sides.second} {trace.mode}: {found.tensor}",
        bits=sides.bits(found),
        between=(sides.first, sides.second),
        element=_element(found, sides.run, spec),
        mode=trace.mode,
        since_reset=found.step - last_reset(trace.resets, found.step),
    )


def _word(run: Run, found: Difference) -> str:
    """The bits of the element, in hexadecimal, as wide as it is."""
    rows = {"action": run.actions, "status": run.status, "state": run.states}[found.tensor]
    assert rows is not None
    row = np.ascontiguousarray(rows[found.step]).reshape(-1)
    if found.tensor == "state" and row.size % 4:
        return f"{int(row[found.index]):#04x}"
    return f"{int(row.view(np.uint32)[found.index]):#010x}"


def _element(found: Difference, run: Run, spec: PolicySpec | None) -> str:
    """The spec's name of an element of the action or of a state of floats."""
    if found.tensor == "status":
        return found.tensor
    if spec is not None and found.tensor == "action":
        return elements(spec.action)[found.index]
    names = state_elements(spec) if spec is not None else []
    if run.states is not None and run.states.shape[1] == 4 * len(names):
        return names[found.index]
    return f"{found.tensor}[{found.index}]"
