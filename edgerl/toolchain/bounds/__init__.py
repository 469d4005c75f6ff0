"""Bounds: what a Program's tensors can be, and how far float32 can be from real arithmetic.

Interval analysis gives the ranges of exact values (Moore, Kearfott and Cloud, Introduction to
Interval Analysis, SIAM 2009); forward error analysis with the standard model of rounding
(Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002, chapters 2 to 4)
gives the distance between exact and computed values after one step from the same state. An
error passes a matrix by the sizes of its weights and an activation by its Lipschitz constant
on the interval it is used on. Everything is computed outwards: the bounds are proved, given
the stated errors of the activations (`accuracy.py`).

What is compared is a float32 evaluation of the Program's own operations. A graph that was
folded while it was lowered spends more roundings, and six a sum are allowed for that. It is no
proof where a fold hid large terms that cancel, such as a mean far outside an input's range.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgerl.policies.spec import PolicySpec
from edgerl.toolchain.bounds.emitted import Emitted
from edgerl.toolchain.bounds.enclosure import Doubles, Enclosure, exactly
from edgerl.toolchain.bounds.library import AnyOrder
from edgerl.toolchain.bounds.propagation import kept_states, propagate
from edgerl.toolchain.ir import ArgMax, Program

__all__ = ["Deviation", "ErrorBound", "computed_bounds", "error_bound", "interval_bounds"]

Ranges = npt.ArrayLike
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Deviation:
    """Bounds on absolute differences: of the action [..., m] and of each next state [..., k]."""

    action: Doubles
    states: tuple[Doubles, ...]

    def plus(self, other: "Deviation") -> "Deviation":
        """The bound on the difference of two evaluations that each deviate."""
        states = zip(self.states, other.states, strict=True)
        return Deviation(self.action + other.action, tuple(a + b for a, b in states))


@dataclass(frozen=True)
class ErrorBound:
    """Differences after one step from the same state and the same observation.

    `emitted` bounds |emitted code - exact|, `library` bounds |any float32 library - exact|,
    their sum |emitted code - onnxruntime|; infinite where there is none. `unbounded` names the
    tensors of the emitted program that may overflow, or follow from something that may.
    `undecided` [...] is true where the largest elements that an ArgMax looks at are so close that
    rounding decides between them: there the bounds are true and say little.
    """

    emitted: Deviation
    library: Deviation
    unbounded: tuple[str, ...]
    undecided: Mask

    @property
    def between(self) -> Deviation:
        """Bound on the difference between the emitted code and onnxruntime."""
        return self.emitted.plus(self.library)

    @property
    def finite(self) -> bool:
        """True when no tensor can overflow over the ranges, so that no step from a bounded
        state can poison it."""
        return not self.unbounded


def error_bound(
    program: Program,
    spec: PolicySpec,
    *,
    fused: bool,
    ranges: Ranges | None = None,
    states: Sequence[Ranges] | None = None,
) -> ErrorBound:
    """Bound the error of one step of `program` as it is emitted, and of a float32 library.

    `ranges` [..., n, 2] are the least and largest value of each observation element, the
    spec's ranges by default; `states` the same of each state, by default all that the emitted
    program can reach from a reset: a GRU's state stays in [-1, 1]; an LSTM's cell has no bound
    in real arithmetic unless its forget gate stays below 1, and none above 2^24 in float32.
    Leading axes are a batch: a bound for each row of it.

    Raises UserError for an activation that no kernel computes.
    """
    emitted = Emitted(fused)
    observation, memory = _inputs(program, spec, emitted, ranges, states)
    ours = propagate(program, observation, memory, emitted)
    theirs = propagate(program, observation, memory, AnyOrder())
    unbounded = [name for name, tensor in ours.items() if not np.isfinite(tensor.reach).all()]
    indices = [op.y for op in program.operations if isinstance(op, ArgMax)]
    undecided = np.zeros(observation.low.shape[:-1], bool)
    for tensors in (ours, theirs):
        for y in indices:
            undecided = undecided | (tensors[y].error[..., 0] > 0.0)
    return ErrorBound(
        _deviation(program, ours, undecided.shape),
        _deviation(program, theirs, undecided.shape),
        tuple(unbounded),
        undecided,
    )


def interval_bounds(
    program: Program,
    spec: PolicySpec,
    *,
    ranges: Ranges | None = None,
    states: Sequence[Ranges] | None = None,
) -> dict[str, tuple[Doubles, Doubles]]:
    """Least and largest exact value of every tensor's elements in one step.

    Observations and states as in `error_bound`; what has no bound is infinite.
    """
    tensors = _enclosed(program, spec, False, ranges, states)
    return {name: (tensor.low, tensor.high) for name, tensor in tensors.items()}


def computed_bounds(
    program: Program,
    spec: PolicySpec,
    *,
    fused: bool,
    ranges: Ranges | None = None,
    states: Sequence[Ranges] | None = None,
) -> dict[str, tuple[Doubles, Doubles]]:
    """Least and largest value of every tensor's elements in one step of the emitted program.

    Observations and states as in `error_bound`; what may overflow is infinite.
    """
    tensors = _enclosed(program, spec, fused, ranges, states)
    return {name: (tensor.least, tensor.most) for name, tensor in tensors.items()}


def _enclosed(
    program: Program,
    spec: PolicySpec,
    fused: bool,
    ranges: Ranges | None,
    states: Sequence[Ranges] | None,
) -> dict[str, Enclosure]:
    emitted = Emitted(fused)
    observation, memory = _inputs(program, spec, emitted, ranges, states)
    return propagate(program, observation, memory, emitted)


def _inputs(
    program: Program,
    spec: PolicySpec,
    emitted: Emitted,
    ranges: Ranges | None,
    states: Sequence[Ranges] | None,
) -> tuple[Enclosure, list[Enclosure]]:
    observation = _between(spec.observation_ranges() if ranges is None else ranges)
    if states is None:
        return observation, kept_states(program, observation, emitted)
    return observation, [_between(state) for state in states]


def _between(ranges: Ranges) -> Enclosure:
    """The values between the float32 numbers nearest to the ranges' ends."""
    ends = np.asarray(ranges, np.float32)
    return exactly(ends[..., 0], ends[..., 1])


def _deviation(
    program: Program, tensors: dict[str, Enclosure], batch: tuple[int, ...]
) -> Deviation:
    """The errors of action and next states; one that depends on no observation is the same for
    the whole batch."""

    def error(name: str) -> Doubles:
        one = tensors[name].error
        return np.broadcast_to(one, (*batch, one.shape[-1]))

    return Deviation(error(program.action), tuple(error(after) for _, after in program.states))
