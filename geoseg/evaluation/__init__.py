"""Metrics of a prediction against truth (floor 3)."""
