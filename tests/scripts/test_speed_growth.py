"""The growth of the steps' times: fitted exponents, sizes that double, and the files."""

import pandas as pd
import pytest
import torch

from scripts.speed_growth import (
    FIELDS,
    PLAN,
    POINTS,
    WIDTH,
    Size,
    draw,
    fitted_exponent,
    grow,
    setting,
    suite_device,
    write,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("power", [-1.0, 0.0, 0.5, 1.0, 3.0])
def test_the_exponent_of_an_exact_power_is_that_power(power):
    values = [8, 16, 32, 64]
    assert fitted_exponent(values, [0.3 * v**power for v in values]) == pytest.approx(power, abs=1e-12)


def test_the_fit_is_the_least_squares_line():
    assert fitted_exponent([1, 2, 4, 8], [1.0, 4.0, 4.0, 16.0]) == pytest.approx(1.2)


def test_three_points_are_refused():
    with pytest.raises(ValueError, match="at least 4 points to fit an exponent to, but got 3"):
        fitted_exponent([1, 2, 4], [1.0, 2.0, 4.0])


def test_every_factor_has_enough_points():
    assert PLAN.keys() == FIELDS.keys() == POINTS.keys()
    assert min(POINTS.values()) >= 4


def test_a_measured_line_has_a_row_for_each_value(monkeypatch):
    monkeypatch.setitem(PLAN["samples"], "attack", Size(20))
    monkeypatch.setattr("scripts.speed_growth.SHORTEST", 1e-4)
    rows = grow("attack", "samples", repeats=2, device=CPU)
    assert [row["value"] for row in rows] == [20, 40, 80, 160]
    assert all(0 < row["seconds_min"] <= row["seconds"] <= row["seconds_max"] for row in rows)
    assert len({row["exponent"] for row in rows}) == 1
    assert {row["repeats"] for row in rows} == {2}


def test_a_row_says_what_network_it_is_of():
    network, attack = setting("training", Size(8, width=16)), setting("attack", Size(8))
    assert network == {
        "model": "resnet18", "width": 16, "precision": "float32", "inputs": "random weights and images"
    }  # fmt: skip
    assert attack == {"model": None, "width": None, "precision": "float64", "inputs": "random"}


def test_the_device_is_set_up_as_for_a_run(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    torch.use_deterministic_algorithms(False)
    assert suite_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cudnn.benchmark


def test_csv_and_figure_are_written(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr("scripts.speed_growth.draw", lambda *a: titles.append(a[1]) or draw(*a))
    rows = [
        {"step": step, "factor": factor, "value": v, "seconds": v * 1e-3, "seconds_min": v * 9e-4,
         "seconds_max": v * 2e-3, "exponent": 1.0, "repeats": 7, **setting(step, Size(v))}
        for step, factor in (("training", "samples"), ("training", "classes"), ("attack", "samples"))
        for v in (8, 16, 32, 64)
    ]  # fmt: skip
    path = write(rows, tmp_path / "new", CPU)
    table = pd.read_csv(path)
    assert path.name.startswith("growth-")
    assert list(table.columns) == [*rows[0], "device", "torch", "commit", "dirty"]
    assert table["seconds"].tolist() == [row["seconds"] for row in rows]
    assert {p.suffix for p in path.parent.iterdir()} == {".csv", ".png", ".pdf"}
    for words in (f"width {WIDTH}", "random weights and images", "float32", "n = 7", "bars: fastest to slowest"):
        assert words in titles[0]
