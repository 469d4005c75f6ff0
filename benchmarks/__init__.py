"""Benchmarks: edgerl beside the tools one could use instead, measured in one run."""
