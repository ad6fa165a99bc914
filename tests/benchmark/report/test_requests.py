"""Curves of forget requests: which point is which, where a curve breaks, and what is written."""

import math
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from report_cases import compose, content_of, record_of

from benchmark.report.requests import Curves, breaking_points, draw, finding
from benchmark.report.style import look

GRID = ("dataset=digits", "profile=quick", "requests.n=1,2,3", "method=baseline,ssd,finetune")
FOLDER = Path("results/requests-paper-quick")


def test_table_and_figure(report):
    for cell in compose("experiment=requests", *GRID):
        number = len(cell.targets or ())
        lost = 0.2 if cell.labels["method"] == "ssd" and number > 1 else 0.01 * number  # SSD breaks at the second
        record_of(cell, retain_accuracy=0.9 - lost).write(Path("runs/records"))
    code, printed = report("requests", *GRID)
    assert code == 0, printed
    table = pd.read_csv(FOLDER / "table.csv")
    assert set(table["curve"]) == {"Baseline", "Finetune", "SSD, I_D kept", "SSD, I_D refreshed"}
    assert not table.duplicated(["curve", "request", "metric"]).any()
    assert table["newest"].astype(str).unique().tolist() == ["upright_6", "upright_3", "upright_8"]
    assert "SSD, I_D kept: request 2 (upright_3)" in printed
    assert "Finetune: not within 3 requests" in printed
    assert "**70.00**" in printed
    first = table[table["request"] == 1].set_index(["curve", "metric"])["mean"]
    pd.testing.assert_series_equal(first["SSD, I_D kept"], first["SSD, I_D refreshed"])
    assert (FOLDER / "table.tex").read_text().count(r"\multicolumn{5}{c}{SSD, $I_{\mathcal{D}}$ kept}") == 1
    assert (FOLDER / "figure.png").stat().st_size > 10_000
    before = content_of(FOLDER)
    assert before["figure.pdf"].startswith(b"%PDF")
    assert report("requests", *GRID, "output_dir=nowhere")[0] == 0
    assert content_of(FOLDER) == before


def test_a_method_without_a_run_and_a_request_of_two_classes(report):
    grid = ("dataset=digits", "profile=quick", "requests.targets=[[1,2],3]", "requests.n=1,2", "switched=none")
    for cell in compose("experiment=requests", *grid, "method=baseline"):
        record_of(cell).write(Path("runs/records"))
    code, printed = report("requests", *grid, "method=baseline,ssd")
    assert code == 0, printed
    assert "SSD, I_D kept: no run." in printed
    table = pd.read_csv(FOLDER / "table.csv")
    assert table[["request", "newest"]].drop_duplicates().to_numpy().tolist() == [
        [1, "upright_1+upright_2"],
        [2, "upright_3"],
    ]
    assert "Missing cells, and what fills them:" in printed


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["dataset=digits", "method=ssd", "requests.n=1", "switched=none"], "add method=baseline"),
        (["case=digits_class", "method=ssd", "requests=single", "table.metrics=[mia]"], "use requests=sequence"),
    ],
)
def test_what_is_no_curve_is_refused(arguments, expected, report):
    for cell in compose("experiment=requests", "profile=quick", *arguments):
        record_of(cell).write(Path("runs/records"))
    code, printed = report("requests", "profile=quick", *arguments)
    assert code == 1
    assert expected in printed
    assert not FOLDER.exists()


def drawn(**values: list[float]) -> Figure:
    rows = [(n, name, "retain_accuracy", x) for name, means in values.items() for n, x in enumerate(means, start=1)]
    frame = pd.DataFrame(rows, columns=["request", "curve", "metric", "mean"]).assign(std=math.nan)
    curves = Curves(frame, [*values], "original", 5.0, breaking_points(frame, "original", 5.0))
    with look():
        return draw(curves, "T", chance=10.0)


def test_curves_are_labelled_and_the_first_request_zero_and_chance_can_be_seen():
    axes = drawn(original=[90.0] * 7, ssd=[80.0] + [0.0] * 6).axes[0]
    assert {text.get_text().strip() for text in axes.texts} == {"original", "ssd"}
    assert axes.get_ylim()[0] < 0
    assert axes.get_xticks().tolist() == [1, 5]
    assert [10.0, 10.0] in [list(line.get_ydata()) for line in axes.lines]
    assert [1, 1] in [list(line.get_xdata()) for line in axes.lines]  # the curve breaks there


def test_breaking_point():
    values = pd.DataFrame(
        [(n, "original", 90.0) for n in (1, 2, 3)]
        + [(1, "a", 89.0), (2, "a", 85.0), (3, "a", 84.9)]
        + [(1, "b", 95.0), (2, "b", 10.0), (3, "b", 90.0)]
        + [(n, "c", 90.0) for n in (1, 2, 3)],
        columns=["request", "curve", "mean"],
    ).assign(metric="retain_accuracy")
    assert breaking_points(values, "original", 5.0) == {"a": 3, "b": 2, "c": None}


def test_a_curve_that_ends_earlier_is_whole_within_its_own_requests():
    rows = [(n, name, 90.0 if n <= last else math.nan) for name, last in (("original", 3), ("a", 2)) for n in (1, 2, 3)]
    values = pd.DataFrame(rows, columns=["request", "curve", "mean"]).assign(metric="retain_accuracy", newest="x")
    curves = Curves(values, ["original", "a"], "original", 5.0, breaking_points(values, "original", 5.0))
    assert finding(curves).endswith("a: not within 2 requests.")
