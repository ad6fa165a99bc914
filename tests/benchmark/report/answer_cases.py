"""Records of small studies whose answer is known, without any run."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmark.files import content_hash
from benchmark.records import RunRecord, to_lines

AWAY = {"baseline": 0.20, "ssd": 0.02, "finetune": 0.06, "amnesiac": 0.10}  # distance of every metric to the retrained


def make_record(method: str, value: float, *, seeds: tuple[int, int, int] = (0, 0, 0), **changed: str) -> RunRecord:
    """Return a record whose D_r, D_f and MIA are `value`, of seeds (train, split, method); `changed` are labels."""
    labels = {"dataset": "cifar20", "model": "resnet18", "task": "class", "target": "veg", "method": method,
              "protocol": "strict", "profile": "quick", "ablation": "none"} | changed  # fmt: skip
    original = content_hash([labels["dataset"], labels["protocol"], seeds[0]])
    named = content_hash([labels, seeds])
    return RunRecord(
        run_id=named, scientific_hash=named, labels=labels, data_fingerprint="d",
        hyperparameters={"reset": "all" if labels["protocol"] == "strict" else "head"} if method == "retrain" else {},
        seeds=dict(zip(("train_seed", "split_seed", "method_seed"), seeds, strict=True)),
        metrics=dict.fromkeys(("retain_accuracy", "forget_accuracy", "mia"), value),
        seconds={"load": 1.0, "method": 1.0, "evaluation": 1.0},
        sizes={"forget_train": 100, "retain_train": 900, "forget_test": 20, "retain_test": 180, "parameters": 700_000},
        provenance={"device": "A CPU", "precision": "float32", "dirty": False, "finished": "2026-11-27T10:00:00+00:00"},
        original={"test_accuracy": 0.9, "epochs": 4, "sha256": original},
    )  # fmt: skip


def study(away: Mapping[str, float] = AWAY, n: int = 3, *, spread: float = 0.001, **labels: str) -> list[RunRecord]:
    """Return n train seeds of methods that lie so far above the retrained model, give or take `spread`.

    The retrained model moves by 0.01 per seed, so two of them lie 1 or 2 points apart.
    """
    noise = np.random.default_rng(0)
    records = []
    for seed in range(n):
        truth = 0.5 + 0.01 * seed
        records.append(make_record("retrain", truth, seeds=(seed, 0, seed), **labels))
        for method, distance in away.items():
            value = truth + distance + spread * noise.normal()
            records.append(make_record(method, value, seeds=(seed, 0, seed), **labels))
    return records


def drawn(away: Mapping[str, float], *, spread: float = 0.001) -> list[RunRecord]:
    """Return a study of the random task, in which each train seed draws another forget set."""
    records = study(away, spread=spread, task="random", target="random")
    return [replace(x, seeds={**x.seeds, "split_seed": x.seeds["train_seed"]}) for x in records]


def commit(records: Iterable[RunRecord], folder: Path, experiment: str = "table3") -> None:
    """Write a folder of results that holds the records."""
    folder.mkdir(parents=True)
    (folder / "records.jsonl").write_text(to_lines(list(records)))
    (folder / "report.json").write_text(json.dumps({"kind": "table", "experiment": experiment, "overrides": [[]]}))
