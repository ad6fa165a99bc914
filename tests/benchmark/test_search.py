"""Searches on a few digits through the command line."""

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from command_line import TINY, records_of, run_command
from omegaconf import OmegaConf

from benchmark import checkpoints, search
from benchmark.oldcell import OldCell as Cell
from benchmark.records import load_records

ROOT = Path(__file__).parents[2]
SMALL = [*TINY[1:], "dataset.subset.train_images=100", "dataset.subset.test_images=30"]
FILES = ["best.yaml", "importances.csv", "landscape.pdf", "landscape.png", "summary.md", "trials.csv"]


def start(arguments, folder, monkeypatch):
    words = [*SMALL, f"output_dir={folder}/runs", f"out={folder}/out/found", *arguments]
    return run_command(words, monkeypatch, main=search.main)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A finished search under protocol paper, with the number of times importances were computed."""
    folder = tmp_path_factory.mktemp("search")
    calls = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        from methods import ssd

        def counted(*arguments, **options):
            calls.append(1)
            return original(*arguments, **options)

        original = ssd.parameter_importance
        monkeypatch.setattr(ssd, "parameter_importance", counted)
        assert start(["search=ssd", "protocol=paper", "search.n_trials=12"], folder, monkeypatch) == 0
    return folder, len(calls)


def trials_of(folder):
    return pd.read_csv(folder / "out" / "found" / "trials.csv")


def test_every_file_is_there_and_nothing_per_trial(found):
    folder, _ = found
    assert sorted(path.name for path in (folder / "out" / "found").iterdir()) == FILES
    assert not (folder / "runs" / "records").exists()
    outputs = list((folder / "runs" / "artefacts" / "outputs").glob("*.json"))
    assert len(outputs) == 1  # the retrained model's


def test_importances_are_computed_once(found):
    assert found[1] == 2  # I_D and I_Df, for the configured values and twelve trials


def test_trials_are_within_the_ranges_and_differ(found):
    trials = trials_of(found[0])
    assert list(trials["state"]) == ["complete"] * 12
    assert trials["alpha"].between(0.1, 100).all()
    assert trials["lam"].between(0.1, 5).all()
    assert trials["alpha"].nunique() == 12
    assert trials[["retain_accuracy", "forget_accuracy", "mia", "changed_fraction"]].stack().between(0, 1).all()


def test_the_best_values_as_a_configuration_give_the_best_gap(found, monkeypatch):
    folder, _ = found
    trials = trials_of(folder)
    best = trials.loc[trials["value"].idxmin()]
    run = [*SMALL, "protocol=paper", f"output_dir={folder}/runs"]
    assert run_command(["--config-dir", str(folder / "out"), "+found=best", *run], monkeypatch) == 0
    summary = (folder / "out" / "found" / "summary.md").read_text()
    assert "| gap, minimize, over D_r, D_f, MIA |" in summary
    words = next(line.split() for line in summary.splitlines() if "method.alpha=" in line)
    assert words[:3] == ["python", "-m", "benchmark.run"]
    assert run_command([*words[3:], *run], monkeypatch) == 0
    (record,) = load_records(folder / "runs" / "records")  # one: both ways are the same run
    assert record.hyperparameters["alpha"] == pytest.approx(best["alpha"])
    assert record.metrics["gap"] == pytest.approx(best["value"], rel=1e-5)
    assert record.metrics["retain_accuracy"] == pytest.approx(best["retain_accuracy"], rel=1e-5)
    assert record.seconds["importance_forget"] > 0  # as first measured, in the search


def test_a_finished_search_runs_no_trial_and_a_larger_one_continues(found, tmp_path, monkeypatch):
    folder, _ = found
    before = trials_of(folder)
    start(["search=ssd", "protocol=paper", "search.n_trials=12"], folder, monkeypatch)
    pd.testing.assert_frame_equal(trials_of(folder), before)
    words = ["search=ssd", "protocol=paper", "search.n_trials=13", f"out={tmp_path}/more"]
    start(words, folder, monkeypatch)
    assert len(pd.read_csv(tmp_path / "more" / "trials.csv")) == 13


def test_strict_is_judged_on_held_out_training_images(tmp_path, monkeypatch):
    seen = []
    evaluate = checkpoints.evaluate
    monkeypatch.setattr(checkpoints, "evaluate", lambda m, s, *a, **o: seen.append(s) or evaluate(m, s, *a, **o))
    assert start(["search=ssd", "search.n_trials=2"], tmp_path, monkeypatch) == 0
    plain = search.search_cell(["search=ssd", "search.held_out=null", *SMALL, f"output_dir={tmp_path}/runs"])
    train, test = plain.dataset.train, plain.dataset.test
    for split in seen:
        judged = {*split.forget_test.index.tolist(), *split.retain_test.index.tolist()}
        learnt = {*split.forget_train.index.tolist(), *split.retain_train.index.tolist()}
        assert len(judged) == 20
        assert judged | learnt == set(train.index.tolist())
        assert not judged & learnt
        assert split.retain_test.storage is not test.storage
    assert "20 training images held out" in (tmp_path / "out" / "found" / "summary.md").read_text()


def test_an_ordinary_cell_does_not_know_of_searches():
    with_search = search.search_cell(["search=ssd", "protocol=paper"])
    assert "held_out" not in with_search.config.dataset.subset
    plain = OmegaConf.create(with_search.config)
    plain.search = None
    assert Cell(plain).scientific_hash == with_search.scientific_hash
    held = search.search_cell(["search=ssd", "protocol=strict"])
    assert held.scientific["dataset"]["held_out"] == 0.2
    open_cell = search.search_cell(["search=ssd", "protocol=strict", "search.held_out=null"])
    assert "held_out" not in open_cell.scientific["dataset"]


def test_the_score_needs_no_retrained_model(tmp_path, monkeypatch):
    words = ["search=ssd", "search/objective=score", "~method@reference", "search.n_trials=2"]
    assert start(words, tmp_path, monkeypatch) == 0
    assert not (tmp_path / "runs" / "artefacts" / "outputs").exists()
    trials = trials_of(tmp_path)
    expected = trials["retain_accuracy"] - trials["forget_accuracy"] - trials["mia"]
    assert trials["value"].to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-5)


def test_any_method_can_be_searched(tmp_path, monkeypatch):
    words = ["search=finetune", "search.n_trials=3", "search/objective=score"]
    assert start([*words, "search.storage=" + str(tmp_path / "a.journal")], tmp_path, monkeypatch) == 0
    trials = trials_of(tmp_path)
    assert trials["recipe.lr"].between(0.001, 0.2).all()
    assert trials["recipe.epochs"].isin(range(1, 11)).all()
    best = OmegaConf.load(tmp_path / "out" / "found" / "best.yaml")
    assert best.recipe.epochs == trials.loc[trials["value"].idxmax(), "recipe.epochs"]


@pytest.mark.parametrize("name", ["amnesiac", "bad_teacher", "finetune", "ssd", "unsir"])
def test_every_search_composes_and_names_parameters_of_its_method(name):
    cell = search.search_cell([f"search={name}", "protocol=paper"])
    space = search.search_space(search.content(cell.config.search.parameters), cell.config.method)
    assert space
    assert cell.labels["method"] == cell.config.search.name == name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["protocol=paper"], "Expected search=…"),
        (["search=common"], "search.parameters"),
        (["search=nothing"], "Could not find 'search/nothing'"),
        (["search=ssd", "search.n_trials=0"], "search.n_trials to be at least 1, but got 0"),
        (["search=ssd", "search.held_out=2"], "held_out to be a share between 0 and 1, but got 2"),
        (["search=ssd", "search.parameters=[{name:beta,low:1,high:2}]"], "name values of the method (alpha, lam,"),
        (["search=ssd", "search.parameters=[{name:alpha,low:3,high:2}]"], "low is not below high"),
        (["search=ssd", "search.parameters=[{name:alpha,lo:3,high:2}]"], "the unknown lo"),
        (["search=ssd", "search.objective.metrics=[f1]"], "among retain_accuracy"),
        (["search=ssd", "search.storage=nosuch://x"], "search.storage to be a database's URL or a file"),
        (["search=ssd", "~method@reference"], "use search/objective=score"),
        (["search=ssd", "requests=sequence"], "Expected one forget request to search on, but got a sequence of "),
        (["search=unsir", "task=random", "task.n=5"], "applies to the task"),
        (["search=ssd", "method_seed=0,1"], "method_seed"),
    ],
)
def test_errors_are_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    assert start(arguments, tmp_path, monkeypatch) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help(arguments, monkeypatch, capsys):
    assert run_command(arguments, monkeypatch, main=search.main) == 0
    assert "search/objective=NAME" in capsys.readouterr().out


def test_non_finite_trials_are_pruned_and_the_search_goes_on(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    unlearn = search.unlearn
    calls = []

    def fragile(*arguments, **options):
        calls.append(1)
        if len(calls) in (2, 4):  # the first call is the configured values'
            raise FloatingPointError("Expected finite logits")
        return unlearn(*arguments, **options)

    monkeypatch.setattr(search, "unlearn", fragile)
    assert start(["search=ssd", "protocol=paper", "search.n_trials=3"], tmp_path, monkeypatch) == 0
    trials = trials_of(tmp_path)
    assert list(trials["state"]) == ["pruned", "complete", "pruned", "complete", "complete"]
    assert "Expected finite logits" in trials["error"][0]
    assert "trial 0 failed" in caplog.text


def command(folder, *arguments):
    words = [*SMALL, f"output_dir={folder}/runs", f"out={folder}/out/found", "search=ssd", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "benchmark.search", *words], cwd=ROOT, env=environment)


def complete(folder):
    """The number of complete trials, read without touching the storage."""
    for path in (folder / "runs" / "searches").glob("*.db"):
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            try:
                return connection.execute("SELECT count(*) FROM trials WHERE state = 'COMPLETE'").fetchone()[0]
            except sqlite3.OperationalError:
                pass  # no tables yet
    return 0


@pytest.mark.slow
def test_a_search_that_is_killed_ends_with_n_trials(tmp_path):
    process = command(tmp_path, "search.n_trials=50")
    while complete(tmp_path) < 10:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert complete(tmp_path) < 50
    assert command(tmp_path, "search.n_trials=50").wait() == 0
    trials = trials_of(tmp_path)
    assert (trials["state"] == "complete").sum() == 50
    assert len(trials) <= 51
    assert records_of(tmp_path / "runs") == {}


@pytest.mark.slow
def test_two_processes_share_a_search(tmp_path):
    processes = [command(tmp_path, "search.n_trials=20", f"out={tmp_path}/{name}") for name in "ab"]
    assert [process.wait() for process in processes] == [0, 0]
    a, b = (pd.read_csv(tmp_path / name / "trials.csv") for name in "ab")
    pd.testing.assert_frame_equal(a, b)
    done = a[a["state"] == "complete"]
    assert len(done) == 20
    assert done["alpha"].nunique() == 20
