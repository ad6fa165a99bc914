"""Everything a person sees of a run or a sweep: the plan, a line per finished cell, the failures."""

import logging
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from benchmark.cell import Cell
from benchmark.cli import Failure, describe, duration
from benchmark.compose import cells_of, varying
from benchmark.files import content_hash
from benchmark.records import RunRecord

if TYPE_CHECKING:
    from benchmark.artefacts import Artefact

log = logging.getLogger(__name__)
NOUNS = {"original": "original", "model": "unlearned model", "outputs": "set of outputs"}


class GridCallback(Callback):
    """Hydra callback of the process that the user started, whichever launcher runs the cells."""

    def __init__(self) -> None:
        self.cells: list[Cell] = []
        self.waiting: dict[str, Cell] = {}  # by run id
        self.wanted: dict[str, list[Artefact]] = {}  # by run id, of the waiting cells
        self.names: dict[str, str] = {}  # by scientific hash: the cell's name and what varies beside it
        self.failures: dict[str, Failure] = {}  # by scientific hash too
        self.finished = 0

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Say how many cells there are, and how many artefacts those without a record still need."""
        try:
            overrides = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)  # each cell resolves its own
            self.cells = cells_of(cast("list[str]", overrides), like=config)
            folders = sorted({str(cell.config.output_dir) for cell in self.cells})
            if len(folders) != 1:
                raise ValueError(f"Expected one output_dir for all cells, but got {', '.join(folders)}.")
            self.waiting = {cell.run_id: cell for cell in self.cells if not is_done(cell)}
            varies = varying(self.cells)
            self.names = {
                cell.scientific_hash: f"{cell} {varies[cell.scientific_hash]}".rstrip() for cell in self.cells
            }
            total, to_run = len(self.cells), self._n_waiting()
            plan = f"{total} cell{'s' if total > 1 else ''}: {total - to_run} done, {to_run} to run"
            log.info("%s%s", plan, self._to_make())
        except Exception as error:
            sys.exit(f"error: {describe(error)}")
        if not self.waiting:
            sys.exit(0)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Print the cell's numbers, or why it failed."""
        outcome = job_return._return_value
        self.finished += 1
        counter = f"[{self.finished}/{len(self.cells)}] " if self.cells else ""
        key = Cell(job_return.cfg).scientific_hash if self.cells and job_return.cfg else ""
        if isinstance(outcome, Failure):
            self.failures[key] = outcome
            if self.cells:
                log.error("%s%s: failed: %s", counter, self.names[key], outcome.reason)
        elif isinstance(outcome, RunRecord):
            was_waiting = self.waiting.pop(outcome.run_id, None)
            log.info("%s%s%s", counter, summary(outcome, self.names.get(key)), self._left() if was_waiting else "")
        elif outcome is not None:
            log.info("%s%s", counter, outcome)

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """End a failed single run with its reason and exit code 1."""
        for failure in self.failures.values():
            sys.exit(f"error: {failure.reason}")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Name the cells without a record; exit code 1 if there are some."""
        if config.stage != "record":
            missing = [cell for cell in self.cells if cell.scientific_hash in self.failures]
        else:
            missing = [cell for cell in self.cells if not cell.record_path.exists()]
        if missing:
            lines = [f"  {self.names[cell.scientific_hash]}: {self._reason(cell)}" for cell in missing]
            sys.exit("\n".join([f"error: {len(missing)} of {len(self.cells)} cells failed:", *lines]))

    def _reason(self, cell: Cell) -> str:
        failure = self.failures.get(cell.scientific_hash)
        return failure.reason if failure else "its process ended before it was done"

    def _n_waiting(self) -> int:
        return sum(cell.run_id in self.waiting for cell in self.cells)

    def _missing(self) -> "list[Artefact]":
        """Return the artefacts that are still to be made."""
        if not self.waiting:
            return []
        from benchmark import artefacts, pipeline  # torch, only if there is something to make
        from benchmark.workbench import Workbench

        for run_id, cell in self.waiting.items():
            if run_id not in self.wanted:  # planned once: this is asked after every cell
                self.wanted[run_id] = pipeline.wanted(Workbench(cell))
        store = artefacts.Store(Path(self.cells[0].config.output_dir) / "artefacts")
        return store.missing(*(node for run_id in self.waiting for node in self.wanted[run_id]))

    def _to_make(self) -> str:
        """Return the counts by kind: `; to make: 2 originals, 36 sets of outputs`."""
        counts = Counter(node.kind for node in self._missing())
        parts = [f"{n} {NOUNS[kind] if n == 1 else plural(NOUNS[kind])}" for kind, n in counts.items()]
        return f"; to make: {', '.join(parts)}" if parts else ""

    def _left(self) -> str:
        """Return the time that is left, from the stored facts of finished artefacts like those that are missing."""
        missing = self._missing()
        if not missing:
            return ""
        from benchmark import artefacts

        store = artefacts.Store(Path(self.cells[0].config.output_dir) / "artefacts")
        spent: dict[object, list[float]] = {}
        for kind in {node.kind for node in missing}:
            for facts in store.facts(kind):
                for name in (kind, likeness(kind, facts["key"])):
                    spent.setdefault(name, []).append(artefacts.seconds_of(facts))
        seconds = 0.0
        for node in missing:
            like = spent.get(likeness(node.kind, node.key)) or spent.get(node.kind)
            if not like:
                return ""
            seconds += sum(like) / len(like)
        return f"  about {duration(seconds)} left"


def is_done(cell: Cell) -> bool:
    """Return whether nothing is left to do: the record is there and, with `save=model`, the unlearned model.

    A stage is never done: it says where its artefact lies.
    """
    if cell.config.stage != "record" or (record := RunRecord.find(cell.record_path)) is None:
        return False
    if cell.config.save is None or record.skipped is not None:
        return True
    from benchmark import pipeline
    from benchmark.workbench import Workbench

    bench = Workbench(cell)
    return bench.store.has(pipeline.unlearned(bench))


def likeness(kind: str, key: Mapping[str, Any]) -> str:
    """Return a name that artefacts share if they take about the same time: kind and method."""
    return f"{kind} {content_hash(key.get('method'))}"


def plural(noun: str) -> str:
    """Return the plural of a noun of `NOUNS`.

    >>> plural("original"), plural("set of outputs")
    ('originals', 'sets of outputs')
    """
    head, _, rest = noun.partition(" of ")
    return f"{head}s of {rest}" if rest else f"{head}s"


def summary(record: RunRecord, name: str | None = None) -> str:
    """Return one line with the record's names, or the one that a sweep gives it, and its main numbers."""
    labels = record.labels
    head = name or " ".join(labels[part] for part in ("dataset", "model", "task", "target", "method"))
    head += ": " if name else f" seed {record.seeds['method_seed']}: "
    if record.skipped is not None:
        return f"{head}skipped, {record.skipped}"
    shown = {"D_r": "retain_accuracy", "D_f": "forget_accuracy", "MIA": "mia"}
    numbers = [
        f"{short} {100 * value:.1f} %"
        for short, name in shown.items()
        if (value := record.metrics.get(name)) is not None
    ]
    return f"{head}{', '.join(numbers)}, method {record.seconds['method']:.1f} s"
