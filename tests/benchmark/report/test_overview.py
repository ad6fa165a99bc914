"""Figures over all tables: which runs and which published numbers a point stands for."""

from pathlib import Path

import pandas as pd
import pytest
from answer_cases import commit, study
from report_cases import content_of

from benchmark.report.overview import block_name, draw_distances, styles, values_of, with_published
from benchmark.report.units import CELL, FLOOR, UNIT


def unit(method: str, d_r: float, d_f: float, mia: float, train: int = 0, **cell: str) -> dict[str, object]:
    names = {"protocol": "paper", "ablation": "none", "dataset": "cifar100", "model": "resnet18", "task": "class",
             "target": "rocket"} | cell  # fmt: skip
    gap = (abs(d_r) + abs(d_f) + abs(mia)) / 3
    return names | {"train": train, "split": 0, "original": str(train), "method": method, "retain_accuracy": d_r,
                    "forget_accuracy": d_f, "mia": mia, "gap": gap}  # fmt: skip


def values(*units: dict[str, object]) -> pd.DataFrame:
    return with_published(values_of(pd.DataFrame(units).set_index([*CELL, *UNIT, "method"]).unstack("method")))


def test_the_gap_is_over_units_and_the_bar_between_means():
    (row,) = values(unit("ssd", 3, 0, 0, 0), unit("ssd", -3, 0, 0, 1), unit("ssd", 0, 3, 0, 2)).to_dict("records")
    assert (row["gap"], row["n"], row["half_width"]) == (1.0, 3, 0.0)
    assert row["between_means"] == pytest.approx(1 / 3)


def test_the_published_distance_is_that_of_the_block():
    (row,) = values(unit("ssd", 1, 1, 1)).to_dict("records")
    assert (row["table"], round(row["published"], 2)) == ("table2", 0.96)
    (fisher,) = values(unit("fisher", 1, 1, 1)).to_dict("records")  # of Table 1, the same block
    assert (fisher["table"], round(fisher["published"], 2)) == ("table2", 24.23)
    (other,) = values(unit("ssd", 1, 1, 1, dataset="mine")).to_dict("records")
    assert (other["table"], str(other["published"])) == ("", "nan")


def test_targets_that_the_paper_pools_are_one_block_and_those_of_one_original_one_unit():
    units = [unit("ssd", n, 0, 0, train, dataset="pins", target=str(n)) for n in (1, 10) for train in (0, 1)]
    (row,) = values(*units).to_dict("records")
    assert (row["target"], row["n"]) == ("1+10", 2)
    assert row["gap"] == pytest.approx(11 / 6)
    assert block_name(row, "resnet18") == "Table 4: pins 2 targets"
    assert block_name(row | {"table": "", "model": "vit", "target": "1"}, "resnet18") == "pins 1 vit"


def test_the_noise_floor_is_a_band_and_no_row():
    found = values(unit("ssd", 1, 1, 1), unit(FLOOR, 2, 2, 2))
    axes = draw_distances(found).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["SSD"]
    assert axes.patches[0].get_extents().width > 0
    assert not draw_distances(values(unit("ssd", 1, 1, 1))).axes[0].patches


def test_a_method_looks_the_same_whatever_others_there_are():
    assert styles(["ssd"])["ssd"] == styles(["ssd", "unsir", "zz"])["ssd"]


@pytest.mark.parametrize("name", ["distance", "tradeoff"])
def test_the_command_draws_the_committed_tables(name, report):
    code, printed = report(f"figure={name}", "profile=quick")
    assert code == 1
    assert "run make reproduce-table2 PROTOCOL=paper PROFILE=quick" in printed
    commit(study({"baseline": 0.2, "ssd": 0.02}, spread=0, protocol="paper"), Path("results/table3-paper-quick"))
    code, printed = report(f"figure={name}", "profile=quick")
    assert code == 0, printed
    assert "| 20.00 / 55.87 | 1.33 | 2.00 / 2.74 |" in printed
    assert "n = 3 units" in printed
    made = content_of(Path(f"results/{name}-paper-quick"))
    assert set(made) == {"figure.png", "figure.pdf", "figure.svg", "figure-dark.svg", "figure.csv", "figure.md"}
    assert report(f"figure={name}", "profile=quick", "seed=1")[0] == 1
    report(f"figure={name}", "profile=quick")
    assert content_of(Path(f"results/{name}-paper-quick")) == made
