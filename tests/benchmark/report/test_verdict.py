"""The verdict's rule and its Markdown, on values made by hand."""

import math

import pandas as pd
import pytest

from benchmark.report.about import About
from benchmark.report.verdict import PAPER_KEY, published, verdict_markdown, verdicts

NAN = math.nan


def values(rows: list[tuple]) -> pd.DataFrame:
    """rows: (method, metric, mean, std, n)."""
    block = ("class", "cifar100", "resnet18", "rocket")
    return pd.DataFrame([block + row for row in rows], columns=[*PAPER_KEY, "mean", "std", "n"])


def judged(frame: pd.DataFrame) -> pd.DataFrame:
    return verdicts("table2", frame, published(), protocol="paper", profile="full")


@pytest.mark.parametrize(
    ("ours", "std", "expected"),
    [
        (74.54 + 0.99, 0.0, "match"),  # within one point
        (74.54 + 1.01, 0.0, "near"),
        (74.54 - 3.01, 0.0, "off"),
        (74.54 + 3.9, 2.0, "match"),  # within two of our standard deviations
        (NAN, NAN, "missing"),
    ],
)
def test_verdict(ours, std, expected):
    frame = values([("ssd", "retain_accuracy", ours, std, 3)])
    verdict = judged(frame).set_index(PAPER_KEY)
    row = verdict.loc[("class", "cifar100", "resnet18", "rocket", "ssd", "retain_accuracy")]
    assert row["verdict"] == expected
    assert row["mean_published"] == 74.54


def test_every_published_number_of_the_table_has_a_verdict():
    verdict = judged(values([]))
    assert len(verdict) == (published()["table"] == "table2").sum() == 84
    assert set(verdict["verdict"]) == {"missing"}


def test_published_values_are_all_there():
    assert len(published()) == 357


def test_markdown_shows_both_numbers_and_counts():
    rows = [
        ("baseline", "retain_accuracy", 76.0, NAN, 1), ("ssd", "retain_accuracy", 74.0, 0.5, 3),
        ("retrain", "mia", 30.0, 1.0, 3),
    ]  # fmt: skip
    lines = verdict_markdown(judged(values(rows)), "A title", About()).splitlines()
    assert lines[0] == (
        "**A title: ours / published.** Protocol paper, profile full, percent, n = 3. Of 84 published numbers: "
        "2 match, 0 near, 1 off, 81 missing; results/README.md has the rule."
    )
    assert lines[2].startswith("| Model | Target | Metric | Baseline | Retrain |")
    accuracy, _, attack = (line.split(" | ") for line in lines[4:])
    assert accuracy[:4] == ["| resnet18", "rocket", "D_r", "76.00 / 76.27 ± 0.00, match"]
    assert accuracy[-1] == "74.00 ± 0.50 / 74.54 ± 0.00, match |"
    assert attack[4].startswith("30.00 ± 1.00 / ")
    assert attack[4].endswith(", off")
    assert "±" not in attack[4].partition("/")[2]  # no certain unit
    assert attack[-1] == " |"


def test_markdown_of_a_table_that_was_not_run():
    assert verdict_markdown(judged(values([])), "A title", About()).count("\n") == 1
