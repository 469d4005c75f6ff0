"""Tensors: what every vector of a program can be over the spec's ranges, and what it was.

Floats are bounded by interval analysis of the emitted arithmetic (`bounds`), integers by the
intervals that prove their accumulators (`quantisation.proof`), here from the integers that the
spec's ranges are converted to.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.policies.spec import PolicySpec
from edgerl.toolchain import bounds, interpreter, ir
from edgerl.toolchain.golden import Trace
from edgerl.toolchain.quantisation import interpretation, proof
from edgerl.toolchain.quantisation.arithmetic import state_shift
from edgerl.toolchain.quantisation.program import FixedInput, FixedOutput, FixedProgram, Halfword
from edgerl.toolchain.report.model import Certificate, TensorRange

Array = npt.NDArray[Any]
Bounds = tuple[Array, Array]
# One step: an observation [B, n] and states to every tensor by name.
Tracer = Callable[[Array, Sequence[Array]], Mapping[str, Array]]

_INT32 = 32


def of_floats(
    program: ir.Program, spec: PolicySpec, fused: bool, golden: Trace
) -> tuple[TensorRange, ...]:
    """The range of every tensor of a float program, in order."""
    proved = bounds.computed_bounds(program, spec, fused=fused)
    seen = observed(
        lambda observation, states: interpreter.trace(program, observation, states, np.float32),
        program.states,
        interpreter.reset(program, (1,)),
        golden,
    )
    return tuple(
        TensorRange(name, program.size(name), "f32", _ends(proved[name]), _ends(seen[name]))
        for name in proved
        if name in seen
    )


def of_integers(program: FixedProgram, spec: PolicySpec, golden: Trace) -> tuple[TensorRange, ...]:
    """The range of every vector of a fixed program, in order, read in real units."""
    proved = integer_ranges(program, spec)
    seen = observed(
        lambda observation, states: interpretation.trace(program, observation, states),
        program.states,
        interpretation.reset(program, (1,)),
        golden,
    )
    return tuple(_integers(program, name, proved[name], seen[name]) for name in proved)


def integer_ranges(program: FixedProgram, spec: PolicySpec) -> dict[str, proof.Range]:
    """What the integers of every vector can be over the spec's ranges, and in any state."""
    entry = next(o for o in program.operations if isinstance(o, FixedInput))
    ends = np.array(spec.observation_ranges(), np.float32).T
    alone = replace(program, operations=(entry,), states=())
    low, high = interpretation.trace(alone, ends, ())[entry.y]
    # A choice of a row may fall anywhere between; conversion never changes an order.
    return proof.propagated(program, proof.Range(low, high))[0]


def observed(
    step: Tracer,
    states: Sequence[tuple[str, str]],
    reset: Sequence[Array],
    golden: Trace,
) -> dict[str, Bounds]:
    """The least and largest value of every tensor's elements on a trace, sequences side by
    side."""
    rows = side_by_side(golden)
    now = [np.repeat(state, len(rows[0]), axis=0) for state in reset]
    found: dict[str, Bounds] = {}
    for seen in rows:
        tensors = step(seen, [state[: len(seen)] for state in now])
        now = [tensors[after] for _, after in states]
        for name, values in tensors.items():
            flat = values.reshape(-1, values.shape[-1])
            low, high = flat.min(axis=0), flat.max(axis=0)
            if name in found:
                low, high = np.minimum(low, found[name][0]), np.maximum(high, found[name][1])
            found[name] = low, high
    return found


def side_by_side(golden: Trace) -> list[Array]:
    """The sequences of a trace from reset to reset as the rows [B, n] of each step, the longest
    first: B shrinks as they end."""
    cuts = np.flatnonzero(golden.resets[1:]) + 1
    sequences = sorted(np.split(golden.observations, cuts), key=len, reverse=True)
    return [
        np.array([sequence[k] for sequence in sequences if len(sequence) > k])
        for k in range(len(sequences[0]))
    ]


def action_bounds(spec: PolicySpec, tensor: Bounds, method: str) -> Certificate:
    """What each signal of the action can be, from the bounds [m] of the raw action: as the
    network gives it, and after saturation to the signal's range."""
    low, high = tensor
    first, value = 0, {}
    for signal in spec.action:
        part = slice(first, first + signal.size)
        first += signal.size
        raw = float(low[part].min()), float(high[part].max())
        least, most = signal.range
        saturated = tuple(float(min(max(end, least), most)) for end in raw)
        value[signal.name] = {"raw": raw, "saturated": saturated}
    return Certificate(value, "proved", method)


def raw_action(program: FixedProgram, ranges: Mapping[str, proof.Range]) -> Bounds:
    """The bounds [m] of a fixed program's action, which its last integers give."""
    last = next(o for o in program.operations if isinstance(o, FixedOutput))
    ends = ranges[last.x]
    low, high = (
        np.ldexp(end.astype(np.float32), -last.exponent).astype(np.float64)
        for end in (ends.low, ends.high)
    )
    return low, high


def no_overflow(program: FixedProgram) -> Certificate:
    """Whether every int32 that sums make fits, whatever the observations and in any state."""
    found = proof.stretches(program)
    holds = all((stretch.ratios < 1.0).all() for stretch in found)
    # Those of products; the other sums have ends that no weight moves.
    sums = [stretch for stretch in found if stretch.limit == proof.LIMIT]
    worst = max(sums, key=lambda stretch: float(stretch.ratios.max()))
    row = int(worst.ratios.argmax())
    part = f" {worst.part}" if worst.part else ""
    return Certificate(
        holds,
        "proved",
        f"row by row from the integers, for any observation and state: the largest accumulator "
        f"reaches {float(worst.ratios[row]):.4f} of what it may, {worst.layer}{part} row {row}",
    )


def _ends(bound: Sequence[Array]) -> tuple[float, float] | None:
    low, high = float(np.min(bound[0])), float(np.max(bound[1]))
    return (low, high) if np.isfinite([low, high]).all() else None


def _integers(program: FixedProgram, name: str, proved: proof.Range, seen: Bounds) -> TensorRange:
    """One vector's range. What a state holds is read as matrices read it."""
    read = program.halfwords.get(name)
    if read is None:
        last = next(o for o in program.operations if isinstance(o, FixedOutput))
        size = len(proved.low)
        read = Halfword(np.full(size, 2.0**-last.exponent), np.zeros(size), _INT32)
    elif name in program.recurrent:
        shift = state_shift(read.bits)
        seen = seen[0] >> shift, seen[1] >> shift
    known = proved.low, proved.high
    real = [tuple((end + read.offset) * read.lsb for end in ends) for ends in (known, seen)]
    return TensorRange(
        name=name,
        size=read.size,
        format=f"i{read.bits}",
        proved=_ends(real[0]),
        observed=_ends(real[1]),
        bits=_bits(known),
        observed_bits=_bits(seen),
        width=read.bits,
    )


def _bits(bound: Bounds) -> int:
    """Bits that hold these integers, sign included."""
    low, high = int(bound[0].min()), int(bound[1].max())
    return 1 + max(high.bit_length() if high > 0 else 0, (~low).bit_length() if low < 0 else 0)
