"""A policy in floats and in integers, for tests to share."""

from dataclasses import dataclass

from fixed_steps import Singles

from edgerl.policies import Policy
from edgerl.toolchain.ir import Program
from edgerl.toolchain.quantisation import FixedProgram


@dataclass(frozen=True)
class Quantised:
    """A policy, its float program, the recording it was calibrated on, and its integers."""

    policy: Policy
    program: Program
    flown: Singles
    fixed: FixedProgram
