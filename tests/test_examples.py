"""The scripts in examples/ are short, and run as they stand."""

import re
import runpy
from pathlib import Path

import pytest

from methods import dampening

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """As after `pip install .`."""
    monkeypatch.setitem(__import__("sys").modules, "dampening", dampening)


@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_examples_are_short(path):
    assert len(path.read_text().splitlines()) <= 40


def test_requests_in_turn_forget_one_class_after_the_other(capsys):
    runpy.run_path(str(EXAMPLES / "requests_in_turn.py"))
    lines = capsys.readouterr().out.splitlines()
    before, first, second, undone = ([float(x) for x in re.findall(r"\d: (\d\.\d\d)", line)] for line in lines)
    assert min(before) > 0.9
    assert max(first[0], second[0], second[1]) < 0.1
    assert min(*first[1:], *second[2:]) > 0.9
    assert undone == first
