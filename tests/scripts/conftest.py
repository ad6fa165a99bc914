"""A tiny SSD cell on the digits, for the scripts that measure."""

import pytest

from scripts.benchmark_speed import arguments, composed

TINY = (
    "dataset=digits", "images=60", "test_images=30", "width=2", "sample=40", "literal=1", "repeats=1",
    "recipe.batch_size=16", "compute.precision=float32", "compute.channels_last=true",
)  # fmt: skip


@pytest.fixture
def tiny_words(tmp_path):
    """The benchmark's arguments for 60 digits and a network of width 2."""
    return [*TINY, f"out={tmp_path / 'speed'}"]


@pytest.fixture
def tiny(tiny_words, tmp_path):
    """(cell, options) of these arguments, on the CPU."""
    options, overrides = arguments([*tiny_words, "compute.device=cpu"])
    return composed(options, overrides, str(tmp_path / "runs"))[0], options
