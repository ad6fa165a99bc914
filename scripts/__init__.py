"""Thin entry points."""
