"""Workers that share a folder: one grid, drained together; what each one chooses, and what a person is told."""

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
from hydra import initialize_config_dir

from benchmark import work
from benchmark.claims import Claims, start_time
from benchmark.data import load_dataset
from benchmark.failures import Failure
from benchmark.grid import Plan, cells_of
from benchmark.run import CONFIGS, run_cell
from benchmark.watch import GridWatch, Pace

ROOT = Path(__file__).parents[2]
GRID = ["method=baseline,finetune", "method_seed=0,1", "~method@reference", *TINY]  # strict: an original for each seed


@pytest.fixture(autouse=True)
def _sigterm_is_put_back():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def watch_of(folder: Path, *overrides: str) -> GridWatch:
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        return GridWatch(cells_of([*GRID, f"output_dir={folder}", *overrides]))


def folder_with_data(folder: Path, seed: int) -> Path:
    """Write a small CIFAR-10 of random images."""
    folder.mkdir()
    noise = np.random.default_rng(seed)
    images = {name: noise.integers(0, 256, CIFAR10[name].shape, np.uint8) for name in ("train_images", "test_images")}
    np.savez(folder / "cifar10.npz", **CIFAR10 | images)
    return folder


def with_a_hiccup(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the data be loaded from the second time on."""
    errors = iter([RuntimeError("out of memory")])

    def fragile(*arguments):
        for error in errors:
            raise error
        return load_dataset(*arguments)

    monkeypatch.setattr("benchmark.cell.load_dataset", fragile)


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
    assert len({record["config_hash"] for record in records}) == 1


def test_a_folder_without_data_fails_and_the_other_one_does_not(tmp_path, monkeypatch, capsys):
    folder_with_data(tmp_path / "b", 1)
    (tmp_path / "a").write_text("no folder")
    arguments = ["dataset=cifar10", f"data_dir={tmp_path}/a,{tmp_path}/b", f"output_dir={tmp_path / 'runs'}"]
    small = ["model.width=2", "recipe.epochs=1", "method=baseline", "~method@reference"]
    assert run_command([*small, *arguments], monkeypatch, main=work.main) == 1
    assert "error: 1 of 2 cells failed:\n" in capsys.readouterr().err
    assert len(records_of(tmp_path / "runs")) == 1


@pytest.mark.parametrize("is_recorded", [False, True])
def test_data_that_could_not_be_loaded_at_first(is_recorded, tmp_path, monkeypatch):
    one = ["method=baseline", "method_seed=0"]
    if is_recorded:
        run_cell(next(iter(watch_of(tmp_path, *one).cells.values())))
    with_a_hiccup(monkeypatch)
    grid = watch_of(tmp_path, *one)
    (name,) = grid.pending() if not is_recorded else grid.cells
    tries = iter([run_cell])
    monkeypatch.setattr(work, "run_cell", lambda cell: next(tries, lambda _: pytest.fail("again"))(cell))
    work.drain(grid, Claims(tmp_path / "claims"))
    assert grid.done == {name}
    grid.end()


def test_a_record_of_data_that_could_not_be_loaded_at_first_is_noticed(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    one = ["method=baseline", "method_seed=0"]
    elsewhere = watch_of(tmp_path, *one)
    with_a_hiccup(monkeypatch)
    here = watch_of(tmp_path, *one)
    here.poll()
    assert len(here.pending()) == 1
    run_cell(next(iter(elsewhere.cells.values())))
    here.poll()
    assert here.pending() == []
    assert "[1/1] digits" in caplog.text


def test_a_note_by_config_hash_is_understood(tmp_path):
    grid = watch_of(tmp_path)
    name, *others = grid.pending()
    grid.notes.write(grid.cells[name].config_hash, Failure("a cell", "no memory"))  # as Hydra's launchers do
    grid.poll()
    assert grid.pending() == others


def test_a_quiet_watch_measures_no_plan(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("benchmark.watch.make_plan", pytest.fail)
    quiet = work.watch_of([*GRID, f"output_dir={tmp_path}"], quiet=True)
    assert len(quiet.pending()) == 4
    assert caplog.text == ""


def test_no_time_is_told_before_something_is_known():
    pace = Pace(Plan(3, 3, {"free": 0.0, "one": 1.0, "two": 1.0}, {}))
    assert pace.finish("free") == ""
    pace.start -= 10.0
    assert pace.finish("one") == "  10 s left"
    assert pace.finish("unknown") == ""
    assert pace.finish("two") == ""


def test_cells_of_one_hash_count_once():
    pace = Pace(Plan(2, 2, {"one": 1.0, "two": 3.0}, {}))
    pace.start -= 10.0
    assert pace.finish("one") == "  30 s left"
    assert pace.finish("one") == "  30 s left"


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
