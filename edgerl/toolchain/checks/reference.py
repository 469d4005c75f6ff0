"""Reference: how far the emitted code is from onnxruntime and from the authors' own vectors."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.errors import UserError
from edgerl.policies import Policy
from edgerl.toolchain.bounds import error_bound
from edgerl.toolchain.build.host import HostTwin
from edgerl.toolchain.golden import GoldenFile
from edgerl.toolchain.ir import Program
from edgerl.toolchain.report.model import Reference

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
_BLOCKS = 256
_BOUNDED_AT_ONCE = 512


@dataclass(frozen=True)
class StepReference:
    """Emitted code against onnxruntime, one step at a time from the emitted code's own state.

    `max_abs_error` is the largest difference of any action or next state, `bound` what the
    error analysis allows in that place; `of_bound` is the largest share of its bound that any
    difference takes up, and must not exceed 1. `widest` is the largest bound of all. Of `steps`
    so many are `undecided`, which are not judged: rounding decides there which of the largest
    elements an ArgMax takes.
    """

    against: str
    steps: int
    max_abs_error: float
    bound: float
    of_bound: float
    widest: float
    undecided: int = 0

    @property
    def ok(self) -> bool:
        """True when every difference is within its bound."""
        return self.of_bound <= 1.0


def _onnxruntime() -> Any:
    """The library (untyped), told to keep to itself: from 1.29 on it sends names and hashes of
    the models that it runs to its makers unless asked not to."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def _library() -> str:
    return f"onnxruntime {_onnxruntime().__version__}"


class _Session:
    """A policy in onnxruntime. `shapes` are those of the observation and of each state."""

    def __init__(self, policy: Policy) -> None:
        onnxruntime = _onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        if any(node.op_type == "QuantizeLinear" for node in policy.graph.graph.node):
            # Its fused int8 kernels saturate sums of two products on x86 without VNNI.
            off = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.graph_optimization_level = off
        self._session = onnxruntime.InferenceSession(
            policy.graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        inputs = self._session.get_inputs()
        self._names = [i.name for i in inputs]
        self.shapes = [[d if isinstance(d, int) else 1 for d in i.shape] for i in inputs]

    def step(self, observation: Floats, states: Sequence[Floats]) -> list[Floats]:
        """Action and next states, each in the graph's shape."""
        values = (observation, *states)
        feed = {
            name: value.reshape(shape)
            for name, value, shape in zip(self._names, values, self.shapes, strict=True)
        }
        results: list[Floats] = self._session.run(None, feed)
        return results


def run_onnx(policy: Policy, observations: Floats, resets: npt.NDArray[np.bool_]) -> Floats:
    """Actions [T, m] of onnxruntime on observations [T, n], state zeroed at each reset mark."""
    session = _Session(policy)
    fresh = [np.zeros(shape, np.float32) for shape in session.shapes[1:]]
    states = fresh
    actions = []
    for row, reset in zip(observations, resets, strict=True):
        action, *states = session.step(row, fresh if reset else states)
        actions.append(action.reshape(-1))
    return np.stack(actions)


def against_onnxruntime(policy: Policy, golden: GoldenFile) -> Reference:
    """Largest absolute difference between the golden actions and onnxruntime, free-running."""
    trace = golden.evaluate
    actions = run_onnx(policy, trace.observations, trace.resets)
    return _reference(_library(), trace.expected.actions, actions)


def single_step_error(
    policy: Policy, program: Program, twin: HostTwin, golden: GoldenFile
) -> StepReference:
    """Differences between the twin and onnxruntime when both start every step of the golden
    trace from the twin's state, against the bound that `bounds.error_bound` proves for just
    that observation and state."""
    trace = golden.evaluate
    run = twin.trace(trace.observations, trace.resets, "evaluate")
    assert run.states is not None
    sizes = [program.size(before) for before, _ in program.states]
    after = _memory(run.states, sizes)
    before = [np.roll(state, 1, axis=0) for state in after]
    starts = trace.resets.copy()
    starts[0] = True
    for state in before:
        state[starts] = 0.0
    session = _Session(policy)
    steps = [
        session.step(observation, [state[k] for state in before])
        for k, observation in enumerate(trace.observations)
    ]
    theirs = np.stack([np.concatenate([r.reshape(-1) for r in step]) for step in steps])
    ours = np.concatenate([run.actions, *after], axis=1)
    error = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    bound, undecided = _step_bounds(policy, program, golden, trace.observations, before)
    if undecided.all():
        raise UserError(
            f"{policy.name}: rounding decides between the largest elements in all of "
            f"{len(error)} golden steps; are the observation ranges those of the policy?"
        )
    error, bound = error[~undecided], bound[~undecided]
    with np.errstate(over="ignore"):  # any difference is too much where none is allowed
        share = error / np.maximum(bound, np.finfo(np.float64).tiny)
    worst = np.unravel_index(error.argmax(), error.shape)
    return StepReference(
        against=_library(),
        steps=len(undecided),
        max_abs_error=float(error[worst]),
        bound=float(bound[worst]),
        of_bound=float(share.max()),
        widest=float(bound.max()),
        undecided=int(undecided.sum()),
    )


def _memory(states: npt.NDArray[np.uint8], sizes: Sequence[int]) -> list[Floats]:
    """The program's states [T, k] out of the C state [T, bytes]: floats in order, the held
    action after them."""
    floats = np.ascontiguousarray(states[:, : 4 * sum(sizes)]).view(np.float32)
    return np.split(floats, np.cumsum(sizes)[:-1], axis=1) if sizes else []


def _step_bounds(
    policy: Policy,
    program: Program,
    golden: GoldenFile,
    observations: Floats,
    states: Sequence[Floats],
) -> tuple[Doubles, npt.NDArray[np.bool_]]:
    """The bound [T, actions and next states] of each step, and whether the step is undecided."""
    rows, undecided = [], []
    for start in range(0, len(observations), _BOUNDED_AT_ONCE):
        part = slice(start, start + _BOUNDED_AT_ONCE)
        allowed = error_bound(
            program,
            policy.spec,
            fused="-fma-" in golden.numerics,
            ranges=_only(observations[part]),
            states=[_only(state[part]) for state in states],
        )
        between = allowed.between
        rows.append(np.concatenate([between.action, *between.states], axis=1))
        undecided.append(allowed.undecided)
    return np.concatenate(rows), np.concatenate(undecided)


def _only(values: Floats) -> Floats:
    """Ranges [T, n, 2] that hold one value each."""
    return np.stack([values, values], axis=-1)


def against_published(golden: GoldenFile, twin: HostTwin) -> Reference | None:
    """Largest absolute difference between the twin and the authors' own vectors, if any."""
    trace = golden.published
    if trace is None:
        return None
    run = twin.trace(trace.observations, trace.resets, "evaluate")
    return _reference(golden.source, run.actions, trace.expected.actions)


def _reference(against: str, ours: Floats, theirs: Floats) -> Reference:
    error = np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max(axis=1)
    block = max(1, -(-len(error) // _BLOCKS))
    worst = tuple(float(error[k : k + block].max()) for k in range(0, len(error), block))
    return Reference(against, float(error.max()), len(error), block, worst)
