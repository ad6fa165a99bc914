"""Which records belong to which cell, and which cells may share a column."""

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from benchmark.cell import Cell
from benchmark.records import RunRecord, flatten

SEEDS = (
    "train_seed", "split_seed", "method_seed", "task.seed",
    "method.other.method_seed", "method.other.train_seed",  # of the other retrained model
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A place in a table: a cell, a record or both. A committed record whose cell nobody names has no cell."""

    labels: Mapping[str, str]
    cell: Cell | None = None
    record: RunRecord | None = None

    @property
    def command(self) -> str | None:
        """The command that computes a missing cell and no other."""
        if self.record is not None or self.cell is None:
            return None
        return f"python -m benchmark.run {shlex.join(self.cell.overrides)}"


def places_of(cells: Sequence[Cell], committed: Sequence[RunRecord], new: Sequence[RunRecord]) -> list[Place]:
    """Return a place for every cell and every committed record.

    A record belongs to the cells of its scientific hash. A committed record of none belongs to the cell of its labels
    and seeds: it was made with an earlier configuration, and keeps its place.
    """
    by_name = {naming(cell): cell.scientific_hash for cell in reversed(cells)}
    by_hash: dict[str, list[RunRecord | None]] = {cell.scientific_hash: [] for cell in cells}
    homeless: list[RunRecord] = []
    for record in committed:
        found = record.scientific_hash if record.scientific_hash in by_hash else by_name.get(naming(record))
        (homeless if found is None else by_hash[found]).append(record)
    for record in new:
        by_hash.get(record.scientific_hash, []).append(record)
    places = [Place(cell.labels, cell, record) for cell in cells for record in by_hash[cell.scientific_hash] or [None]]
    return places + [Place(record.labels, None, record) for record in homeless]


def naming(item: Cell | RunRecord) -> tuple[object, ...]:
    return (*sorted(item.labels.items()), *sorted(item.seeds.items()))


def check_column(name: str, places: Sequence[Place], *, pooled: bool) -> None:
    """Raise a ValueError that names the difference if the places of one column differ in more than seeds.

    Args:
        pooled: whether they may differ in their targets too.
    """
    free = (*SEEDS, "task.target") if pooled else SEEDS
    records = {place.record.run_id: place.record for place in places if place.record is not None}
    cells = [flatten(place.cell.scientific) for place in places if place.cell is not None]
    advice = "give each its own out=…, or a YAML file with its own name"
    check_alike(name, cells, free, advice)
    check_records(name, records.values(), free, advice)
    by_seed: dict[tuple[object, ...], str] = {}
    for run_id, record in records.items():
        first = by_seed.setdefault((*sorted(record.seeds.items()), record.labels["target"]), run_id)
        if first != run_id:
            raise ValueError(
                f"Expected one record of {name} per seed, but got {first} and {run_id}; "
                f"drop=… takes a committed one away, drop=all all of them."
            )


def check_records(name: str, records: Collection[RunRecord], free: Collection[str], advice: str) -> None:
    """Raise a ValueError that names the difference if records differ in more than the keys of `free`."""
    by_time = sorted(records, key=lambda record: str(record.provenance.get("finished")))
    *old, last = dict.fromkeys(record.data_fingerprint for record in by_time) or [""]
    if old:
        raise ValueError(
            f"Expected the runs of {name} to be on the same data, but data_fingerprint is {', '.join(old)} and {last}; "
            f"python -m benchmark.records remove data_fingerprint={','.join(old)} takes the older runs away, drop=… or "
            f"drop=all those of the folder."
        )
    check_alike(name, [flatten(x.scientific) for x in records if x.scientific is not None], free, advice)
    check_alike(name, [flatten(shared(record)) for record in records], free, advice)


def check_alike(name: str, values: Sequence[Mapping[str, object]], free: Collection[str], advice: str) -> None:
    """Raise a ValueError that names the first difference outside `free`, and the advice."""
    for other in values[1:]:
        for key in {**values[0], **other}:
            if values[0].get(key) != other.get(key) and key not in free:
                raise ValueError(
                    f"Expected the cells of {name} to differ in nothing but seeds, but {key} is {values[0].get(key)} "
                    f"and {other.get(key)}; {advice}."
                )


def shared(record: RunRecord) -> dict[str, object]:
    """Return what all seeds of a column share, as far as a record without `scientific` tells."""
    return {
        "method": record.hyperparameters,
        "parameters": record.sizes["parameters"],
        "original.epochs": record.original["epochs"],
    }
