"""Trials, parameters and objectives, without any model."""

import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import optuna
import pytest
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from sqlalchemy import text

from benchmark.files import content_hash
from benchmark.search.objective import score_objective
from benchmark.search.run import check_parameters
from benchmark.search.study import (
    NumberedTPE,
    check_code,
    check_trials,
    n_complete,
    open_storage,
    run_trials,
    suggest,
    with_values,
)  # fmt: skip

NAME = "search-ssd-0123456789abcdef"
PARAMETERS = [{"name": "x", "low": 0.1, "high": 100, "log": True}, {"name": "y", "low": 0.1, "high": 5}]
METHOD = {"_target_": "m", "alpha": 10, "beta": None, "recipe": {"_target_": "r", "lr": 0.1, "name": "adam"}}
optuna.logging.set_verbosity(optuna.logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning", "ignore:Heartbeat of storage")


def value(values):
    return (values["x"] - 3) ** 2 + (values["y"] - 1) ** 2, {"note": 1.0}


def make_study(storage=None, seed=0):
    return optuna.create_study(
        study_name=NAME, storage=storage and open_storage(storage), sampler=NumberedTPE(seed), load_if_exists=True
    )


def run(study, evaluate=value, n_trials=3, max_failures=3):
    run_trials(study, PARAMETERS, evaluate, n_trials=n_trials, max_failures=max_failures)


def states(study):
    return [trial.state.name for trial in study.trials]


def points(study):
    return [tuple(trial.params.values()) for trial in study.trials]


@pytest.mark.parametrize("storage", ["sqlite:///{}/new/s.db", "{}/new/s.journal"])
def test_workers_share_a_study(storage, tmp_path):
    storage = storage.format(tmp_path)

    def slowly(values):
        time.sleep(0.02)
        return value(values)

    with ThreadPoolExecutor(3) as workers:  # a connection and a sampler each, as processes have
        for worker in [workers.submit(lambda: run(make_study(storage), slowly, n_trials=12)) for _ in range(3)]:
            worker.result()
    complete = [trial for trial in make_study(storage).trials if trial.state == TrialState.COMPLETE]
    assert 12 <= len(complete) <= 14  # each of the other two may be at one more
    assert len({trial.params["x"] for trial in complete}) == len(complete)


def test_sqlite_writes_ahead_and_a_trial_without_a_sign_of_life_does_not_count(tmp_path):
    study = make_study(f"sqlite:///{tmp_path}/s.db")
    trial = study.ask()
    study._storage.record_heartbeat(trial._trial_id)
    long_ago = datetime.now(UTC) - timedelta(minutes=5)
    with study._storage._backend.engine.begin() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        connection.execute(text("UPDATE trial_heartbeats SET heartbeat = :at"), {"at": long_ago.replace(tzinfo=None)})
    run(study, n_trials=2)
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]


def test_a_trial_that_others_took_for_dead_does_not_stop_its_process():
    study = make_study()

    def overtaken(values):
        if len(study.trials) == 1:
            study.tell(0, state=TrialState.FAIL)
        return value(values)

    run(study, overtaken, n_trials=2)
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]


def test_failures_in_a_row_end_the_search_with_the_last_error():
    def broken(values):
        raise ValueError("no luck")

    study = make_study()
    with pytest.raises(RuntimeError, match="4 in a row failed, the last one by: ValueError: no luck"):
        run(study, broken, n_trials=50, max_failures=4)
    assert states(study) == ["FAIL"] * 4


def test_trials_with_non_finite_numbers_are_pruned_and_do_not_end_it_between_others():
    calls = []

    def fragile(values):
        calls.append(1)
        if len(calls) % 2:
            raise FloatingPointError("Expected finite logits")
        return value(values)

    study = make_study()
    run(study, fragile, n_trials=4, max_failures=2)
    assert states(study) == ["PRUNED", "COMPLETE"] * 4
    assert study.trials[0].user_attrs == {"error": "FloatingPointError: Expected finite logits"}


def test_the_sampler_is_seeded_by_trial_number_whoever_runs_it(tmp_path):
    storage = f"sqlite:///{tmp_path}/s.db"
    whole, other = make_study(), make_study(seed=1)
    run(whole, n_trials=14)
    for n_trials in (3, 12, 14):  # three starts of one search
        run(make_study(storage), n_trials=n_trials)
    assert points(make_study(storage)) == points(whole)
    run(other, n_trials=1)
    assert points(other)[0] != points(whole)[0]


def test_tpe_finds_what_random_search_does_not():
    study = make_study()
    run(study, n_trials=50)
    first, last = (sorted(t.value for t in study.trials[part]) for part in (slice(10), slice(40, 50)))
    assert last[5] < first[5]
    assert study.best_value < 0.5


def test_parameters_become_distributions():
    parameters = [
        {"name": "alpha", "low": 1, "high": 10, "log": True},
        {"name": "recipe.lr", "low": 1, "high": 4, "integer": True},
        {"name": "recipe.name", "choices": ["adam", "sgd"]},
    ]
    check_parameters(parameters, METHOD)
    trial = make_study().ask()
    assert suggest(trial, parameters) == trial.params
    assert trial.distributions == {
        "alpha": FloatDistribution(1.0, 10.0, log=True),
        "recipe.lr": IntDistribution(1, 4),
        "recipe.name": CategoricalDistribution(["adam", "sgd"]),
    }


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ([{"name": "zeta", "low": 1, "high": 2}], r"value of the method \(alpha, recipe.lr, recipe.name\)"),
        ([{"name": "recipe", "low": 1, "high": 2}], "value of the method"),
        ([{"name": "beta", "low": 1, "high": 2}], "value of the method"),
        ([{"name": "alpha", "low": 1, "high": 2}] * 2, "at most once"),
        ([], r"but got \[\]"),
        ([{"name": "alpha", "low": 0, "high": 2, "log": True}], "low > 0"),
        ([{"name": "alpha", "low": 3, "high": 2}], "low <= high"),
        ([{"name": "alpha", "low": 1}], "argument: 'high'"),
        ([{"name": "alpha", "lo": 1, "high": 2}], "argument 'lo'"),
        ([{"name": "alpha", "low": 1, "high": 2, "choices": [1]}], "argument 'low'"),
        ([{"low": 1, "high": 2}], r"\('name'\)"),
    ],
)
def test_wrong_parameters_are_named(parameters, message):
    with pytest.raises(ValueError, match=message):
        check_parameters(parameters, METHOD)


def test_values_reach_nested_places_and_the_original_stays():
    method = OmegaConf.create(METHOD)
    changed = with_values(method, {"recipe.lr": 0.5})
    assert (changed.recipe.lr, method.recipe.lr, changed.alpha) == (0.5, 0.1, 10)


def test_a_weight_of_an_unmeasured_metric_is_named():
    with pytest.raises(ValueError, match="weights and targets of mia, but got zrf"):
        score_objective({"mia": 0.5}, {}, weights={"zrf": 1.0}, targets={})


JOURNAL = "{}/s.journal"
SQLITE = "sqlite:///{}/s.db"


def test_a_half_written_last_line_of_a_journal_is_dropped_and_the_search_goes_on(tmp_path, caplog):
    storage = JOURNAL.format(tmp_path)
    run(make_study(storage), n_trials=2)
    path = tmp_path / "s.journal"
    whole = path.read_bytes()
    for torn in (b'{"op_code":5,"worker', b"{"):
        path.write_bytes(path.read_bytes() + torn)
        study = make_study(storage)
        run(study, n_trials=n_complete(study) + 1)
        assert f"dropped the half-written last line of {path}" in caplog.messages
    assert path.read_bytes().startswith(whole)
    assert states(make_study(storage)) == ["COMPLETE"] * 4
    path.write_bytes(whole[: whole.index(b"\n") // 2])  # killed while it made the study
    run(make_study(storage), n_trials=1)
    assert states(make_study(storage)) == ["COMPLETE"]


def test_an_error_of_a_journal_names_its_file(tmp_path):
    storage = JOURNAL.format(tmp_path)
    run(make_study(storage), n_trials=2)
    path = tmp_path / "s.journal"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], lines[3][:9] + b"\n", *lines[4:]]))
    with pytest.raises(ValueError, match=r"s\.journal to be a journal of Optuna, but a line is damaged"):
        make_study(storage)


def sqlite_file(path, sql="CREATE TABLE notes (text)"):
    connection = sqlite3.connect(path)
    connection.execute(sql)
    connection.commit()
    connection.close()


FOREIGN = {
    "text without a line end": (JOURNAL, lambda path: path.write_text("my notes")),
    "lines of text": (JOURNAL, lambda path: path.write_text("my\nnotes\n")),
    "another JSON": (JOURNAL, lambda path: path.write_text('{"a": 1}\n')),
    "another study": (JOURNAL, lambda path: path.write_text('{"op_code":0,"study_name":"mine","directions":[1]}\n')),
    "a folder": (JOURNAL, lambda path: path.mkdir()),
    "a pipe": (JOURNAL, lambda path: os.mkfifo(path)),
    "text as SQLite": (SQLITE, lambda path: path.write_text("my notes\n" * 100)),
    "another database": (SQLITE, sqlite_file),
    "another study in SQLite": (
        SQLITE, lambda path: sqlite_file(path, "CREATE TABLE studies AS SELECT 'mine' AS study_name"),
    ),
    "a pipe as SQLite": (SQLITE, lambda path: os.mkfifo(path)),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_of_somebody_else_is_neither_opened_nor_changed(name, tmp_path):
    storage, make = FOREIGN[name]
    path = tmp_path / storage.rpartition("/")[2]
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(ValueError, match=r"search.storage to be a new file or one with a study of this suite, but "):
        open_storage(storage.format(tmp_path))
    assert before is None or path.read_bytes() == before
    assert {found.name for found in tmp_path.iterdir()} <= {path.name, "s.lock"}


def test_a_search_in_memory_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for storage in ("sqlite:///:memory:", "sqlite://"):
        study = make_study(storage)
        run(study, n_trials=2)
        assert states(study) == ["COMPLETE"] * 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("column", "table"), [("value", "trial_values"), ("param_value", "trial_params")])
def test_a_changed_number_of_a_trial_is_found(column, table, tmp_path):
    study = make_study(SQLITE.format(tmp_path))
    run(study, n_trials=2)
    check_trials(study)
    with sqlite3.connect(tmp_path / "s.db") as connection:
        connection.execute(f"UPDATE {table} SET {column} = {column} * 1.001")
    with pytest.raises(ValueError, match="Expected trial 0 of the search to be as it was written"):
        check_trials(make_study(SQLITE.format(tmp_path)))


def test_changed_numbers_of_the_configured_values_are_found():
    study = make_study()
    study.set_user_attr("default", {"value": 0.5, "checksum": content_hash({"value": 0.4})})
    with pytest.raises(ValueError, match="the trial of the configured values"):
        check_trials(study)


def test_trials_of_other_code_count_only_if_asked_for(caplog):
    study = make_study()
    for code in ({"mine": "1"}, {"mine": "1"}):
        check_code(study, code, reuse=False)
    with pytest.raises(ValueError, match=r"the same code, but mine changed since; set search.storage=ANOTHER"):
        check_code(study, {"mine": "2"}, reuse=False)
    check_code(study, {"mine": "2"}, reuse=True)
    assert "trials of another version of mine; they count" in caplog.text
