"""Hypothesis profiles: `--hypothesis-profile=thorough` looks at twenty-five times as much."""

from hypothesis import settings

settings.register_profile("thorough", max_examples=500)
