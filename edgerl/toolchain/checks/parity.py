"""Parity: the same bits on every runner, over whole recurrent sequences with resets."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from edgerl.toolchain.build.run import Run, first_difference
from edgerl.toolchain.emulators.runner import Runner
from edgerl.toolchain.golden import GoldenFile
from edgerl.toolchain.report.model import Difference, Parity


def parity(
    golden: GoldenFile, runners: Sequence[Runner], progress: Callable[[str], None] | None = None
) -> Parity:
    """Run every golden trace on every runner and compare bits, states included where visible.

    `steps` counts the bare network's steps. The first difference names the runner's tensor,
    step and element; at most one is reported, the earliest of the first runner that differs.
    """
    difference: Difference | None = None
    states: dict[int, Run] = {}
    for runner in runners:
        if progress is not None:
            progress(runner.name)
        for k, trace in enumerate(golden.traces):
            run = runner.trace(trace.observations, trace.resets, trace.mode)
            found = first_difference(trace.expected, replace(run, states=None))
            if found is None and run.states is not None:
                found = first_difference(states.setdefault(k, run), run)
            if found is not None and difference is None:
                tensor = f"{runner.name} {trace.mode}: {found.tensor}"
                difference = replace(found, tensor=tensor)
    return Parity(
        bit_exact=difference is None and len(runners) > 0,
        steps=sum(len(t.resets) for t in golden.traces if t.mode == "evaluate"),
        between=("golden.bin", *(r.name for r in runners)),
        first_difference=difference,
    )
