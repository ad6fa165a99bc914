"""One run, one record: a JSON file whose presence says that the run is done."""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import pandas as pd

from benchmark.files import content_hash, set_aside, write_atomically

log = logging.getLogger(__name__)
FORMER = {"identity": "labels", "config_hash": "scientific_hash"}  # names of fields in older records


@dataclass(frozen=True)
class RunRecord:
    """What one run was, what it measured and how long it took.

    Attributes:
        run_id: hash of `scientific_hash` and the data's fingerprint.
        scientific_hash: hash of the scientific part of the configuration (no paths, launcher or device).
        labels: names of data set, model, task, target, method, protocol and profile.
        hyperparameters: the method's own configuration.
        seeds: `train_seed`, `split_seed`, `method_seed`.
        metrics: fractions; None where a metric is not defined. Empty where the method skipped the task.
        seconds: by phase; `method` is the sum of `importance_full`, `importance_forget` and `rest`.
        sizes: samples per split and parameters.
        skipped: why the method does not apply to the task.
    """

    run_id: str
    scientific_hash: str
    labels: Mapping[str, str]
    hyperparameters: Mapping[str, Any]
    seeds: Mapping[str, int]
    metrics: Mapping[str, float | None]
    seconds: Mapping[str, float]
    sizes: Mapping[str, int]
    provenance: Mapping[str, Any]
    data_fingerprint: str
    original: Mapping[str, Any]
    skipped: str | None = None

    def write(self, folder: Path) -> Path:
        """Write the record atomically; numbers that are not finite are refused."""
        bad = [name for name, value in self.metrics.items() if value is not None and not math.isfinite(value)]
        if bad:
            raise FloatingPointError(f"Expected finite metrics, but got none for {', '.join(bad)}.")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.run_id}.json"
        values = asdict(self)
        text = json.dumps(values | {"checksum": content_hash(values)}, indent=1, allow_nan=False)
        write_atomically(path, text + "\n")
        return path

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a record; ValueError where the file is none, or not as it was written."""
        try:
            values = json.loads(path.read_text())
            checksum = values.pop("checksum", None)  # records of the first version have none
            if checksum not in (None, content_hash(values)):
                raise ValueError("its content does not fit its checksum")
            record = cls(**{FORMER.get(name, name): value for name, value in values.items()})
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"Expected {path} to be a run record, but it is not ({error}); delete it and run again."
            ) from error
        if record.run_id != path.stem:
            raise ValueError(f"Expected {path} to hold run {path.stem}, but it holds {record.run_id}; delete it.")
        return record

    @classmethod
    def find(cls, path: Path) -> Self | None:
        """Return the record, or None where there is none yet; a damaged one is set aside and counts as none."""
        if not path.exists():
            return None
        try:
            return cls.read(path)
        except ValueError as error:
            set_aside(path, reason=error.__cause__ or error)
            return None

    def row(self) -> dict[str, Any]:
        """Return the record as one flat row; columns are named `part.key`, labels by its bare names."""
        row: dict[str, Any] = dict(self.labels)
        for part in fields(self):
            value = getattr(self, part.name)
            if part.name == "labels":
                continue
            if isinstance(value, Mapping):
                row |= {f"{part.name}.{name}": x for name, x in flatten(value).items()}
            else:
                row[part.name] = value
        return row


def flatten(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested mappings as one with dotted names; lists become JSON."""
    flat: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, Mapping):
            flat |= {f"{name}.{inner}": x for inner, x in flatten(item).items()}
        else:
            flat[name] = json.dumps(item) if isinstance(item, list) else item
    return flat


def run_id(scientific_hash: str, data_fingerprint: str) -> str:
    """Return the name of a run: the same scientific on the same data has the same name."""
    return content_hash([scientific_hash, data_fingerprint])


def load_records(folder: Path) -> list[RunRecord]:
    """Return every record below `folder`, sorted by run id; a damaged one is named and counts as missing."""
    records = []
    for path in sorted(folder.glob("*.json")):
        try:
            records.append(RunRecord.read(path))
        except ValueError as error:
            log.warning("%s", error)
    return records


def to_frame(records: list[RunRecord]) -> pd.DataFrame:
    """Return one row per record."""
    return pd.DataFrame([record.row() for record in records])
