"""Cores and boards as data rows."""

from edgerl.targets.model import Core, Region, Target, target, targets

__all__ = ["Core", "Region", "Target", "target", "targets"]
