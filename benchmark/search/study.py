"""A study on Optuna's own parts: it is killed, continued and shared by processes."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import MaxTrialsCallback, Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from benchmark.search.space import Space, suggest

log = logging.getLogger(__name__)
Evaluate = Callable[[Mapping[str, Any]], tuple[float, Mapping[str, Any]]]
HEARTBEAT_SECONDS, DEAD_SECONDS = 10, 60  # a running trial without a sign of life for so long is failed


def open_storage(storage: str) -> BaseStorage:
    """Return the storage at a database URL (with ://) or in a journal file; ValueError if it cannot be opened.

    A journal has no signs of life: the trial of a killed process stays `running` in it, and does not count.
    """
    try:
        if "://" in storage:
            return open_database(storage)
        Path(storage).parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(storage))
    except (SQLAlchemyError, OptunaError, ImportError, OSError) as error:
        raise ValueError(
            f"Expected search.storage to be a database's URL or a file for a journal, but it cannot be opened "
            f"({type(error).__name__}: {error})."
        ) from error


def open_database(url: str) -> RDBStorage:
    """Return a database; SQLite gets a write-ahead log, which spares ten waits for the disk per trial."""
    connect = partial(RDBStorage, url, heartbeat_interval=HEARTBEAT_SECONDS, grace_period=DEAD_SECONDS)
    if not url.startswith("sqlite:///"):
        return connect()
    path = Path(url.removeprefix("sqlite:///"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # of two processes that make the tables at once, one would fail
        storage = connect(engine_kwargs={"connect_args": {"timeout": 60}})

    def fast(connection: Any, _: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    storage.engine.dispose()  # the connection that made the tables
    event.listen(storage.engine, "connect", fast)
    return storage


def run_trials(
    study: Study, space: Space, evaluate: Evaluate, *, n_trials: int, max_failures: int, callbacks: Sequence[Any] = ()
) -> None:
    """Run trials until the study has `n_trials` complete ones, those of other processes and earlier starts included.

    `evaluate` takes parameters by name and returns the value and what is kept beside it. A trial with non-finite
    numbers is pruned, one with another error is failed; neither counts. `callbacks` are Optuna's.

    Raises:
        RuntimeError: `max_failures` trials in a row failed.
    """
    failures = 0

    def objective(trial: Trial) -> float:
        values = {name: suggest(trial, name, distribution) for name, distribution in space.items()}
        try:
            value, kept = evaluate(values)
        except Exception as error:
            trial.set_user_attr("error", f"{type(error).__name__}: {error}")
            if isinstance(error, FloatingPointError):
                raise optuna.TrialPruned from error
            raise
        for name, item in kept.items():
            trial.set_user_attr(name, item)
        return value

    def bound_failures(study: Study, trial: FrozenTrial) -> None:
        nonlocal failures
        failures = 0 if trial.state == TrialState.COMPLETE else failures + 1
        if failures >= max_failures:
            raise RuntimeError(
                f"Expected trials to succeed, but {failures} in a row failed, the last one by: "
                f"{trial.user_attrs.get('error')}; narrow search.parameters."
            )

    callbacks = [*callbacks, bound_failures, MaxTrialsCallback(n_trials)]
    while n_complete(study) < n_trials:
        try:
            study.optimize(objective, catch=(Exception,), callbacks=callbacks)
        except (UpdateFinishedTrialError, ValueError) as error:  # of `tell`; those of `evaluate` are caught
            failures += 1
            if failures >= max_failures:
                raise
            log.warning("another process took a trial of this one for dead; it does not count (%s)", error)


def n_complete(study: Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
