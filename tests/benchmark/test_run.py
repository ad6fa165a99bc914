"""End to end on the digits: sweep, second start, stages, saved models."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from command_line import TINY, records_of, run_command
from safetensors.torch import load_file

from benchmark.compose import cells_of
from benchmark.files import content_hash
from benchmark.records import RunRecord

ROOT = Path(__file__).parents[2]
GRID = ["experiment=demo", "protocol=paper", *TINY, "case=digits_class", "method_seed=0,1"]
GRID += ["method=retrain,baseline,finetune,ssd"]
ONE = [*TINY, "method=baseline", "~method@reference"]
NUMBERS = {"retain_accuracy", "forget_accuracy", "mia", "js_distance", "gap", "zrf", "changed_fraction"}


def read_all(folder: Path) -> list[RunRecord]:
    return [RunRecord.read(path) for path in sorted((folder / "records").glob("*.json"))]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder in which the whole tiny demo grid was run."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        assert run_command([*GRID, f"output_dir={folder}"], patch) == 0
    return folder


def test_one_record_per_cell(finished):
    records = read_all(finished)
    assert len(records) == 8
    assert {(r.labels["method"], r.seeds["method_seed"]) for r in records} == {
        (method, seed) for method in ("baseline", "retrain", "finetune", "ssd") for seed in (0, 1)
    }
    assert len({r.original["sha256"] for r in records}) == 1  # protocol paper: one original
    assert len(list((finished / "artefacts" / "outputs").glob("*.json"))) == 8
    retrained = [r.metrics for r in records if r.labels["method"] == "retrain"]
    assert {(metrics["gap"], metrics["js_distance"]) for metrics in retrained} == {(0, 0)}


def test_a_record_says_everything(finished):
    record = next(r for r in read_all(finished) if r.labels["method"] == "ssd")
    assert set(record.metrics) >= NUMBERS | {"auc", "tow", "attack.threshold", "mia_interval.difference"}
    parts = [record.seconds[name] for name in ("importance_full", "importance_forget", "rest")]
    assert record.seconds["method"] == pytest.approx(sum(parts))
    assert record.seconds["importance_full"] > 0
    assert set(record.seconds) >= {"load", "original", "evaluation"}
    assert record.hyperparameters["alpha"] == 5.0
    assert content_hash(record.scientific) == record.scientific_hash
    (cell,) = cells_of(record.overrides)
    assert cell.run_id == record.run_id
    assert record.sizes["forget_train"] + record.sizes["retain_train"] == 60
    assert set(record.provenance) >= {"commit", "dirty", "torch", "device", "precision"}


def test_a_second_start_computes_nothing(finished, monkeypatch, caplog):
    caplog.set_level("INFO")
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.json")}
    assert run_command([*GRID, f"output_dir={finished}"], monkeypatch) == 0
    assert "8 cells: 8 done, 0 to run" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*.json")} == before


FINISHED = """
import sys
from benchmark.cli import run_cli
from benchmark.run import main
run_cli(main)
assert "torch" not in sys.modules, "torch"
"""


def test_a_finished_cell_needs_neither_torch_nor_data(finished):
    one = [*TINY, "case=digits_class", "protocol=paper", "method=ssd", "method_seed=1"]
    command = [sys.executable, "-c", FINISHED, *one, f"output_dir={finished}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("digits resnet18 class upright_2 ssd seed 1: D_r ")


def test_a_stage_prints_the_path_of_what_it_made(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    arguments = ["-m", *TINY, "method=baseline,finetune", "stage=original", f"output_dir={tmp_path}"]
    assert run_command(arguments, monkeypatch) == 0
    (path,) = tmp_path.rglob("*.safetensors")
    assert caplog.messages[-2:] == [f"[1/2] {path}", f"[2/2] {path}"]
    assert records_of(tmp_path) == {}


@pytest.mark.parametrize("method", ["baseline", "retrain", "ssd"])
def test_the_unlearned_model_is_written_and_four_lines_load_it(method, finished, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    file = tmp_path / "new" / "model.safetensors"
    words = [*TINY, "case=digits_class", "protocol=paper", f"method={method}", f"save_model={file}"]
    before = records_of(finished)
    assert run_command([*words, f"output_dir={finished}"], monkeypatch) == 0
    assert records_of(finished) == before
    (message,) = [
        message for message in caplog.messages if message.startswith(f"unlearned model: {file}; to load it, ")
    ]
    _, *lines = message.splitlines()
    assert len(lines) == 4
    loaded = {}
    exec("\n".join(lines), loaded)
    assert not loaded["model"].training
    assert torch.equal(loaded["model"].fc.weight, load_file(file)["fc.weight"])


def test_a_forced_run_unlearns_again_also_if_its_model_is_saved(tmp_path, monkeypatch):
    words = [*TINY, "method=finetune", f"output_dir={tmp_path}", f"save_model={tmp_path / 'model.safetensors'}"]
    assert run_command(words, monkeypatch) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("artefacts/*/*.json")}
    assert run_command([*words, "force=true"], monkeypatch) == 0
    again = [path for path, time in before.items() if path.stat().st_mtime_ns != time]
    assert sorted(path.parent.name for path in again) == ["model", "outputs"]
    (model,) = (path for path in again if path.parent.name == "model")
    assert run_command([*words[:-1], "force=true"], monkeypatch) == 0
    assert not model.exists()  # else a later run would save a model of other code


def test_a_method_that_skips_the_task_writes_no_model(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    file = tmp_path / "model.safetensors"
    words = [*TINY, "task=random", "task.n=5", "method=unsir", f"save_model={file}", f"output_dir={tmp_path}"]
    assert run_command(words, monkeypatch) == 0
    assert caplog.messages[0] == f"no unlearned model in {file}: the method skips the task"
    assert "skipped, " in caplog.messages[1]
    assert not file.exists()


def test_a_single_run_shows_the_original_and_the_retrained_model_beside_its_own(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    words = [*TINY, "method=finetune", f"output_dir={tmp_path}"]
    assert run_command(words, monkeypatch) == 0
    _, *rows = caplog.messages[-1].splitlines()
    heads = ["original", "retrained", "Finetune", "gap:", "Finetune", "record:", "table:"]
    assert [row.split()[0] for row in rows] == heads
    assert [record.labels["method"] for record in read_all(tmp_path)].count("finetune") == 1
    assert {record.labels["method"] for record in read_all(tmp_path)} == {"baseline", "retrain", "finetune"}
    again = caplog.messages[-1]
    assert run_command(words, monkeypatch) == 0
    assert caplog.messages[-1] == again


@pytest.mark.parametrize("multirun", [[], ["-m"]], ids=["single", "sweep"])
def test_paths_start_where_the_command_was_started(tmp_path, monkeypatch, multirun):
    monkeypatch.chdir(tmp_path)
    arguments = [*multirun, *ONE, "output_dir=runs", "hydra.job.chdir=true"]
    assert run_command(arguments, monkeypatch) == 0
    assert Path.cwd() == tmp_path
    assert len(records_of(tmp_path / "runs")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_flags_may_stand_anywhere(tmp_path, monkeypatch):
    assert run_command([*ONE, "-m", f"output_dir={tmp_path}"], monkeypatch) == 0
    assert len(records_of(tmp_path)) == 1


def test_a_reader_that_has_enough_ends_the_help_silently():
    command = [sys.executable, "-m", "benchmark.search", "--help"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141


@pytest.mark.slow
@pytest.mark.parametrize("words", [["benchmark.run"], ["benchmark.search", "search=ssd"]], ids=["run", "search"])
def test_an_interrupted_command_says_one_line_and_leaves_no_process(words, tmp_path):
    command = [sys.executable, "-m", *words, "recipe.epochs=999", f"output_dir={tmp_path}"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not list(tmp_path.rglob("*.lock")):  # it trains
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    assert process.stderr.read().splitlines()[-1] == "stopped; run the same command again to continue."
    assert process.wait() == 130
    left = subprocess.run(["ps", "-A", "-o", "sid=,stat=,args="], capture_output=True, text=True).stdout.splitlines()
    assert [row for row in left if row.split()[:1] == [str(process.pid)] and " Z" not in row] == []


def test_hydra_says_what_it_knows():
    command = [sys.executable, "-m", "benchmark.run", "--info", "defaults"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "| method/ssd " in done.stdout
    assert done.stderr == ""


def test_started_as_a_file():
    done = subprocess.run([sys.executable, "benchmark/run.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip() == "error: start this from the root of the repository as `python -m benchmark.run`."


@pytest.mark.slow
def test_ssd_forgets_in_the_demo(tmp_path, monkeypatch):
    arguments = ["experiment=demo", "case=digits_class", "method=ssd", "method_seed=0", "~method@reference"]
    assert run_command([*arguments, f"output_dir={tmp_path}"], monkeypatch) == 0
    (record,) = read_all(tmp_path)
    assert record.metrics["forget_accuracy"] <= 0.1
    assert record.metrics["retain_accuracy"] >= 0.9
