"""End to end on the digits: sweep, continuation after a kill, tables."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from command_line import TINY, make_table, records_of, run_command

from benchmark import figures
from benchmark.records import RunRecord
from scripts.verify_results import check_figure

ROOT = Path(__file__).parents[2]
GRID = ["experiment=demo", *TINY, "case=digits_class", "method=retrain,baseline,finetune,ssd", "method_seed=0,1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder in which the whole tiny demo grid was run."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        assert run_command([*GRID, f"output_dir={folder}"], patch) == 0
        assert make_table(["table=demo", *GRID[1:], f"output_dir={folder}", f"out={folder / 'table'}"], patch) == 0
    return folder


def test_one_record_a_cell(finished):
    records = [RunRecord.read(path) for path in (finished / "records").glob("*.json")]
    assert len(records) == 8
    assert {(r.labels["method"], r.seeds["method_seed"]) for r in records} == {
        (method, seed) for method in ("baseline", "retrain", "finetune", "ssd") for seed in (0, 1)
    }
    assert {r.original["sha256"] for r in records} == {records[0].original["sha256"]}  # [P]: one original


def test_record_says_everything(finished):
    record = next(r for r in map(RunRecord.read, (finished / "records").glob("*.json")) if r.labels["method"] == "ssd")
    assert set(record.metrics) == {
        "retain_accuracy",
        "forget_accuracy",
        "mia",
        "js_distance",
        "gap",
        "zrf",
        "changed_fraction",
    }
    parts = [record.seconds[name] for name in ("importance_full", "importance_forget", "rest")]
    assert record.seconds["method"] == pytest.approx(sum(parts))
    assert record.seconds["importance_full"] > 0
    assert set(record.seconds) >= {"load", "original", "evaluation"}
    assert record.hyperparameters["alpha"] == 8.0
    assert record.sizes["forget_train"] + record.sizes["retain_train"] == 60
    assert set(record.provenance) >= {"commit", "dirty", "torch", "device", "precision"}


def test_the_retrained_model_is_at_distance_zero_from_itself(finished):
    for record in map(RunRecord.read, (finished / "records").glob("*.json")):
        if record.labels["method"] == "retrain":
            assert record.metrics["gap"] == 0
            assert record.metrics["js_distance"] == 0


def test_a_second_start_computes_nothing(finished, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.json")}
    assert run_command([*GRID, f"output_dir={finished}"], monkeypatch) == 0
    assert "8 cells: 8 done, 0 to run" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*.json")} == before


def test_table_files(finished):
    table = pd.read_csv(finished / "table" / "table.csv")
    assert list(table["n"].unique()) == [2]
    assert set(table["method"]) == {"baseline", "retrain", "finetune", "ssd"}
    assert not table.loc[table["method"].isin(["baseline", "retrain"]), "best"].any()
    latex = (finished / "table" / "table.tex").read_text()
    assert latex.count(r"\begin{") == latex.count(r"\end{") == 2
    assert "over 2 method seeds (n = 2)" in (finished / "table" / "table.md").read_text()


def test_a_figure_of_times_follows_from_its_records(finished, tmp_path, monkeypatch):
    arguments = ["figure=demo", *GRID[1:], f"output_dir={finished}", f"out={tmp_path}"]
    assert run_command(arguments, monkeypatch, main=figures.main) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "figure.png", "figure.pdf", "seconds.csv", "saving.csv", "records.csv",
    }  # fmt: skip
    seconds = pd.read_csv(tmp_path / "seconds.csv", index_col="method")
    assert list(seconds.index) == ["baseline", "retrain", "finetune", "ssd"]
    ssd = [r for r in map(RunRecord.read, (finished / "records").glob("*.json")) if r.labels["method"] == "ssd"]
    mean = sum(r.seconds["importance_full"] / r.seconds["method"] for r in ssd) / 2
    saving = pd.read_csv(tmp_path / "saving.csv").set_index("method")
    assert saving.loc["ssd", "mean"] == pytest.approx(100 * mean, abs=0.006)
    assert [problem for problem in check_figure(tmp_path) if "uncommitted" not in problem] == []
    seconds["rest"] += 0.01
    seconds.to_csv(tmp_path / "seconds.csv")
    assert any("seconds.csv" in problem for problem in check_figure(tmp_path))
    (tmp_path / "records.csv").unlink()
    assert check_figure(tmp_path) == [f"{tmp_path.name}: no records.csv"]


def test_missing_cells_are_named(finished, tmp_path, monkeypatch, capsys):
    (tmp_path / "records").mkdir()
    for name, text in records_of(finished).items():
        if json.loads(text)["labels"]["method"] != "finetune":
            (tmp_path / "records" / name).write_bytes(text)
    assert (
        make_table(["table=demo", *GRID[1:], f"output_dir={tmp_path}", f"out={tmp_path / 'table'}"], monkeypatch) == 0
    )
    text = capsys.readouterr().out
    assert "missing" in text
    commands = [
        line for line in text.splitlines() if line.startswith("python -m benchmark.run ") and "experiment=demo" in line
    ]
    assert [("method_seed=0" in line, "method_seed=1" in line) for line in commands] == [(True, False), (False, True)]
    assert all("method=finetune" in line for line in commands)


def without_times(output_dir: Path) -> list[dict]:
    records = [json.loads(text) for text in records_of(output_dir).values()]
    for record in records:
        record["seconds"] = record["provenance"] = record["checksum"] = None  # the last covers the first two
    return records


@pytest.mark.slow
def test_killed_and_continued_equals_uninterrupted(finished, tmp_path, monkeypatch):
    """`kill -9` a few times in mid-run; the same command then ends with the same tables, byte for byte."""
    command = [sys.executable, "-m", "benchmark.run", *GRID, f"output_dir={tmp_path}"]
    for seconds in (5.0, 6.0, 7.0):
        process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
    table = ["table=demo", *GRID[1:], f"output_dir={tmp_path}", f"out={tmp_path / 'table'}"]
    assert make_table(table, monkeypatch) == 0
    assert without_times(tmp_path) == without_times(finished)
    for name in ("table.csv", "table.tex", "table.md"):
        assert (tmp_path / "table" / name).read_bytes() == (finished / "table" / name).read_bytes()
