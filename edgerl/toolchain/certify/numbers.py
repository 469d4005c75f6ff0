"""Of a program's numbers: what they can be, that they fit, and how far integers are from the
policy."""

from dataclasses import dataclass

import numpy as np

from edgerl.errors import UserError
from edgerl.policies.spec import PolicySpec
from edgerl.toolchain import interpreter, ir
from edgerl.toolchain.bounds import computed_bounds
from edgerl.toolchain.certify.deviation import deviation
from edgerl.toolchain.certify.tensors import (
    action_bounds,
    integer_ranges,
    no_overflow,
    of_floats,
    of_integers,
    raw_action,
    side_by_side,
)
from edgerl.toolchain.golden import Trace
from edgerl.toolchain.quantisation import interpretation
from edgerl.toolchain.quantisation.program import FixedProgram
from edgerl.toolchain.report.model import Certificate, TensorRange


@dataclass(frozen=True)
class Numbers:
    """What is known of a program's numbers: certificates by name, and every tensor's range."""

    certificates: dict[str, Certificate]
    tensors: tuple[TensorRange, ...]


def of_float_program(
    program: ir.Program, spec: PolicySpec, golden: Trace, *, fused: bool
) -> Numbers:
    """Of a float program as it is emitted, with multiply-adds fused or not.

    Raises UserError for an activation that no kernel computes.
    """
    action = computed_bounds(program, spec, fused=fused)[program.action]
    method = "interval analysis of float32 arithmetic over the spec's ranges, in any state kept"
    certified = action_bounds(spec, action, method)
    return Numbers({"action_bounds": certified}, of_floats(program, spec, fused, golden))


def of_fixed_program(
    program: ir.Program, fixed: FixedProgram, spec: PolicySpec, golden: Trace
) -> Numbers:
    """Of a fixed program, made of the float program `program`."""
    action = raw_action(fixed, integer_ranges(fixed, spec))
    method = "intervals of the integers over the spec's ranges, in any state"
    certified = {
        "action_bounds": action_bounds(spec, action, method),
        "no_overflow": no_overflow(fixed),
        "quantisation_error": quantisation_error(program, fixed, spec, golden),
    }
    return Numbers(certified, of_integers(fixed, spec, golden))


def quantisation_error(
    program: ir.Program, fixed: FixedProgram, spec: PolicySpec, golden: Trace
) -> Certificate:
    """How far an action of the integers is from the policy's in real arithmetic: bounded for one
    step from any state where that says more than the action's ranges do, else what was measured
    on the golden trace."""
    seen = measured_error(program, fixed, golden)
    steps = len(golden.resets)
    on_trace = f"{seen:.3g} on {steps} steps of the golden trace, each side with its own state"
    try:
        bound = deviation(program, fixed, spec)
    except UserError as refused:
        return Certificate(seen, "measured", f"{on_trace}; no bound, {refused}")
    error = bound.action
    sizes = [high - low for s in spec.action for low, high in [s.range] for _ in range(s.size)]
    worst = float(error.max())
    if not np.isfinite(worst) or (error >= np.array(sizes)).any():
        loose = f"affine forms bound one step over the spec's ranges by {worst:.3g} only"
        if bound.limited:
            loose += f", where {', '.join(bound.limited)} may saturate"
        return Certificate(seen, "measured", f"{on_trace}; {loose}")
    return Certificate(
        worst,
        "proved",
        "affine forms, one step from any one state over the spec's ranges, against real "
        f"arithmetic; measured {on_trace}",
    )


def measured_error(program: ir.Program, fixed: FixedProgram, golden: Trace) -> float:
    """The largest difference of an action, both programs with states of their own."""
    rows = side_by_side(golden)
    ours = list(interpretation.reset(fixed, (len(rows[0]),)))
    theirs = list(interpreter.reset(program, (len(rows[0]),)))
    worst = 0.0
    for seen in rows:
        action, after = interpretation.run(fixed, seen, [s[: len(seen)] for s in ours])
        wanted, next_states = interpreter.run(program, seen, [s[: len(seen)] for s in theirs])
        ours, theirs = list(after), list(next_states)
        worst = max(worst, float(np.abs(action - wanted).max()))
    return worst
