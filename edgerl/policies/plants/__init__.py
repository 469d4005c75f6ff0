"""Plants: what a policy controls, simulated; rollouts and the suites that score them.

Nothing here knows what a policy is made of: a rollout takes a plain step callable, so one
evaluator serves training, calibration, compression and hardware in the loop.
"""

from edgerl.policies.plants.dynamics import Dynamics
from edgerl.policies.plants.quadrotor import (
    ATTITUDE,
    DT,
    POSITION,
    RATE,
    ROTORS,
    VEHICLES,
    VELOCITY,
    Quadrotors,
    Start,
    Vehicle,
    hovering,
    named_vehicles,
    observe,
    sample_quadrotors,
    sample_starts,
)
from edgerl.policies.plants.rollout import (
    PUBLISHED_LIMITS,
    Feedback,
    Flight,
    Limits,
    Progress,
    Step,
    rollout,
)
from edgerl.policies.plants.suites import (
    FIRST_REPORTING_SEED,
    SUITES,
    FigureEight,
    Hover,
    Outcomes,
    Paired,
    Suite,
    SuiteResult,
    fly,
    paired,
    suite_named,
)

__all__ = [
    "ATTITUDE",
    "DT",
    "FIRST_REPORTING_SEED",
    "POSITION",
    "PUBLISHED_LIMITS",
    "RATE",
    "ROTORS",
    "SUITES",
    "VEHICLES",
    "VELOCITY",
    "Dynamics",
    "Feedback",
    "FigureEight",
    "Flight",
    "Hover",
    "Limits",
    "Outcomes",
    "Paired",
    "Progress",
    "Quadrotors",
    "Start",
    "Step",
    "Suite",
    "SuiteResult",
    "Vehicle",
    "fly",
    "hovering",
    "named_vehicles",
    "observe",
    "paired",
    "rollout",
    "sample_quadrotors",
    "sample_starts",
    "suite_named",
]
