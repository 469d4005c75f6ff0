"""Checks: what must hold of a compiled program, measured on whatever can run it."""
