"""Metrics: pure functions from the outputs of one model, and of those to compare it with, to a number."""
