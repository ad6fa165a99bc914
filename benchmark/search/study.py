"""The trials of a search, on Optuna's own parts: a study is killed, continued and shared by processes."""

import json
import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from omegaconf import DictConfig, OmegaConf
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.study import MaxTrialsCallback, Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from benchmark import budget
from benchmark.budget import OutOfBudgetError
from benchmark.cli import duration
from benchmark.files import content_hash
from benchmark.sources import outdated
from datasets.files import locked
from datasets.seeding import derive_seed

log = logging.getLogger(__name__)
Parameters = Sequence[Mapping[str, Any]]  # each with name and either low and high (log, integer) or choices
Evaluate = Callable[[Mapping[str, Any]], tuple[float, Mapping[str, Any]]]
OWN = re.compile(r"search-.+-[0-9a-f]{16}")  # the names of this suite's studies
BEGIN = b'{"op_code":0,'  # of a journal: it makes a study
HEARTBEAT_SECONDS, DEAD_SECONDS = 10, 60  # a running trial without a sign of life for so long is failed


def open_storage(storage: str) -> BaseStorage:
    """Return the storage at a database URL (with ://) or in a journal file.

    ValueError if it cannot be opened, or if the file is there and holds something else than studies of this suite.
    A journal has no signs of life: the trial of a killed process stays `running` in it, and does not count.
    """
    if storage in ("sqlite://", "sqlite:///", "sqlite:///:memory:"):
        return InMemoryStorage()
    database = partial(RDBStorage, storage, heartbeat_interval=HEARTBEAT_SECONDS, grace_period=DEAD_SECONDS)
    path = Path(storage.removeprefix("sqlite:///"))
    try:
        if "://" in storage and not storage.startswith("sqlite:///"):
            return database()
        path.parent.mkdir(parents=True, exist_ok=True)
        if "://" not in storage:
            check_file(path, studies_in_journal)
            return JournalStorage(Journal(storage, Repairing(storage)))
        with locked(path.with_suffix(".lock"), f"opening {path.name}"):  # of two that make the tables one would fail
            check_file(path, studies_in_database)
            return database(engine_kwargs={"creator": partial(connect, path)})
    except (SQLAlchemyError, sqlite3.Error, OptunaError, ImportError, OSError, LookupError, TypeError) as error:
        raise ValueError(
            f"Expected search.storage to be a database's URL or a file for a journal, but it cannot be opened "
            f"({type(error).__name__}: {error})."
        ) from error


def check_file(path: Path, studies_in: Callable[[Path], list[str]]) -> None:
    """Raise ValueError unless there is no such file yet, or an empty one, or one with a study of this suite."""
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        return
    try:
        if not path.is_file():
            raise ValueError("it is no regular file")
        names = studies_in(path)
        if names and not any(map(OWN.fullmatch, names)):
            raise ValueError(f"it holds {', '.join(names)}")
    except (ValueError, LookupError, TypeError, sqlite3.Error) as error:
        raise ValueError(
            f"Expected search.storage to be a new file or one with a study of this suite, but {path} is neither "
            f"({error}); choose another name."
        ) from error


def studies_in_journal(path: Path) -> list[str]:
    """Return the study that a journal begins with; none if its process died while it wrote the first line."""
    with path.open("rb") as file:
        line = file.readline(1_000_000)
    if not line.endswith(b"\n") and BEGIN.startswith(line[: len(BEGIN)]):
        return []
    return [json.loads(line)["study_name"]]


def studies_in_database(path: Path) -> list[str]:
    """Return the studies in an SQLite file; none if its process died after it made the tables."""
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=60)
    try:
        ((state,), *_) = connection.execute("PRAGMA integrity_check")
        if state != "ok":
            raise ValueError(f"it is damaged: {state}")
        return [name for (name,) in connection.execute("SELECT study_name FROM studies")]
    finally:
        connection.close()


class Repairing(JournalFileSymlinkLock):
    """A journal's lock, which drops the half-written last line of a process that died or had no space."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = Path(path)

    def acquire(self) -> bool:
        """Wait for the lock; then the journal ends with a whole line."""
        super().acquire()
        with self.path.open("r+b") as file:
            end = kept = file.seek(0, os.SEEK_END)
            while kept and file.seek(kept - 1) is not None and file.read(1) != b"\n":
                kept -= 1
            if kept < end:
                log.warning("dropped the half-written last line of %s", self.path)
                file.truncate(kept)
        return True


class Journal(JournalFileBackend):
    """A journal whose errors name its file."""

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """Yield the lines from this number on; ValueError for a damaged one."""
        try:
            yield from super().read_logs(log_number_from)
        except ValueError as error:
            raise ValueError(
                f"Expected {self._file_path} to be a journal of Optuna, but a line is damaged ({error}); restore it "
                f"or set search.storage=ANOTHER."
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
        OutOfBudgetError: the budget has no time for another trial, see `check_time`.
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
        trial.set_user_attr("checksum", content_hash([trial.number, trial.params, [value], kept]))
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
        check_time(study, n_trials)

    check_time(study, n_trials, first=True)
    while n_complete(study) < n_trials:
        try:
            study.optimize(objective, catch=(Exception,), callbacks=[after_trial, MaxTrialsCallback(n_trials)])
        except (UpdateFinishedTrialError, ValueError) as error:  # of `tell`; those of `evaluate` are caught
            failures += 1
            if failures >= max_failures:
                raise
            log.warning("another process took a trial of this one for dead; it does not count (%s)", error)


def check_time(study: Study, n_trials: int, *, first: bool = False) -> None:
    """Raise OutOfBudgetError if a trial is missing and the budget has no time for one like the longest one so far.

    Args:
        first: of this process: like the shortest one, so that a single long trial does not end every start.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    seconds = [trial.duration.total_seconds() for trial in complete if trial.duration]
    needed, missing = (min if first else max)(seconds, default=0.0), n_trials - len(complete)
    if missing > 0 and needed >= budget.left():
        time = f"; one takes about {duration(needed)}" if seconds else ""
        raise OutOfBudgetError(f"{missing} of {n_trials} trials{time}")


def check_trials(study: Study) -> None:
    """Raise ValueError if the numbers of a complete trial, or of the configured values, changed in the storage."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        kept = dict(trial.user_attrs)
        if kept.pop("checksum", None) != content_hash([trial.number, trial.params, trial.values, kept]):
            raise damaged(f"trial {trial.number}")
    default = dict(study.user_attrs.get("default", {}))
    if default and default.pop("checksum", None) != content_hash(default):
        raise damaged("the trial of the configured values")


def check_code(study: Study, code: Mapping[str, str], *, reuse: bool) -> None:
    """Keep the hashes of the code behind a study's trials; ValueError if it has trials of other code, but for `reuse`.

    A study of an older version has none, and gets today's.
    """
    if not (changed := outdated(study.user_attrs.get("code", code), code)):
        study.set_user_attr("code", dict(code))
    elif reuse:
        log.warning("the search has trials of another version of %s; they count", ", ".join(changed))
    else:
        raise ValueError(
            f"Expected all trials of the search to come from the same code, but {', '.join(changed)} changed since; "
            f"set search.storage=ANOTHER to search anew, or reuse=true to let the old trials count."
        )


def damaged(trial: str) -> ValueError:
    return ValueError(
        f"Expected {trial} of the search to be as it was written, but its numbers do not fit its checksum; restore "
        f"the storage, or set search.storage=ANOTHER."
    )


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
