"""The cells of a sweep, expanded as Hydra expands them, and what they will cost on this device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark import compose
from benchmark.checkpoints import store_of
from benchmark.fastest import training_speed
from benchmark.oldcell import OldCell as Cell
from benchmark.store import content_hash
from methods.base import image_passes, skip_reason

FORWARD = 1 / 3  # a forward pass costs about a third of a training pass


def cells_of(overrides: Sequence[str]) -> list[Cell]:
    """Return the composed cells of a sweep."""
    return [Cell(cell.config, cell.overrides) for cell in compose.cells_of(overrides)]


@dataclass(frozen=True)
class Plan:
    """What a grid has still to do.

    Attributes:
        total, waiting: cells, and those of them without a record.
        seconds: estimated, of each cell without a record, by config hash; cells of equal hash are computed once.
        speeds: images a second that a model trains, by what is trained on what.
    """

    total: int
    waiting: int
    seconds: dict[str, float]
    speeds: dict[str, float]

    def __str__(self) -> str:
        text = f"{self.total} cells: {self.total - self.waiting} done, {self.waiting} to run"
        if not self.seconds:
            return text
        speeds = ", ".join(f"{name} {speed:.0f} images/s" for name, speed in self.speeds.items())
        return f"{text}, about {duration(sum(self.seconds.values()))} (measured here: {speeds})"


def duration(seconds: float) -> str:
    """Return a time for people.

    >>> duration(75), duration(7300)
    ('1 min 15 s', '2 h 2 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def make_plan(cells: Sequence[Cell]) -> Plan:
    """Return the plan for `cells`.

    An original model, or the outputs of an unlearned one, that several cells share are counted for the first cell;
    an importance is counted for each.
    """
    seconds: dict[str, float] = {}
    speeds: dict[str, float] = {}
    by_model: dict[str, float] = {}
    planned: set[str] = set()
    for cell in cells:
        try:
            if cell.record_path.exists() or cell.scientific_hash in seconds:
                continue
            model = content_hash(
                [cell.scientific["model"], cell.scientific["dataset"], cell.scientific["preprocessing"]]
            )
            if model not in by_model:
                by_model[model] = training_speed(
                    cell.build_model(seed=0), cell.dataset.train, cell.recipe, preprocessing=cell.preprocessing,
                    compute=cell.compute,
                )  # fmt: skip
                speeds[f"{cell.labels['model']} on {cell.labels['dataset']}"] = by_model[model]
            seconds[cell.scientific_hash] = sum(passes(cell, planned)) / by_model[model]
        except Exception:  # the cell will fail for the same reason and say so; the others go on
            seconds[cell.scientific_hash] = 0.0
    waiting = sum(cell.scientific_hash in seconds for cell in cells)
    return Plan(len(cells), waiting, seconds, speeds)


def passes(cell: Cell, planned: set[str]) -> Iterator[float]:
    """Yield the training passes of one image that the cell needs; `planned` remembers shared artefacts."""
    split, recipe, store = cell.split, cell.recipe, store_of(cell)
    evaluation = FORWARD * (split.num_train + len(cell.dataset.test))

    def is_new(kind: str, key: dict[str, object]) -> bool:
        name = str(store.path(kind, key))
        fresh = name not in planned and not store.has(kind, key)
        planned.add(name)
        return fresh

    if is_new("original", cell.original_key):
        yield recipe.epochs * split.num_train
        if cell.config.original.checkpoint == "best_test":
            yield recipe.epochs * FORWARD * len(cell.dataset.test)
    if cell.reference_method is not None and is_new("outputs", cell.reference_key):
        yield evaluation + image_passes(cell.reference_method, split, recipe)
    if skip_reason(cell.method, split) is None and is_new("outputs", cell.outputs_key):
        yield evaluation + image_passes(cell.method, split, recipe)


def missing_artefacts(cell: Cell) -> set[Path]:
    """Return the cards that are not there yet of the artefacts that the cell rests on."""
    keys = [("original", cell.original_key)]
    if cell.reference_method is not None:
        keys.append(("outputs", cell.reference_key))
    keys.append(("outputs", cell.outputs_key))
    paths = (store_of(cell).path(kind, key) for kind, key in keys)
    return {path for path in paths if not path.exists()}
