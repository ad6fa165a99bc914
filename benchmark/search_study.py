"""A study that is killed, continued and shared by processes, and still ends with exactly n complete trials."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import optuna
from filelock import FileLock
from optuna.distributions import BaseDistribution
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from datasets.files import host_name, is_running

log = logging.getLogger(__name__)
Space = dict[str, BaseDistribution]
Evaluate = Callable[[Mapping[str, Any]], tuple[float, Mapping[str, Any]]]
PULSE_SECONDS = 10.0  # between two signs of life of a running trial
DEAD_SECONDS = 60.0  # without a sign of life, on another machine; clocks agree better than that
POLL_SECONDS = 0.5
LIVE = (TrialState.COMPLETE, TrialState.RUNNING)


def open_storage(storage: str) -> BaseStorage:
    """Return the storage at a database URL (with ://) or in a journal file; ValueError where it cannot be opened."""
    try:
        if "://" in storage:
            if storage.startswith("sqlite:///"):
                return open_sqlite(storage)
            return RDBStorage(storage)
        Path(storage).parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(storage))
    except (SQLAlchemyError, OptunaError, ImportError, OSError) as error:
        raise ValueError(
            f"Expected search.storage to be a database's URL or a file for a journal, but it cannot be opened "
            f"({type(error).__name__}: {error})."
        ) from error


def open_sqlite(url: str) -> RDBStorage:
    """Return a SQLite storage; its write-ahead log spares ten waits for the disk a trial and survives kills as well."""
    path = Path(url.removeprefix("sqlite:///"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # of two processes that make the tables at once, one would fail
        storage = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})

    def fast(connection: Any, _: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    storage.engine.dispose()  # the connection that made the tables
    event.listen(storage.engine, "connect", fast)
    return storage


def run_trials(
    study: optuna.Study, space: Space, evaluate: Evaluate, *, n_trials: int, max_failures: int,
    report: Callable[[FrozenTrial], None] = lambda trial: None,
) -> None:  # fmt: skip
    """Run trials until the study has `n_trials` complete ones, those of other processes and earlier starts included.

    `evaluate` takes parameters by name and returns the value and what is kept beside it. A trial with non-finite
    numbers is pruned, so that the sampler avoids its neighbourhood; one with another error is failed; neither counts,
    and `max_failures` of them in a row end the search.

    Raises:
        RuntimeError: too many failures in a row.
    """
    failures = 0
    while True:
        trials = bury_the_dead(study)
        complete = sum(trial.state == TrialState.COMPLETE for trial in trials)
        if complete >= n_trials:
            return
        if sum(trial.state in LIVE for trial in trials) >= n_trials:
            time.sleep(POLL_SECONDS)  # other processes are at the last ones
            continue
        trial = study.ask(space)
        with pulse(study, trial):
            if not has_place(study, trial, n_trials):
                withdraw(study, trial, "another process had the last place")
                continue
            run_trial(study, trial, evaluate)
        finished = study.trials[trial.number]
        report(finished)
        failures = 0 if finished.state == TrialState.COMPLETE else failures + 1
        if failures >= max_failures:
            raise RuntimeError(
                f"Expected trials to succeed, but {failures} in a row failed, the last one by: "
                f"{finished.user_attrs.get('error', 'its process was taken for dead')}; narrow search.parameters."
            )


def run_trial(study: optuna.Study, trial: Trial, evaluate: Evaluate) -> None:
    """Evaluate the trial's parameters and tell the study."""
    try:
        value, kept = evaluate(trial.params)
        with not_finished():
            for name, item in kept.items():
                trial.set_user_attr(name, item)
        study.tell(trial, value, skip_if_finished=True)
    except Exception as error:
        state = TrialState.PRUNED if isinstance(error, FloatingPointError) else TrialState.FAIL
        withdraw(study, trial, f"{type(error).__name__}: {error}", state)
    except BaseException:
        withdraw(study, trial, "interrupted")
        raise


def withdraw(study: optuna.Study, trial: Trial, reason: str, state: TrialState = TrialState.FAIL) -> None:
    """Finish a trial without a value."""
    with not_finished():
        trial.set_user_attr("error", reason)
    study.tell(trial, state=state, skip_if_finished=True)


def has_place(study: optuna.Study, trial: Trial, n_trials: int) -> bool:
    """Return whether fewer than `n_trials` older trials are complete or running.

    Numbers are given out one by one. So of any n + 1 trials that complete, the youngest had n older ones that were
    running or complete when it asked: it would have been sent away. No process needs a lock for that.
    """
    older = [other for other in study.get_trials(deepcopy=False, states=LIVE) if other.number < trial.number]
    return len(older) < n_trials


@contextmanager
def pulse(study: optuna.Study, trial: Trial) -> Iterator[None]:
    """Say in the storage who runs the trial and, now and then, that it is alive."""
    stop = Event()

    def beat() -> None:
        while not stop.wait(PULSE_SECONDS):
            sign()

    def sign() -> None:
        with not_finished():
            trial.set_user_attr("alive", [host_name(), os.getpid(), time.time()])

    sign()
    thread = Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def not_finished() -> Iterator[None]:
    """Skip the rest of the body where another process took the trial for dead and finished it."""
    try:
        yield
    except UpdateFinishedTrialError:
        log.warning("another process took a trial of this one for dead; it does not count")


def bury_the_dead(study: optuna.Study) -> list[FrozenTrial]:
    """Fail the running trials whose process is gone; return all trials."""
    trials = study.get_trials(deepcopy=False)
    dead = [trial for trial in trials if trial.state == TrialState.RUNNING and is_dead(trial)]
    for trial in dead:
        study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    return study.get_trials(deepcopy=False) if dead else trials


def is_dead(trial: FrozenTrial) -> bool:
    """Return whether a running trial's process is gone: from this host, or without a sign of life for a minute."""
    started = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
    host, pid, seen = trial.user_attrs.get("alive", ("", 0, started))
    return (host == host_name() and not is_running(pid)) or time.time() - seen > DEAD_SECONDS
