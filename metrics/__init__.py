"""Metrics: pure functions from the outputs of one model (and of the retrained one) to a number."""
