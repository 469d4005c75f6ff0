"""Reference: how far the emitted code is from onnxruntime and from the authors' own vectors."""

import numpy as np
import numpy.typing as npt

from edgerl.policies import Policy
from edgerl.toolchain.build.host import HostTwin
from edgerl.toolchain.golden import GoldenFile
from edgerl.toolchain.report.model import Reference

Floats = npt.NDArray[np.float32]
_BLOCKS = 256


def run_onnx(policy: Policy, observations: Floats, resets: npt.NDArray[np.bool_]) -> Floats:
    """Actions [T, m] of onnxruntime on observations [T, n], state zeroed at each reset mark."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        policy.graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    inputs = session.get_inputs()
    shapes = [[d if isinstance(d, int) else 1 for d in i.shape] for i in inputs]
    states = [np.zeros(s, np.float32) for s in shapes[1:]]
    actions = []
    for row, reset in zip(observations, resets, strict=True):
        if reset:
            states = [np.zeros(s, np.float32) for s in shapes[1:]]
        feed = dict(
            zip((i.name for i in inputs), (row.reshape(shapes[0]), *states), strict=True)
        )
        action, *states = session.run(None, feed)
        actions.append(action.reshape(-1))
    return np.stack(actions)


def against_onnxruntime(policy: Policy, golden: GoldenFile) -> Reference:
    """Largest absolute difference between the golden actions and onnxruntime, free-running."""
    import onnxruntime

    trace = golden.evaluate
    actions = run_onnx(policy, trace.observations, trace.resets)
    return _reference(
        f"onnxruntime {onnxruntime.__version__}", trace.expected.actions, actions
    )


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
