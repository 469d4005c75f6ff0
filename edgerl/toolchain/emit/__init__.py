"""Emission of C packages from programs."""

from edgerl.toolchain.emit.package import Golden, Package, emit
from edgerl.toolchain.emit.plan import Plan, describe, plan

__all__ = ["Golden", "Package", "Plan", "describe", "emit", "plan"]
