"""Typed measurements with limits, as JSON and as one self-contained HTML page."""
