"""The trials of a search, on Optuna's own parts: a study is killed, continued and shared by processes."""

import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from omegaconf import DictConfig, OmegaConf
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import MaxTrialsCallback, Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from benchmark import budget
from benchmark.budget import OutOfBudgetError
from benchmark.cli import duration
from datasets.seeding import derive_seed

log = logging.getLogger(__name__)
Parameters = Sequence[Mapping[str, Any]]  # each with name and either low and high (log, integer) or choices
Evaluate = Callable[[Mapping[str, Any]], tuple[float, Mapping[str, Any]]]
HEARTBEAT_SECONDS, DEAD_SECONDS = 10, 60  # a running trial without a sign of life for so long is failed


def open_storage(storage: str) -> BaseStorage:
    """Return the storage at a database URL (with ://) or in a journal file; ValueError if it cannot be opened.

    A journal has no signs of life: the trial of a killed process stays `running` in it, and does not count.
    """
    database = partial(RDBStorage, storage, heartbeat_interval=HEARTBEAT_SECONDS, grace_period=DEAD_SECONDS)
    path = Path(storage.removeprefix("sqlite:///"))
    try:
        if "://" in storage and not storage.startswith("sqlite:///"):
            return database()
        path.parent.mkdir(parents=True, exist_ok=True)
        if "://" not in storage:
            return JournalStorage(JournalFileBackend(storage))
        with FileLock(path.with_suffix(".lock")):  # of two processes that make the tables at once, one would fail
            return database(engine_kwargs={"creator": partial(connect, path)})
    except (SQLAlchemyError, sqlite3.Error, OptunaError, ImportError, OSError) as error:
        raise ValueError(
            f"Expected search.storage to be a database's URL or a file for a journal, but it cannot be opened "
            f"({type(error).__name__}: {error})."
        ) from error


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection with a write-ahead log, which spares ten waits for the disk per trial."""
    connection = sqlite3.connect(path, timeout=60, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


class NumberedTPE(TPESampler):
    """Optuna's TPE, seeded afresh by (seed, number of the trial); Optuna itself seeds a sampler once per process.

    So no two trials of a study share random numbers, whichever process or restart runs them, and a search that is
    killed between trials proposes the same as an undisturbed one. Running trials of other processes count as bad ones
    (constant liar), which keeps processes apart.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed, multivariate=True, constant_liar=True)
        self._search_seed = seed

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        seed = derive_seed("search", self._search_seed, trial.number) % 2**32
        super().__init__(seed=seed, multivariate=True, constant_liar=True)
        super().before_trial(study, trial)


def suggest(trial: Trial, parameters: Parameters) -> dict[str, Any]:
    """Return the trial's value of each parameter."""
    return {options["name"]: suggest_one(trial, options) for options in parameters}


def suggest_one(trial: Trial, options: Mapping[str, Any]) -> Any:
    kind = "categorical" if "choices" in options else "int" if options.get("integer") else "float"
    return getattr(trial, f"suggest_{kind}")(**{key: value for key, value in options.items() if key != "integer"})


def with_values(method: Any, values: Mapping[str, Any]) -> DictConfig:
    """Return a copy of the method's configuration with other values at the dotted paths."""
    changed: DictConfig = OmegaConf.create(method)
    for name, value in values.items():
        OmegaConf.update(changed, name, value)
    return changed


def run_trials(study: Study, parameters: Parameters, evaluate: Evaluate, *, n_trials: int, max_failures: int) -> None:
    """Run trials until the study has `n_trials` complete ones, those of other processes and earlier starts included.

    `evaluate` takes parameters by name and returns the value and what is kept beside it. A trial with non-finite
    numbers is pruned, one with another error is failed; neither counts.

    Raises:
        RuntimeError: `max_failures` trials in a row failed.
        OutOfBudgetError: the budget has no time for another trial like the last one.
    """
    failures = 0

    def objective(trial: Trial) -> float:
        try:
            value, kept = evaluate(suggest(trial, parameters))
        except Exception as error:
            trial.set_user_attr("error", f"{type(error).__name__}: {error}")
            if isinstance(error, FloatingPointError):
                raise optuna.TrialPruned from error
            raise
        for name, item in kept.items():
            trial.set_user_attr(name, item)
        return value

    def after_trial(study: Study, trial: FrozenTrial) -> None:
        nonlocal failures
        failures = 0 if trial.state == TrialState.COMPLETE else failures + 1
        log.info(describe(study, trial, n_trials))
        if failures >= max_failures:
            raise RuntimeError(
                f"Expected trials to succeed, but {failures} in a row failed, the last one by: "
                f"{trial.user_attrs.get('error')}; narrow search.parameters."
            )
        check_time((trial.duration or timedelta()).total_seconds())

    def check_time(seconds: float) -> None:
        if seconds >= budget.left() and n_complete(study) < n_trials:
            raise OutOfBudgetError(f"{n_trials - n_complete(study)} of {n_trials} trials")

    check_time(0.0)
    while n_complete(study) < n_trials:
        try:
            study.optimize(objective, catch=(Exception,), callbacks=[after_trial, MaxTrialsCallback(n_trials)])
        except (UpdateFinishedTrialError, ValueError) as error:  # of `tell`; those of `evaluate` are caught
            failures += 1
            if failures >= max_failures:
                raise
            log.warning("another process took a trial of this one for dead; it does not count (%s)", error)


def describe(study: Study, trial: FrozenTrial, n_trials: int) -> str:
    """Return one line about a finished trial; value and metrics in percent."""
    values = ", ".join(f"{name} {shown(value)}" for name, value in trial.params.items())
    if trial.value is None:
        return f"trial {trial.number} failed: {values} ({trial.user_attrs.get('error')})"
    complete = n_complete(study)
    seconds = (trial.duration or timedelta()).total_seconds() * max(n_trials - complete, 0)
    metrics = ", ".join(f"{n} {100 * x:.1f}" for n, x in trial.user_attrs.items() if isinstance(x, float))
    return (
        f"[{complete}/{n_trials}] {100 * trial.value:.2f} (best {100 * study.best_value:.2f}): {values}: {metrics}; "
        f"{duration(seconds)} left"
    )


def shown(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def n_complete(study: Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
