"""Figure 2: its numbers and its files."""

from pathlib import Path

import pandas as pd
import pytest
from report_cases import compose, content_of, demo_cells, record_of

from benchmark.report.about import ABOUT
from benchmark.report.figures import figure_files, precomputing_saves, time_by_phase, time_shares, totals
from benchmark.report.query import Query
from benchmark.report.select import Place


def frame(rows: list[tuple]) -> pd.DataFrame:
    """rows: (method, skipped, load, importance_full, importance_forget, rest, evaluation, method)."""
    names = ["load", "importance_full", "importance_forget", "rest", "evaluation", "method"]
    return pd.DataFrame(rows, columns=["method", "skipped", *(f"seconds.{name}" for name in names)])


RECORDS = frame(
    [
        ("ssd", None, 1, 8, 1, 1, 2, 10), ("ssd", None, 3, 9, 1, 0, 2, 10), ("baseline", None, 1, 0, 0, 0, 2, 0),
        ("unsir", "the random task has no class", 1, 0, 0, 0, 2, 0),
    ]
)  # fmt: skip


def test_mean_seconds_by_phase_in_the_order_of_methods():
    seconds = time_shares(RECORDS, ABOUT)
    assert seconds.index.tolist() == ["baseline", "ssd"]  # a skipped run took no time
    assert seconds.loc["ssd"].tolist() == [2, 8.5, 1, 0.5, 2]


def test_precomputing_saves_the_share_of_the_importance_of_d():
    (row,) = precomputing_saves(RECORDS).to_dict("records")
    assert (row["method"], row["mean"], row["count"]) == ("ssd", 85.0, 2)
    assert row["std"] == pytest.approx(50**0.5)


def test_the_seconds_of_a_whole_run_have_their_spread_and_number():
    seconds = totals(RECORDS)
    assert seconds.loc["ssd"].tolist() == [14.0, pytest.approx(2**0.5), 2]
    assert seconds.loc["baseline", "count"] == 1


def test_seconds_stand_on_a_log_axis_and_the_importance_of_d_has_a_hatch():
    figure, _ = time_by_phase(RECORDS, title="T", about=ABOUT)
    shares, seconds = figure.axes
    assert seconds.get_xscale() == "log"
    assert "14.0 ± 1.4" in [text.get_text() for text in seconds.texts]
    hatches = {bars.get_label(): bars[0].get_hatch() for bars in shares.containers}
    assert hatches["importance of D (reusable)"] == "////"
    assert len({(bars[0].get_hatch(), bars[0].get_facecolor()) for bars in shares.containers}) == 5


def test_a_figure_is_drawn_from_the_records(report):
    grid = ("profile=quick", "dataset=digits", "case=digits_class", "method=ssd,baseline", "method_seed=0,1")
    for cell in compose("experiment=figure2", *grid):
        record_of(cell, importance_full=3.0).write(Path("runs/records"))
    code, printed = report("figure=2", *grid)
    assert code == 0, printed
    folder = Path("results/figure2-paper-quick")
    images = {"figure.png", "figure.pdf", "figure.svg", "figure-dark.svg"}
    assert set(content_of(folder)) == {*images, "seconds.csv", "saving.csv", "records.jsonl", "report.json"}
    assert "ssd,75.00,0.00,2" in printed
    before = content_of(folder)
    assert report("figure=2", *grid, "output_dir=nowhere")[0] == 0
    assert content_of(folder) == before


def test_a_table_is_no_figure():
    cell = demo_cells()[0]
    with pytest.raises(ValueError, match=r"a figure in experiment=demo, but got none; add figure\._target_"):
        figure_files(Query("figure", "demo", Path(), [Place(cell.labels, cell, record_of(cell))], cell, [], None))
