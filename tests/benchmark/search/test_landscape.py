"""The figure of a search from its own files: every trial a point, whatever the parameters are."""

import pandas as pd
import pytest
from matplotlib.figure import Figure

from benchmark.search import landscape as module

SUMMARY = """**Search s: digits, resnet18, class upright_2**

|  |  |
| --- | --- |
| objective | gap, {direction}, over D_r |

| {head} |
| {rule} |
| {configured} |
| {best} |
"""


@pytest.fixture
def drawn(monkeypatch):
    """(direction, names, configured, best, rows) -> the figure."""
    kept: list[Figure] = []
    monkeypatch.setattr(module, "images", lambda figure, name: kept.append(figure) or {})

    def draw(direction: str, names: list[str], configured: list[str], best: list[str], rows: list[tuple]) -> Figure:
        texts = {"head": ["", *names, "gap"], "configured": configured, "best": best, "rule": ["---"] * len(best)}
        summary = SUMMARY.format(direction=direction, **{name: " | ".join(words) for name, words in texts.items()})
        trials = pd.DataFrame(rows, columns=["state", "value", *names, "error", "seconds"])
        module.landscape(summary, trials)
        return kept[-1]

    return draw


def points(figure: Figure) -> list[list[float]]:
    return figure.axes[0].collections[0].get_offsets().tolist()


def test_trials_are_points_and_those_that_failed_are_none(drawn):
    rows = [("complete", 0.001, 0.1, 1.0, "", 1), ("complete", 0.2, 50.0, 2.0, "", 1), ("fail", None, 1.0, 1.0, "e", 1)]
    figure = drawn(
        "minimize", ["alpha", "lam"], ["configured", "10", "1", "3.1"], ["best (trial 1)", "0.1", "1", "0.1"], rows
    )
    axes, bar = figure.axes
    assert points(figure) == [[0.1, 1.0], [50.0, 2.0]]
    assert (axes.get_xscale(), axes.get_yscale(), bar.get_yscale()) == ("log", "linear", "log")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("α", "λ")
    assert {line.get_label(): line.get_xydata().tolist() for line in axes.lines} == {
        "configured": [[10.0, 1.0]], "best": [[0.1, 1.0]]
    }  # fmt: skip


def test_one_parameter_has_the_objective_as_height_and_choices_are_words(drawn):
    rows = [("complete", -0.5, "a", "", 1), ("complete", 0.25, "b", "", 1)]
    figure = drawn("maximize", ["mode"], ["configured", "a", "1"], ["best (trial 1)", "b", "25"], rows)
    assert points(figure) == [[0.0, -50.0], [1.0, 25.0]]
    assert figure.axes[1].get_yscale() == "linear"  # an objective below 0 has no logarithm
    assert figure.axes[1].get_ylabel() == "gap in percent, maximize"


def test_trials_that_are_all_equal_are_drawn(drawn):
    rows = [("complete", 0.0, x, "", 1) for x in (1.0, 2.0)]
    assert len(points(drawn("minimize", ["lr"], ["configured", "1", "0"], ["best (trial 1)", "1", "0"], rows))) == 2
