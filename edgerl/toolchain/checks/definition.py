"""Definition: whether the emitted code computes the very integers that a quantised program says."""

import numpy as np

from edgerl.toolchain import quantisation
from edgerl.toolchain.build.host import HostTwin
from edgerl.toolchain.emit.integer.planning import integer_plan
from edgerl.toolchain.golden import GoldenFile
from edgerl.toolchain.quantisation.program import FixedProgram
from edgerl.toolchain.report.model import Certificate


def computes_definition(program: FixedProgram, twin: HostTwin, golden: GoldenFile) -> Certificate:
    """Whether every action and every state of the twin on the golden trace is, to the last bit,
    what `quantisation.run` makes of the state before it."""
    trace = golden.evaluate
    run = twin.trace(trace.observations, trace.resets, "evaluate")
    assert run.states is not None
    layout = integer_plan(program)
    after = layout.states(run.states)
    before = [np.roll(state, 1, axis=0) for state in after]
    starts = trace.resets.copy()
    starts[0] = True
    for state in before:
        state[starts] = 0
    actions, states = quantisation.run(program, trace.observations, before)
    wrong = actions.view(np.uint32) != run.actions.view(np.uint32)
    unequal = wrong.any(axis=1)
    for ours, defined in zip(after, states, strict=True):
        unequal |= (ours != defined).any(axis=1)
    steps = len(unequal)
    said = f"first at step {int(unequal.argmax())}" if unequal.any() else "none"
    return Certificate(
        not unequal.any(),
        "measured",
        f"{steps} steps, each from the twin's own state, against the program's definition in "
        f"integers: {int(unequal.sum())} differ ({said})",
    )
