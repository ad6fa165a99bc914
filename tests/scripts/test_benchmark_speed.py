"""The speed benchmark: its files, its columns, steps that fail, and every step once on few images."""

import logging
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from scripts.benchmark_speed import arguments, composed, conditions, file_name, main, markdown, measure_all
from scripts.speed_measure import Step
from scripts.speed_steps import COMPILED_EPOCHS, Steps, can_compile

CPU = torch.device("cpu")
SPEED = Path(__file__).parents[2] / "results" / "speed"
FIRST = [
    "step", "unit", "amount", "repeats", "seconds", "seconds_min", "seconds_max", "per_second", "host_peak_bytes",
    "device_peak_bytes",
]  # fmt: skip
LAST = [
    "device", "precision", "torch", "commit", "dirty", "dataset", "model", "protocol", "images", "test_images", "width",
    "sample", "literal", "workers", "channels_last", "tf32",
]  # fmt: skip


def fail():
    raise RuntimeError("no compiler\nanywhere")


GOOD, BAD, LATER = Step("good", "images", 2, dict), Step("bad", "images", 2, fail), Step("later", "images", 2, dict)


def start(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["benchmark_speed", *words])
    main()


@pytest.mark.parametrize(("tf32", "name"), [("false", "-float32-torch"), ("true", "-float32-tf32-torch")])
def test_file_name_and_columns_tell_the_options(tmp_path, tf32, name):
    options, overrides = arguments(
        ["dataset=digits", "images=60", "test_images=30", "width=2", "sample=16", "literal=3", "protocol=strict",
         "compute.precision=float32", "compute.channels_last=true", f"compute.tf32={tf32}", "compute.device=cpu"]
    )  # fmt: skip
    cell, _ = composed(options, overrides, str(tmp_path))
    assert file_name(cell).endswith(name + torch.__version__.partition("+")[0])
    assert conditions(cell, options) == {
        "dataset": "digits", "model": "resnet18", "protocol": "strict", "images": 60, "test_images": 30, "width": 2,
        "sample": 16, "literal": 3, "workers": 0, "channels_last": True, "tf32": tf32 == "true",
    }  # fmt: skip


def test_a_step_that_fails_is_one_line_and_leaves_the_others(caplog):
    kept = []
    with caplog.at_level(logging.ERROR):
        failed = measure_all(
            {step.name: step for step in (GOOD, BAD, LATER)}, repeats=1, device=CPU,
            keep=lambda rows: kept.append([row["step"] for row in rows]),
        )  # fmt: skip
    assert failed == ["bad"]
    assert kept == [["good"], ["good", "later"]]
    assert [record.getMessage() for record in caplog.records] == [
        "bad: failed: RuntimeError: no compiler anywhere (HYDRA_FULL_ERROR=1 shows the traceback)"
    ]


def test_the_command_writes_what_was_measured_and_ends_with_an_error(monkeypatch, tiny_words, tmp_path):
    monkeypatch.setattr(Steps, "all", lambda self: {step.name: step for step in (BAD, GOOD)})
    with pytest.raises(SystemExit, match="1 of 2 steps failed: bad"):
        start(monkeypatch, *tiny_words)
    (path,) = (tmp_path / "speed").glob("*.csv")
    frame = pd.read_csv(path)
    assert list(frame.columns) == FIRST + LAST
    assert frame["step"].tolist() == ["good"]
    assert "| good |" in path.with_suffix(".md").read_text()


def test_an_unknown_step_is_named(monkeypatch, tiny_words):
    monkeypatch.setattr(Steps, "all", lambda self: {"good": GOOD})
    with pytest.raises(ValueError, match="Expected steps to be some of good, but got fast"):
        start(monkeypatch, *tiny_words, "steps=good,fast")


@pytest.mark.parametrize("path", sorted(SPEED.glob("*-torch*.csv")), ids=lambda path: path.stem)
def test_the_committed_tables_follow_from_their_rows(path):
    assert path.with_suffix(".md").read_text().partition("\n\n")[2] == markdown(pd.read_csv(path))


def test_the_peak_of_the_device_is_shown_where_it_was_measured():
    row = dict.fromkeys(FIRST, 1.0) | {"step": "good", "unit": "images", "host_peak_bytes": 2**30}
    cpu, gpu = (markdown(pd.DataFrame([row | {"device_peak_bytes": peak}])) for peak in (0, 3 * 2**30))
    assert "Device peak" not in cpu
    assert cpu.endswith("| 1.00 GiB |\n")
    assert gpu.splitlines()[0].endswith("| Host peak | Device peak |")
    assert gpu.endswith("| 1.00 GiB | 3.00 GiB |\n")
    assert len({line.count("|") for line in gpu.splitlines()}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_every_step_is_measured(monkeypatch, tiny_words, tmp_path, device):
    """On a CPU compiling takes about a minute."""
    start(monkeypatch, *tiny_words, f"compute.device={device}")
    (path,) = (tmp_path / "speed").glob("*.csv")
    frame = pd.read_csv(path).set_index("step")
    names = ["importance_batch_mean", "importance_per_sample", "fisher", "attack_fit", "dampening", "cell_cold",
             "cell_cached", "evaluation", "trial"]  # fmt: skip
    names = ["training", *names, *(["training compiled"] if can_compile(torch.device(device)) else [])]
    assert [name for name in frame.index if name in names] == names
    assert set(frame.index) - set(names) >= {"training float32 channels last", "training float32 contiguous"}
    for name in ("seconds_min", "per_second", "host_peak_bytes"):
        assert (frame[name] > 0).all(), name
    assert (frame["device_peak_bytes"] > 0).all() == (device == "cuda")
    compared = frame[frame["textbook_seconds"].notna()]
    assert set(compared.index) == set(names) - {"attack_fit", "training compiled"}
    assert (compared[["textbook_seconds_min", "ratio_min"]] > 0).all(axis=None)
    assert compared["largest_difference"].between(0, 0.05).all()
    assert frame["largest_difference_float64"].dropna().max() < 1e-9
    shares = frame["ceiling_share"].drop("attack_fit")
    assert shares.between(0, 1.5, inclusive="neither").all()
    assert frame["amount"].get("training compiled", COMPILED_EPOCHS * 32) == COMPILED_EPOCHS * 32
    assert f"| {frame.index[-1]} |" in path.with_suffix(".md").read_text()
