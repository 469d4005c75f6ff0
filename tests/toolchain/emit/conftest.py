"""Hypothesis profiles: `--hypothesis-profile=thorough` looks at thirty times as much."""

from hypothesis import settings

settings.register_profile("thorough", max_examples=500)
