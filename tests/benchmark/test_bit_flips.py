"""A flipped bit of any file that a run or a search rests on is found, or changes nothing."""

import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import optuna
import pytest
import torch
from sqlalchemy.exc import SQLAlchemyError

from benchmark.artefacts import Artefact, Store
from benchmark.records import RunRecord, read_lines, to_lines
from benchmark.search.study import NumberedTPE, check_trials, open_storage, run_trials
from benchmark.training_state import StoredTraining

pytestmark = pytest.mark.filterwarnings("ignore")
STUDY = "search-ssd-0123456789abcdef"
RECORD = RunRecord(
    run_id="0123456789abcdef", scientific_hash="0" * 16, labels={"dataset": "digits"}, hyperparameters={"alpha": 10.5},
    seeds={"method_seed": 0}, metrics={"retain_accuracy": 0.912, "mia": None}, seconds={"method": 1.5}, sizes={},
    provenance={"commit": "abc", "dirty": False}, data_fingerprint="f", original={"sha256": "0"}, code={"a": "b"},
)  # fmt: skip
NODE = Artefact(
    "outputs", {"seed": 1}, lambda: ({"w": torch.arange(40.0)}, {"changed_fraction": 0.012, "seconds": 2.5}),
    code={"mine": "one"},
)  # fmt: skip
Read = Callable[[Path], Any]  # folder -> the content; None or an error if it is damaged


def record(folder: Path) -> tuple[Path, Read]:
    return RECORD.write(folder), lambda folder: RunRecord.find(folder / f"{RECORD.run_id}.json")


def lines(folder: Path) -> tuple[Path, Read]:
    path = folder / "records.jsonl"
    path.write_text(to_lines([RECORD, RECORD]))
    return path, lambda folder: read_lines(folder / path.name)


def artefact(folder: Path, suffix: str) -> tuple[Path, Read]:
    def read(folder: Path) -> Any:
        store = Store(folder)
        found = store._load(store.path(NODE))
        return found and (found[0]["w"].tolist(), sorted(found[1].items(), key=str))

    Store(folder).get(NODE)
    return Store(folder).path(NODE).with_suffix(suffix), read


def state(folder: Path) -> tuple[Path, Read]:
    def read(folder: Path) -> Any:
        kept = StoredTraining(folder, every=0)._newest()
        return kept and (kept["epoch"], kept["model"]["weight"].tolist(), kept["random"].tolist())

    network, random = torch.nn.Linear(3, 2), torch.Generator().manual_seed(1)
    StoredTraining(folder, every=0).keep(1, network, torch.optim.SGD(network.parameters()), random)
    (path,) = folder.glob("*.pt")
    return path, read


def search(folder: Path, storage: str) -> tuple[Path, Read]:
    def study(folder: Path) -> optuna.Study:
        return optuna.create_study(
            study_name=STUDY, storage=open_storage(storage.format(folder)), sampler=NumberedTPE(0), load_if_exists=True
        )

    def evaluate(values: Any) -> tuple[float, dict[str, Any]]:
        return values["x"] ** 2, {"retain_accuracy": values["x"] / 100, "seconds": {"trial": 0.5}}

    def read(folder: Path) -> Any:
        again = study(folder)
        check_trials(again)
        trials = again.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        return {(trial.number, repr(trial.params), trial.value, repr(sorted(trial.user_attrs))) for trial in trials}

    run_trials(study(folder), [{"name": "x", "low": 0.1, "high": 90.0}], evaluate, n_trials=4, max_failures=1)
    path = Path(storage.format(folder).removeprefix("sqlite:///"))
    if "://" in storage:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path, read


FILES: dict[str, Callable[[Path], tuple[Path, Read]]] = {
    "record": record,
    "records.jsonl": lines,
    "facts": lambda folder: artefact(folder, ".json"),
    "tensors": lambda folder: artefact(folder, ".safetensors"),
    "state of a training": state,
    "journal": lambda folder: search(folder, "{}/s.journal"),
    "SQLite": lambda folder: search(folder, "sqlite:///{}/s.db"),
}


def outcomes(kind: str, folder: Path, n: int) -> Counter[str]:
    """Return how many of `n` flips were found, how many changed nothing, and how many passed."""
    random, counts = Random(kind), Counter()
    whole, now = folder / "whole", folder / "now"
    whole.mkdir()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    original, read = FILES[kind](whole)
    expected = read(whole)
    data, beside = original.read_bytes(), shutil.ignore_patterns("*-wal", "*-shm", "*.lock")
    shutil.copytree(whole, now, ignore=beside)
    assert read(now) == expected  # so a flip, and not the copy, is found
    for _ in range(n):
        shutil.rmtree(now)
        shutil.copytree(whole, now, ignore=beside)
        flipped, at = bytearray(data), random.randrange(len(data))
        flipped[at] ^= 1 << random.randrange(8)
        (now / original.relative_to(whole)).write_bytes(flipped)
        try:
            found = read(now)
        except (ValueError, SQLAlchemyError, optuna.exceptions.OptunaError):
            found = None
        if found is None:
            counts["found"] += 1
        elif found == expected or (isinstance(found, set) and found <= expected):  # a lost trial is run again
            counts["harmless"] += 1
        else:
            counts[f"passed at byte {at}"] += 1
    return counts


@pytest.mark.parametrize("kind", FILES)
def test_a_flipped_bit_is_found_or_harmless(kind, tmp_path):
    n = 6 if kind in ("journal", "SQLite") else 40
    assert set(outcomes(kind, tmp_path, n)) <= {"found", "harmless"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_two_thousand_flipped_bits_are_found_or_harmless(kind, tmp_path):
    counts = outcomes(kind, tmp_path, 286)
    print(f"{kind}: {dict(counts)}")
    assert set(counts) <= {"found", "harmless"}
