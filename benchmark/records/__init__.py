"""One run, one record: a JSON file whose presence says that the run is done; committed records share a file."""

import json
import logging
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from benchmark.files import checked, content_hash, read_json, set_aside, write_json
from benchmark.sources import outdated, say_changed, say_other_suite, suite_hash

if TYPE_CHECKING:
    import pandas as pd

    from benchmark.cell import Cell

log = logging.getLogger(__name__)
LATER = ("scientific", "code", "overrides")  # fields that older records do not have


@dataclass(frozen=True)
class RunRecord:
    """Everything that a run was, measured and took.

    Attributes:
        run_id: hash of `scientific_hash` and the data's fingerprint.
        scientific_hash: hash of the scientific part of the configuration (no paths, launcher or device).
        labels: names of data set, model, task, target, method, protocol and profile.
        hyperparameters: the method's own configuration.
        seeds: `train_seed`, `split_seed`, `method_seed`.
        metrics: as each metric's unit says, mostly fractions; None if a metric is not defined. Several numbers of one
            metric are `name.part`. Empty if the method skipped the task.
        seconds: by phase; `method` is the sum of `importance_full`, `importance_forget` and `rest`.
        sizes: samples per split and parameters.
        skipped: why the method does not apply to the task.
        scientific: the whole scientific configuration; None in older records.
        code: hashes of the modules and files that decide the numbers beside it; None in older records.
        overrides: those that compose the run; None in older and in committed records.
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
    scientific: Mapping[str, Any] | None = None
    code: Mapping[str, str] | None = None
    overrides: Sequence[str] | None = None

    @property
    def command(self) -> str | None:
        """The command that makes the record again, as far as it is known."""
        return None if self.overrides is None else f"python -m benchmark.run {shlex.join(self.overrides)}".rstrip()

    @property
    def device(self) -> str:
        """The device that it was made on; older records say `1 threads`."""
        return re.sub(r"\b1 threads$", "1 thread", str(self.provenance["device"]))

    def content(self) -> dict[str, Any]:
        """Return the record as plain values, without the fields that an older one does not have."""
        return {name: value for name, value in asdict(self).items() if value is not None or name not in LATER}

    def write(self, folder: Path) -> Path:
        """Write the record atomically; numbers that are not finite are refused."""
        bad = [name for name, value in self.metrics.items() if value is not None and not math.isfinite(value)]
        if bad:
            raise FloatingPointError(f"Expected finite metrics, but got none for {', '.join(bad)}.")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.run_id}.json"
        write_json(path, self.content())
        return path

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a record; ValueError if the file holds none, or one that was changed."""
        try:
            record = cls(**read_json(path))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"Expected {path} to be a run record, but it is not ({error}); delete it and run again."
            ) from error
        if record.run_id != path.stem:
            raise ValueError(f"Expected {path} to hold run {path.stem}, but it holds {record.run_id}; delete it.")
        return record

    @classmethod
    def find(cls, path: Path) -> Self | None:
        """Return the record, or None if there is none yet; a damaged one is set aside and counts as none."""
        if not path.exists():
            return None
        try:
            return cls.read(path)
        except ValueError as error:
            set_aside(path, reason=error.__cause__ or error)
            return None

    def row(self) -> dict[str, Any]:
        """Return the record as one flat row; columns are named `part.key`, labels by their bare names."""
        values = asdict(self)
        if "device" in self.provenance:
            values["provenance"] = {**self.provenance, "device": self.device}
        return {**values.pop("labels"), **flatten(values)}


def record_of(cell: "Cell", *, quiet: bool = False) -> RunRecord | None:
    """Return the cell's record if it is there, made with today's code or asked for by `reuse=true`; else None.

    Args:
        quiet: say nothing of other code; the caller makes no record again.
    """
    record = RunRecord.find(cell.record_path)
    if record is None:
        return None
    if not cell.config.reuse and (changed := outdated(record.code or {}, cell.code)):
        if not quiet:
            say_changed(tuple(changed))
        return None
    if not quiet and record.provenance.get("suite") != suite_hash():
        say_other_suite(str(record.provenance.get("commit")))
    return record


def flatten(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested mappings as one with dotted names; lists become JSON."""
    flat: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, Mapping):
            flat |= {f"{name}.{inner}": x for inner, x in flatten(item).items()}
        else:
            flat[name] = json.dumps(item) if isinstance(item, list) else item
    return flat


def load_records(folder: Path) -> list[RunRecord]:
    """Return every record in `folder`, sorted by run id; a damaged one is named and counts as missing."""
    records = []
    for path in sorted(folder.glob("*.json")):
        try:
            records.append(RunRecord.read(path))
        except ValueError as error:
            log.warning("%s", error)
    return records


def to_lines(records: Sequence[RunRecord]) -> str:
    """Return one record per line, each with its checksum."""
    values = [replace(record, overrides=None).content() for record in records]
    lines = [json.dumps(value | {"checksum": content_hash(value)}, allow_nan=False) for value in values]
    return "".join(line + "\n" for line in lines)


def read_lines(path: Path) -> list[RunRecord]:
    """Return the records that `to_lines` wrote, none if there is no such file; ValueError for a damaged line."""
    records = []
    for number, line in enumerate(path.read_text("utf-8").splitlines() if path.exists() else [], start=1):
        try:
            records.append(RunRecord(**checked(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"Expected line {number} of {path} to be a run record, but it is not ({error}); restore the file."
            ) from error
    return records


def to_frame(records: Sequence[RunRecord]) -> "pd.DataFrame":
    """Return one row per record; see `RunRecord.row`."""
    import pandas as pd

    return pd.DataFrame([record.row() for record in records])
