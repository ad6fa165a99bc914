"""The loop over trials, without any model."""

import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from benchmark import search_study
from benchmark.search_space import NumberedTPE, search_space, with_values
from benchmark.search_study import bury_the_dead, open_storage, run_trials
from datasets.files import host_name

SPACE = {"x": FloatDistribution(0.1, 100, log=True), "y": FloatDistribution(0.1, 5)}
optuna.logging.set_verbosity(optuna.logging.ERROR)


def value(values):
    return (values["x"] - 3) ** 2 + (values["y"] - 1) ** 2, {"note": 1}


def make_study(storage=None, seed=0):
    return optuna.create_study(
        study_name="s", storage=storage and open_storage(storage), sampler=NumberedTPE(seed), load_if_exists=True
    )


def points(study):
    return [tuple(trial.params.values()) for trial in study.trials]


def work(storage, evaluate):
    run_trials(make_study(storage), SPACE, evaluate, n_trials=25, max_failures=3)


def slowly(values):
    time.sleep(0.02)
    return value(values)


@pytest.mark.parametrize("storage", ["sqlite:///{}/s.db", "{}/s.journal"])
def test_workers_together_end_with_exactly_n_complete_trials(storage, tmp_path):
    storage = storage.format(tmp_path)
    with ThreadPoolExecutor(3) as workers:  # a connection and a sampler each, as processes have
        for worker in [workers.submit(work, storage, slowly) for _ in range(3)]:
            worker.result()
    trials = make_study(storage).trials
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(complete) == 25
    assert len({trial.params["x"] for trial in complete}) == 25


def test_a_trial_without_a_place_is_sent_away():
    study = make_study()
    older = [study.ask() for _ in range(3)]
    mine = study.ask()
    study.tell(older[0], state=TrialState.FAIL)
    assert search_study.has_place(study, mine, 3)
    assert not search_study.has_place(study, mine, 2)


def test_the_trial_of_a_dead_process_does_not_count():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    study = make_study()
    study.ask(SPACE).set_user_attr("alive", [host_name(), process.pid, time.time()])
    run_trials(study, SPACE, value, n_trials=3, max_failures=3)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]


@pytest.mark.parametrize("host", ["elsewhere", platform.node(), f"{host_name()}1"])
def test_silence_elsewhere_means_death(host):
    """On another machine, in another container of this one, or under a name as an older version wrote it."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    study = make_study()
    for seconds in (5, 500):
        study.ask().set_user_attr("alive", [host, process.pid, time.time() - seconds])
    assert [trial.state.name for trial in bury_the_dead(study)] == ["RUNNING", "FAIL"]


def test_a_trial_that_others_took_for_dead_does_not_stop_its_process():
    study = make_study()

    def overtaken(values):
        if len(study.trials) == 1:
            study.tell(0, state=TrialState.FAIL)
        return value(values)

    run_trials(study, SPACE, overtaken, n_trials=2, max_failures=3)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]


def test_a_running_trial_shows_signs_of_life(monkeypatch):
    monkeypatch.setattr(search_study, "PULSE_SECONDS", 0.01)
    study = make_study()
    trial = study.ask()
    with search_study.pulse(study, trial):
        first = study.trials[0].user_attrs["alive"]
        time.sleep(0.2)
    last = study.trials[0].user_attrs["alive"]
    assert first[:2] == last[:2] == [host_name(), os.getpid()]
    assert last[2] > first[2]


def test_failures_are_bounded_and_an_error_is_told():
    def broken(values):
        raise ValueError("no luck")

    study = make_study()
    with pytest.raises(RuntimeError, match="4 in a row failed, the last one by: ValueError: no luck"):
        run_trials(study, SPACE, broken, n_trials=50, max_failures=4)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * 4


def test_an_interrupt_leaves_no_running_trial():
    def interrupted(values):
        raise KeyboardInterrupt

    study = make_study()
    with pytest.raises(KeyboardInterrupt):
        run_trials(study, SPACE, interrupted, n_trials=2, max_failures=3)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL]


def test_the_sampler_is_seeded_by_trial_number_whoever_runs_it(tmp_path):
    storage = f"sqlite:///{tmp_path}/s.db"
    whole = make_study()
    run_trials(whole, SPACE, value, n_trials=16, max_failures=3)
    for n_trials in (3, 12, 16):  # three starts of one search
        run_trials(make_study(storage), SPACE, value, n_trials=n_trials, max_failures=3)
    assert points(make_study(storage)) == points(whole)
    other = make_study(seed=1)
    run_trials(other, SPACE, value, n_trials=1, max_failures=3)
    assert points(other)[0] != points(whole)[0]


def test_tpe_finds_what_random_search_does_not():
    study = make_study()
    run_trials(study, SPACE, value, n_trials=50, max_failures=3)
    first, last = (sorted(t.value for t in study.trials[part]) for part in (slice(10), slice(40, 50)))
    assert last[5] < first[5]
    assert study.best_value < 0.5


METHOD = OmegaConf.create({"_target_": "x", "alpha": 10, "recipe": {"lr": 0.1, "name": "adam"}})


def test_parameters_become_distributions():
    parameters = [
        {"name": "alpha", "low": 1, "high": 10, "log": True},
        {"name": "recipe.lr", "low": 1, "high": 4, "integer": True},
        {"name": "recipe.name", "choices": ["adam", "sgd"]},
    ]
    assert search_space(parameters, METHOD) == {
        "alpha": FloatDistribution(1.0, 10.0, log=True),
        "recipe.lr": IntDistribution(1, 4),
        "recipe.name": CategoricalDistribution(["adam", "sgd"]),
    }


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ({"name": "beta", "low": 1, "high": 2}, r"values of the method \(alpha, recipe.lr, recipe.name\)"),
        ({"name": "recipe", "low": 1, "high": 2}, "values of the method"),
        ({"name": "alpha", "low": 0, "high": 2, "log": True}, "alpha in search.parameters"),
        ({"name": "alpha", "low": 1}, "low < high or choices"),
        ({"name": "alpha", "low": 1.5, "high": 2, "integer": True}, "bounds of an integer"),
        ({"name": "alpha", "low": 1, "high": 2, "choices": [1]}, "no low and high"),
        ({"low": 1, "high": 2}, "no name"),
    ],
)
def test_wrong_parameters_are_named(parameter, message):
    with pytest.raises(ValueError, match=message):
        search_space([parameter], METHOD)


def test_values_reach_nested_places_and_the_original_stays():
    changed = with_values(METHOD, {"recipe.lr": 0.5})
    assert (changed.recipe.lr, METHOD.recipe.lr, changed.alpha) == (0.5, 0.1, 10)
