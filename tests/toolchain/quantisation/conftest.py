"""RAPTOR in integers, once a session."""

import numpy as np
import pytest
from fixed_steps import Singles, float_step
from quantised import Quantised

from edgerl.policies import load
from edgerl.policies.plants import Hover, rollout
from edgerl.toolchain import golden, quantisation
from edgerl.toolchain.lowering import lower


@pytest.fixture(scope="session")
def raptor() -> Quantised:
    """RAPTOR, calibrated on flights from seeds that no report uses and on the golden trace."""
    policy = load("raptor")
    program = lower(policy)
    seen: list[Singles] = []
    step = float_step(program)

    def watched(observation: Singles) -> Singles:
        seen.append(observation.copy())
        return step(observation)

    quads, start = Hover(first_seed=0).draw(256)
    rollout(quads, start, watched, steps=500)
    flown = np.stack(seen)
    trace, _ = golden.inputs(policy, "evaluate")
    fixed = quantisation.quantise(program, (flown, trace[:2048]), spec=policy.spec)
    return Quantised(policy, program, flown, fixed)
