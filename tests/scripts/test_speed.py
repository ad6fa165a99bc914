"""The speed suite on a few digits: every row appears, and both ways give the same results."""

import sys

import pandas as pd
import pytest
import torch
from command_line import run_command

from methods.norm_relu import can_compile
from scripts import speed
from scripts.speed import Step, largest_difference, main, measure
from scripts.zoo import LIBRARIES, Case

TINY = ("images=70", "test_images=30", "width=2", "repeats=2", "threads=1")
ROWS = {
    "training", "evaluation and attack", "importance batch_mean", "importance per_sample", "SSD cell",
    "SSD cell, I_D kept", "dampening", "Fisher, tolerance 0", "Fisher, tolerance 0.001",
}  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The folder that a whole run wrote, of fewer images than usual for what takes a sample."""
    folder = tmp_path_factory.mktemp("speed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "LITERAL", 2)
        patch.setattr(sys, "argv", ["speed", *TINY, f"out={folder}"])
        main()
    return folder


@pytest.fixture(scope="module")
def frame(out):
    (path,) = out.glob("*.csv")
    return pd.read_csv(path)


def test_every_row_appears_with_its_conditions(frame):
    assert set(frame["step"]) == ROWS
    assert (frame.groupby("step")["beside"].first() == "textbook").all()
    for name, value in {"n": 2, "images": 70, "width": 2, "threads": 1, "dataset": "digits"}.items():
        assert (frame[name] == value).all()
    assert {"device", "precision", "torch", "commit", "dirty"} <= set(frame)
    measured = frame[frame["missing"].isna()]
    assert measured["ratio"].to_numpy() == pytest.approx(measured["other_seconds"] / measured["seconds"], rel=1e-4)
    assert frame["seconds"].between(frame["seconds_min"], frame["seconds_max"]).all()


def test_both_ways_give_the_same_results(frame):
    differences = frame.set_index(["step", "beside"])["largest_difference"].drop(list(LIBRARIES), level=1)
    for step in ("evaluation and attack", "SSD cell", "SSD cell, I_D kept"):
        assert differences.pop((step, "textbook")) == 0
    assert differences.pop(("Fisher, tolerance 0.001", "textbook")) < 0.25
    assert (differences < 1e-3).all()
    assert frame[frame["beside"] == "torch.func"]["largest_difference"].item() < 1e-3


@pytest.mark.skipif(not can_compile(), reason="own kernels need gcc")
def test_own_kernels_stand_beside_torchs_if_training_uses_them(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["speed", *TINY, "compute=fast", "steps=training,", f"out={tmp_path}"])
    main()
    (path,) = tmp_path.glob("*.csv")
    rows = pd.read_csv(path).set_index("beside")["largest_difference"]
    assert list(rows.index) == ["torch's kernels", "torch's in float32"]
    assert 0 < rows["torch's kernels"] < 3 * rows["torch's in float32"]


def test_libraries_that_are_not_installed_are_named(out, monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("importlib.import_module", absent)
    others = {name: lambda make=make: make(Case(torch.nn.Linear(2, 2), None)) for name, make in LIBRARIES.items()}
    others.pop("torch.func")
    rows = list(measure(Step(1, {"ours": dict}, others), repeats=2))
    assert [(row["beside"], row["missing"]) for row in rows] == [(name, "not installed") for name in others]
    (table,) = out.glob("*.md")
    text = table.read_text()
    assert all(f"| {name} |" in text for name in (*ROWS, *LIBRARIES))


def test_the_help_names_every_option():
    assert all(f"{name}=" in speed.__doc__ for name in (*speed.OPTIONS, *speed.OWN))


def test_each_way_is_measured_as_often_and_in_turn():
    calls = []
    ours, other = ({name: lambda name=name: calls.append(name) or {"x": torch.ones(1)}} for name in ("a", "b"))
    (row,) = measure(Step(10, ours, other), repeats=3)
    assert calls == ["a", "a", "b", "b"] * 3  # the first of two warms up
    assert row["per_second"] == pytest.approx(10 / row["seconds"])
    assert row["largest_difference"] == 0


def test_the_difference_is_relative_and_the_largest_of_all_tensors():
    expected = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([1.0]), "zero": torch.zeros(2)}
    found = {"a": torch.tensor([3.0, 5.0]), "b": torch.tensor([1.1]), "zero": torch.zeros(2)}
    assert largest_difference(found, expected) == pytest.approx(0.2)
    assert largest_difference(found | {"zero": torch.tensor([0.0, 0.5])}, expected) == pytest.approx(0.5)


def test_a_wrong_option_is_named(monkeypatch, capsys):
    for word, message in (
        ("nope=1", "'nope'"),
        ("images=many", "Expected images to be a whole number, but got 'many'"),
        ("repeats=0", "Expected repeats to be at least 1, but got 0."),
        ("dataset=mnist", "one of those in configs/dataset, but got 'mnist'"),
    ):
        assert run_command([word], monkeypatch, main=main) == 1
        assert message in capsys.readouterr().err
