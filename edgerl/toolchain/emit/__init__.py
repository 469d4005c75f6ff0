"""Emission of C packages from programs."""

from edgerl.toolchain.emit.package import Golden, Package, emit
from edgerl.toolchain.emit.plan import Layer, Plan, describe, plan

__all__ = ["Golden", "Layer", "Package", "Plan", "describe", "emit", "plan"]
