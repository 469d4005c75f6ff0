"""Remarks: what a reader of a report would not see in its figures."""

import numpy as np

from edgerl.policies import PolicySpec
from edgerl.targets import Target
from edgerl.toolchain.golden import GoldenFile
from edgerl.toolchain.report.model import Measured


def hurried(target: Target, rate_hz: float, measured: Measured) -> list[str]:
    """A warning where a step takes more than half of its period even at one instruction a
    cycle, which no core does better on this code."""
    if not (target.clock_hz and measured.instructions):
        return []
    most, megahertz = measured.instructions.max, target.clock_hz / 1e6
    share = most * rate_hz / target.clock_hz
    if share <= 0.5:
        return []
    return [
        f"WARNING: {most:,} instructions, were each one cycle at {megahertz:g} MHz, take "
        f"{share:.0%} of the {1000.0 / rate_hz:g} ms between two steps"
    ]


def unseen_choices(spec: PolicySpec, golden: GoldenFile) -> list[str]:
    """A remark for each discrete action of which the golden trace took few of the choices: what
    was never chosen was never compared."""
    remarks, first = [], 0
    for signal in spec.action:
        for k in range(first, first + (signal.size if signal.discrete else 0)):
            low, high = signal.range
            taken = len(np.unique(golden.evaluate.expected.actions[:, k]))
            if taken < high - low + 1:
                remarks.append(
                    f"action {signal.name}[{k - first}]: the golden trace took {taken} of "
                    f"{high - low + 1:g} choices; parity says nothing of the others"
                )
        first += signal.size
    return remarks
