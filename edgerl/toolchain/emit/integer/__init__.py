"""Emission of integer programs: their plan, and how weights lie in flash."""
