"""Workers that share a folder: one grid, drained together; what each one chooses."""

import json
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from bad_inputs import CIFAR10
from command_line import TINY, records_of, run_command
from grids import GRID, watch_of

from benchmark import work
from benchmark.claims import Claims, start_time
from benchmark.failures import Failure
from benchmark.run import run_cell
from benchmark.watch import GridWatch

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _sigterm_is_put_back():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def folder_with_data(folder: Path, seed: int) -> Path:
    """Write a small CIFAR-10 of random images."""
    folder.mkdir()
    noise = np.random.default_rng(seed)
    images = {name: noise.integers(0, 256, CIFAR10[name].shape, np.uint8) for name in ("train_images", "test_images")}
    np.savez(folder / "cifar10.npz", **CIFAR10 | images)
    return folder


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
        path = tmp_path / "claims" / f"{cell.run_id}.json"
        path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "1"}))
        time.sleep(20)

    monkeypatch.setattr(work, "run_cell", lose)
    work.drain(watch, claims)  # the other host stays silent, so the cell comes back
    assert "taken over by another process" in caplog.text
    assert len(records_of(tmp_path)) == 1


def test_a_folder_with_other_data_is_another_cell(tmp_path, monkeypatch):
    folders = [folder_with_data(tmp_path / name, seed) for name, seed in (("a", 0), ("b", 1))]
    arguments = ["dataset=cifar10", f"data_dir={','.join(map(str, folders))}", f"output_dir={tmp_path / 'runs'}"]
    small = ["model.width=2", "recipe.epochs=1", "method=baseline", "~method@reference"]
    assert run_command([*small, *arguments], monkeypatch, main=work.main) == 0
    records = [json.loads(record) for record in records_of(tmp_path / "runs").values()]
    assert len({record["data_fingerprint"] for record in records}) == 2
    assert len({record["scientific_hash"] for record in records}) == 1


def test_a_folder_without_data_fails_and_the_other_one_does_not(tmp_path, monkeypatch, capsys):
    folder_with_data(tmp_path / "b", 1)
    (tmp_path / "a").write_text("no folder")
    arguments = ["dataset=cifar10", f"data_dir={tmp_path}/a,{tmp_path}/b", f"output_dir={tmp_path / 'runs'}"]
    small = ["model.width=2", "recipe.epochs=1", "method=baseline", "~method@reference"]
    assert run_command([*small, *arguments], monkeypatch, main=work.main) == 1
    assert "error: 1 of 2 cells failed:\n" in capsys.readouterr().err
    assert len(records_of(tmp_path / "runs")) == 1


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
def test_sigterm_ends_the_workers_too(tmp_path):
    grid = [*GRID, "recipe.epochs=100000", f"output_dir={tmp_path}"]
    parent = subprocess.Popen([sys.executable, "-m", "benchmark.work", "workers=2", *grid], cwd=ROOT)
    deadline = time.monotonic() + 300
    while not list((tmp_path / "claims").glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    listed = subprocess.run(["ps", "-A", "-o", "ppid=,pid="], capture_output=True, text=True).stdout.splitlines()
    children = [int(line.split()[1]) for line in listed if line.split()[0] == str(parent.pid)]
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(timeout=60) == 1
    assert len(children) >= 2
    deadline = time.monotonic() + 10
    while any(map(start_time, children)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(start_time, children))
    assert list((tmp_path / "claims").glob("*.json")) == []


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
