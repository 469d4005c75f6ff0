"""Paths: the one way that a call takes through a linked image, whatever the data.

A call is walked through, instruction by instruction, with everything unknown that is data:
observation, state, and all that is computed from them or loaded by an address made of them.
Known are constants, what flash holds at a known address, pointers up to their base, and what is
computed from these alone, spilled to the stack or not. As long as every branch is decided by
what is known, the data decide none: all calls fetch the same instructions, and the walk has
counted them (abstract interpretation: Cousot and Cousot, POPL 1977; the property is the control
flow part of constant-time programming: Almeida et al., USENIX Security 2016).
"""

from edgerl.toolchain.certify.paths.walk import Walk, walk

__all__ = ["Walk", "walk"]
