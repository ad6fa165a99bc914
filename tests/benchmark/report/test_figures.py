"""Figure 2's numbers, and figures, methods and metrics of somebody's own from a folder outside the repository."""

from pathlib import Path

import pandas as pd
import pytest
from report_cases import GRID, compose, content_of, record_of

from benchmark.report.about import read_about
from benchmark.report.figures import precomputing_saves, time_shares

ABOUT = read_about()
OWN = """# @package _global_
defaults: [{override /protocol: paper}, {override /profile: quick}, {override /case: digits_class}]
table: {title: My figure}
figure: {_target_: my_figure.draw, colour: red}
hydra: {mode: MULTIRUN, sweeper: {params: {method: "ssd,baseline", method_seed: "0"}}}
"""
DRAW = """
def draw(records, *, title, about, colour):
    from matplotlib.figure import Figure
    figure = Figure()
    axes = figure.subplots()
    axes.bar([about.method(name).label for name in records["method"]], records["metrics.mia"], color=colour)
    axes.set_title(title)
    return figure, {"mia.csv": records[["method", "metrics.mia"]].to_csv(index=False)}
"""


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


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """A folder of configurations outside the repository, with a figure, and a module beside it."""
    folder = tmp_path / "mine"
    (folder / "experiment").mkdir(parents=True)
    (folder / "experiment" / "mine.yaml").write_text(OWN)
    (folder / "my_figure.py").write_text(DRAW)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_a_figure_of_ones_own_is_two_files(own, report, tmp_path):
    for cell in compose("experiment=mine", f"hydra.searchpath=[file://{own}]"):
        record_of(cell).write(tmp_path / "runs" / "records")
    code, printed = report("figure=mine", "--config-dir", str(own))
    assert code == 0, printed
    folder = Path("results/mine-paper-quick")
    assert set(content_of(folder)) == {"figure.png", "figure.pdf", "mia.csv", "records.jsonl", "report.json"}
    assert (folder / "mia.csv").read_text().splitlines() == ["method,metrics.mia", "ssd,0.6", "baseline,0.9"]
    before = content_of(folder)
    assert report("figure=mine", f"--config-dir={own}", "output_dir=nowhere")[0] == 0
    assert content_of(folder) == before


def test_a_table_is_no_figure(finished, report):
    code, printed = report("figure=demo", *GRID)
    assert code == 1
    assert "Expected a figure in experiment=demo, but got none; add figure._target_" in printed


def test_a_second_yaml_file_on_one_class_is_a_method_of_its_own(report, tmp_path):
    own = tmp_path / "mine"
    (own / "method").mkdir(parents=True)
    (own / "method" / "mild.yaml").write_text(
        "defaults: [ssd, _self_]\nalpha: 50.0\nabout: {label: Mild SSD, order: 9}\n"
    )
    grid = [*GRID[:2], "method=ssd,mild,retrain,baseline", "method_seed=0", "output_dir=runs"]
    for cell in compose("experiment=demo", *grid, f"hydra.searchpath=[file://{own}]"):
        record_of(cell).write(tmp_path / "runs" / "records")
    code, printed = report("table=demo", *grid, f"--config-dir={own}")
    assert code == 0, printed
    assert "| Baseline | Retrain | SSD | Mild SSD |" in printed
    assert "| D_r | 90.00 | 50.00 | 60.00 | **52.00** |" in printed


def test_a_metric_of_ones_own_is_printed_in_its_unit(report, tmp_path):
    own = tmp_path / "mine"
    (own / "metric").mkdir(parents=True)
    (own / "metric" / "bits.yaml").write_text(
        "bits:\n  _target_: metrics.weights.changed_fraction\n  _partial_: true\n"
        "  about: {label: leak, unit: bits, scale: 8, decimals: 1, order: 0}\n"
    )
    grid = [*GRID, "metric=[accuracy,membership,divergence,weights,bits]"]
    for cell in compose("experiment=demo", *grid, f"hydra.searchpath=[file://{own}]"):
        record_of(cell, bits=0.5).write(tmp_path / "runs" / "records")
    code, printed = report("table=demo", *grid, "table.metrics=[mia,bits]", f"--config-dir={own}")
    assert code == 0, printed
    assert "| resnet18 | 6 | leak | 4.0 ± 0.0 | 4.0 ± 0.0 | 4.0 ± 0.0 |" in printed
    assert "Percent but for leak, mean ±" in printed
