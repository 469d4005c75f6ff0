"""A lowered program against onnxruntime on the policy's own graph."""

import numpy as np
import onnxruntime

from edgerl.policies.policy import Policy
from edgerl.toolchain.interpreter import reset, run
from edgerl.toolchain.ir import Program


def session(policy: Policy) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(policy.serialized(), options)


def difference(policy: Policy, program: Program, steps: int = 6, seed: int = 0) -> float:
    """Largest difference of action and states over a recurrent sequence, the interpreter in
    double precision, each relative to 1 + the magnitude."""
    runtime, rng = session(policy), np.random.default_rng(seed)
    names = [port.name for port in policy.graph.graph.input]
    theirs = [np.zeros((1, state.size), np.float32) for state in policy.spec.state]
    ours = reset(program)
    worst = 0.0
    for _ in range(steps):
        observation = rng.normal(size=(1, policy.spec.observation_size)).astype(np.float32)
        expected, *theirs = runtime.run(None, dict(zip(names, [observation, *theirs], strict=True)))
        action, ours = run(program, observation[0], ours)
        for mine, other in zip((action, *ours), (expected, *theirs), strict=True):
            assert mine.shape == other[0].shape
            worst = max(worst, float(np.max(np.abs(mine - other[0]) / (1.0 + np.abs(other[0])))))
    return worst
