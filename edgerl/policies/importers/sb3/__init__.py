"""Stable-Baselines3: what its files and models hold, and how its policies compute."""
