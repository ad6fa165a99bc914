"""Workers that share a folder: one grid, drained together; what each one chooses, and what a person is told."""

import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import TINY, records_of, run_command
from hydra import initialize_config_dir

from benchmark import work
from benchmark.claims import Claims
from benchmark.failures import Failure
from benchmark.grid import Plan, cells_of
from benchmark.run import CONFIGS, run_cell
from benchmark.watch import GridWatch, Pace

ROOT = Path(__file__).parents[2]
GRID = ["method=baseline,finetune", "method_seed=0,1", "~method@reference", *TINY]  # strict: an original for each seed


def watch_of(folder: Path, *overrides: str) -> GridWatch:
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        return GridWatch(cells_of([*GRID, f"output_dir={folder}", *overrides]))


def seed_of(watch: GridWatch, name: str | None) -> int:
    return watch.cells[name].seeds["method_seed"]


def test_a_worker_drains_the_grid_and_a_second_start_computes_nothing(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    arguments = [*GRID, f"output_dir={tmp_path}"]
    assert run_command(arguments, monkeypatch, main=work.main) == 0
    records = records_of(tmp_path)
    assert len(records) == 4
    assert "[4/4] digits" in caplog.text
    assert list((tmp_path / "claims").glob("*.json")) == []
    assert run_command(arguments, monkeypatch, main=work.main) == 0
    assert "4 cells: 4 done, 0 to run" in caplog.text
    assert records_of(tmp_path) == records


def test_cells_that_wait_for_an_artefact_in_progress_are_not_chosen(tmp_path):
    watch = watch_of(tmp_path)
    first = work.choose(watch, set())
    assert seed_of(watch, first) == 0
    second = work.choose(watch, {first})
    assert seed_of(watch, second) == 1  # the other cell of seed 0 needs the original that the first one trains
    assert work.choose(watch, {first, second}) is None
    run_cell(watch.cells[first])
    third = work.choose(watch, {second})
    assert seed_of(watch, third) == 0
    assert third != first


def test_a_cell_that_failed_elsewhere_is_not_tried_here(tmp_path, caplog):
    watch = watch_of(tmp_path)
    name = watch.pending()[0]
    watch.notes.write(name, Failure(str(watch.cells[name]), "no memory"))
    watch.poll()
    assert name not in watch.pending()
    assert "no memory" in caplog.text
    assert name in watch_of(tmp_path).pending()  # who starts afterwards tries it again


def test_a_failed_cell_is_reported_and_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    arguments = [*TINY, "~method@reference", "method=baseline", "task.target=1,99,2", f"output_dir={tmp_path}"]
    assert run_command(arguments, monkeypatch, main=work.main) == 1
    errors = capsys.readouterr().err
    assert "error: 1 of 3 cells failed:\n  digits resnet18 class 99 baseline seed 0: " in errors
    assert "one of 0, 1, 2" in errors
    assert "Traceback" not in errors
    assert len(records_of(tmp_path)) == 2


def test_a_lost_claim_costs_only_its_cell(tmp_path, monkeypatch, caplog):
    watch = watch_of(tmp_path, "method=baseline", "method_seed=0")
    claims = Claims(tmp_path / "claims", beat_seconds=0.05, expiry_seconds=0.2)

    def lose(cell):
        monkeypatch.setattr(work, "run_cell", run_cell)
        path = tmp_path / "claims" / f"{cell.config_hash}.json"
        path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "1"}))
        time.sleep(20)

    monkeypatch.setattr(work, "run_cell", lose)
    work.drain(watch, claims)  # the other host stays silent, so the cell comes back
    assert "taken over by another process" in caplog.text
    assert len(records_of(tmp_path)) == 1


def test_no_time_is_told_before_something_is_known():
    pace = Pace(Plan(3, {"free": 0.0, "one": 1.0, "two": 1.0}, {}))
    assert pace.finish("free") == ""
    pace.start -= 10.0
    assert pace.finish("one") == "  10 s left"
    assert pace.finish("unknown") == ""
    assert pace.finish("two") == ""


@pytest.mark.parametrize("arguments", [["workers=0"], ["workers=many"], ["method=sdd"], ["output_dir=a,b"]])
def test_bad_arguments_end_in_one_line(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_command(arguments, monkeypatch, main=work.main) == 1
    errors = capsys.readouterr().err.strip()
    assert errors.startswith("error: ")
    assert len(errors.splitlines()) == 1


@pytest.mark.slow
def test_three_local_workers_give_the_records_of_one(tmp_path, monkeypatch):
    assert run_command([*GRID, f"output_dir={tmp_path / 'one'}"], monkeypatch, main=work.main) == 0
    command = [sys.executable, "-m", "benchmark.work", "workers=3", *GRID, f"output_dir={tmp_path / 'three'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert records_of(tmp_path / "three").keys() == records_of(tmp_path / "one").keys()


@pytest.mark.slow
def test_a_small_storm(tmp_path):
    grid = ["dataset.subset.train_images=400", "dataset.subset.test_images=100", "model.width=4", "case=digits_class"]
    grid += ["method=baseline,finetune,ssd", "method_seed=0,1"]
    options = ["kills=3", "workers=2", "gap=0.3", f"out={tmp_path}"]
    command = [sys.executable, "-m", "scripts.storm", *options, *grid]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kills" in done.stdout
    assert "the same, byte for byte" in done.stdout
