"""Everything a person sees of a run or a sweep: the plan, a line per finished cell, the failures."""

import logging
import re
import shlex
import sys
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from benchmark import budget
from benchmark.cell import Cell, named
from benchmark.cli import Failure, Left, counted, describe, duration, wants_traceback
from benchmark.compose import cells_of, own_overrides, varying
from benchmark.progress import grid
from benchmark.records import RunRecord, record_of

if TYPE_CHECKING:
    from benchmark.artefacts import Artefact, Store

log = logging.getLogger(__name__)
NOUNS = {"original": "original", "model": "unlearned model", "outputs": "set of outputs",
         "relearn": "relearning"}  # fmt: skip


class GridCallback(Callback):
    """Hydra callback of the process that the user started, whichever launcher runs the cells."""

    def __init__(self) -> None:
        self.cells: list[Cell] = []
        self.jobs: dict[tuple[str, ...], Cell] = {}  # by the overrides of each
        self.waiting: dict[str, Cell] = {}  # by run id
        self.wanted: dict[str, list[Artefact]] = {}  # by run id, of the waiting cells
        self.names: dict[str, str] = {}  # by scientific hash: the cell's name and what varies beside it
        self.failures: dict[str, Failure] = {}  # by scientific hash too
        self.made: set[str] = set()  # scientific hashes of the cells that are done
        self.budget: str | None = None
        self.workers: int | None = 1  # None: those of a cluster
        self.finished = 0

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Say how many cells there are, and how many artefacts those without a record still need."""
        try:
            overrides = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)  # each cell resolves its own
            self.cells = cells_of(cast("list[str]", overrides), like=config)
            self.jobs = {
                tuple(word for word in cell.overrides if not word.startswith("hydra.")): cell for cell in self.cells
            }
            folders = sorted({str(cell.config.output_dir) for cell in self.cells})
            if len(folders) != 1:
                raise ValueError(f"Expected one output_dir for all cells, but got {', '.join(folders)}.")
            self._begin([cell.config for cell in self.cells])
            launcher = OmegaConf.select(config, "hydra.launcher") or {}
            self.workers = launcher.get("workers", 1)
            forget(self.cells)
            self.waiting = {cell.run_id: cell for cell in self.cells if not is_done(cell)}
            varies = varying(self.cells)
            self.names = {cell.scientific_hash: f"{cell} {varies[cell]}".rstrip() for cell in self.cells}
            total, to_run = len(self.cells), sum(cell.run_id in self.waiting for cell in self.cells)
            check_model_files(self.cells)
            log.info("%s: %d done, %d to run%s", counted(total, "cell"), total - to_run, to_run, self._to_make())
            grid.total = total
        except Exception as error:
            end_with(error)
        if not self.waiting:
            say_table()
            sys.exit(0)

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Begin the budget of a single run, and forget its results if `force=true`."""
        try:
            self._begin([config])
            if config.force:
                forget([Cell(OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"]))])
        except Exception as error:
            end_with(error)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """End a sweep in this process with its budget: composing each of the cells that are left takes a while."""
        if self.cells and budget.left() <= 0:
            self.on_multirun_end(config)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Print the cell's numbers, or why it failed."""
        outcome = job_return._return_value
        self.finished += 1
        counter = f"[{self.finished}/{len(self.cells)}] " if self.cells else ""
        cell = self.cell_of(job_return) if self.cells else None
        key = cell.scientific_hash if cell else ""
        if isinstance(outcome, Left) and self.cells:
            self.finished -= 1
        elif isinstance(outcome, Failure):
            self.failures[key] = outcome
            if cell:
                self.waiting.pop(cell.run_id, None)
                log.error("%s%s: failed: %s", counter, self.names[key], outcome.reason)
        elif isinstance(outcome, RunRecord):
            self.made.add(key)
            was_waiting = self.waiting.pop(outcome.run_id, None)
            line, left = summary(outcome, self.names.get(key)), self._left() if was_waiting else ""
            log.info("%s%s%s", counter, line, f"  {left}" if left else "")
            grid.done, grid.left = self.finished, left or grid.left
            if not self.cells and outcome.skipped is None and job_return.cfg is not None:
                log.info("%s", comparison(Cell(job_return.cfg, own_overrides(config.hydra))))
        elif outcome is not None:
            self.made.add(key)
            log.info("%s%s", counter, outcome)

    def cell_of(self, job: JobReturn) -> Cell | None:
        """Return the cell of a job of the sweep, if it got as far as that; a sweeper may make up jobs of its own."""
        cell = self.jobs.get(tuple(job.overrides or ()))
        return Cell(job.cfg) if cell is None and job.cfg else cell

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """End a failed single run with its reason and exit code 1, one that its budget ended with exit code 3."""
        for failure in self.failures.values():
            if isinstance(failure, Left):
                log.info("left by budget=%s: %s; to go on: %s", self.budget, failure.reason, command())
                sys.exit(budget.EXIT_CODE)
            sys.exit(f"error: {failure.reason}")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Name the cells that are not done: exit code 1 if some failed, 3 if the budget has left the others."""
        grid.total = 0
        if config.stage != "record":
            missing = [cell for cell in self.cells if cell.scientific_hash in self.failures]
        else:
            missing = [cell for cell in self.cells if record_of(cell) is None]  # an outdated one is none
        left = [] if self.budget is None else [c for c in self.cells if not self._is_over(c)]
        failed = [cell for cell in missing if cell not in left]
        if left:
            log.info("%s", self._to_go_on(len(left)))
        if failed:
            lines = [f"  {self.names[cell.scientific_hash]}: {self._reason(cell)}" for cell in failed]
            sys.exit("\n".join([f"error: {len(failed)} of {counted(len(self.cells), 'cell')} failed:", *lines]))
        if left:
            sys.exit(budget.EXIT_CODE)
        say_table()

    def _is_over(self, cell: Cell) -> bool:
        """Return whether a cell is done or has failed."""
        return cell.scientific_hash in self.made or cell.scientific_hash in self.failures or is_done(cell)

    def _reason(self, cell: Cell) -> str:
        failure = self.failures.get(cell.scientific_hash)
        return failure.reason if failure else "its process ended before it was done"

    def _begin(self, configs: Sequence[DictConfig]) -> None:
        """Begin the budget; ValueError for a wrong one, for several, and for a search, which another command does."""
        if name := next((config.search.name for config in configs if config.get("search") is not None), None):
            raise ValueError(
                f"Expected no search here, but got search={name}; run python -m benchmark.search search={name}."
            )
        budgets = {config.get("budget") for config in configs}
        if len(budgets) != 1:
            raise ValueError(f"Expected one budget for all cells, but got {', '.join(sorted(map(str, budgets)))}.")
        (self.budget,) = budgets
        budget.begin(self.budget)

    @property
    def _store(self) -> "Store":
        from benchmark.artefacts import Store  # torch, only if there is something to make

        return Store(Path(self.cells[0].config.output_dir) / "artefacts", reuse=bool(self.cells[0].config.reuse))

    def _missing(self) -> "list[Artefact]":
        """Return the artefacts that are still to be made."""
        if not self.waiting:
            return []
        from benchmark import pipeline
        from benchmark.workbench import Workbench

        for run_id, cell in self.waiting.items():
            if run_id not in self.wanted:  # planned once: this is asked after every cell
                self.wanted[run_id] = pipeline.planned(Workbench(cell))
        return self._store.missing(*(node for run_id in self.waiting for node in self.wanted[run_id]))

    def _to_make(self) -> str:
        """Return the counts by kind: `; to make: 2 originals, 36 sets of outputs`."""
        counts = Counter(node.kind for node in self._missing())
        parts = [counted(n, NOUNS[kind]) for kind, n in counts.items()]
        return f"; to make: {', '.join(parts)}" if parts else ""

    def _times(self) -> "list[tuple[Artefact, float | None]]":
        """Return what is missing, and the seconds that each takes as far as the stored facts say so."""
        if not (missing := self._missing()):
            return []
        from benchmark.artefacts import Times

        store = self._store
        times = Times(store, (node.kind for node in missing))
        return [
            (node, None if (all_of_it := times.of(node)) is None else all_of_it * store.share_left(node))
            for node in missing
        ]

    def _left(self) -> str:
        """Return the time that is left; nothing if nobody knows how long something takes."""
        times = self._times()
        known = [seconds for _, seconds in times if seconds is not None]
        return f"{self._until_the_end(known)} left" if known and len(known) == len(times) else ""

    def _until_the_end(self, seconds: Sequence[float]) -> str:
        """Return how long artefacts of these seconds take; on a cluster, whose machines come and go, the work."""
        if self.workers is None:
            return f"about {duration(sum(seconds))} of work"
        return f"about {duration(max(*seconds, sum(seconds) / self.workers))}"

    def _to_go_on(self, n_left: int) -> str:
        """Return the lines about that which the budget has left."""
        times = self._times()
        known = [seconds for _, seconds in times if seconds is not None]
        time = f", {'at least ' if len(known) < len(times) else ''}{self._until_the_end(known)}" if known else ""
        head = f"left by budget={self.budget}: {n_left} of {counted(len(self.cells), 'cell')}{time}{self._to_make()}"
        longest = max((seconds for node, seconds in times if seconds and not node.epochs), default=0.0)
        too_long = longest > budget.seconds_of(self.budget)
        hint = [f"one of them takes about {duration(longest)}, more than the budget: give more"] if too_long else []
        return "\n".join([head, *hint, f"to go on: {command()}"])


def command(module: str = "benchmark.run", *without: str) -> str:
    """Return the command line of this process, but for `force`, which would begin anew, and for the keys `without`."""
    words = [word for word in sys.argv[1:] if word.partition("=")[0] not in ("force", *without)]
    return shlex.join(["python", "-m", module, *words])


def say_table() -> None:
    """Name the command that makes the table of a sweep; that of an experiment has a name of its own."""
    if not any(word.startswith(("experiment=", "stage=")) for word in sys.argv[1:]):
        log.info("table: %s", command("benchmark.report", "budget", "save_model"))


def end_with(error: Exception) -> NoReturn:
    """End the process with the line of an error; Hydra makes a warning of one that leaves a callback."""
    if wants_traceback():
        traceback.print_exception(error)
    sys.exit(f"error: {describe(error)}")


def forget(cells: Sequence[Cell]) -> None:
    """Remove the outputs, the unlearned models and the records of those cells whose `force` is true."""
    for cell in cells:
        if cell.config.force:
            from benchmark import pipeline
            from benchmark.workbench import Workbench

            bench = Workbench(cell)
            for root in (pipeline.outputs(bench), pipeline.unlearned(bench)):
                for node in root.walk():
                    if node.kind != "original":
                        bench.store.remove(node)
            cell.record_path.unlink(missing_ok=True)


def is_done(cell: Cell) -> bool:
    """Return whether nothing is left to do.

    A stage is never done, and no cell whose model is saved: both say where a file lies.
    """
    if cell.config.stage != "record" or (record := record_of(cell)) is None:
        return False
    return cell.model_file is None or record.skipped is not None


def check_model_files(cells: Sequence[Cell]) -> None:
    """Raise ValueError if two cells would write their unlearned model to the same file."""
    files = {cell.run_id: cell.model_file for cell in cells}
    if (file := cells[0].model_file) is None or len(set(files.values())) == len(files):
        return
    pairs = [dict(word.split("=", 1) for word in cell.overrides if "=" in word) for cell in cells]
    nodes = {"method": "method.about.name"} | {
        name: f"{name}.name" for name in ("dataset", "model", "task", "protocol")
    }
    parts = [f"${{{nodes.get(key, key)}}}" for key in pairs[0] if len({pair.get(key) for pair in pairs}) > 1]
    raise ValueError(
        f"Expected a file for each of {len(files)} models, but got {file}; put what varies into its name: "
        f"'save_model={file.with_stem('-'.join([file.stem, *parts]))}'."
    )


def summary(record: RunRecord, name: str | None = None) -> str:
    """Return one line with the record's names, or the one that a sweep gives it, and its main numbers."""
    head = f"{name or named(record.labels, record.seeds)}: "
    if record.skipped is not None:
        return f"{head}skipped, {record.skipped}"
    shown = {"D_r": "retain_accuracy", "D_f": "forget_accuracy", "MIA": "mia"}
    numbers = [
        f"{short} {100 * value:.1f} %"
        for short, name in shown.items()
        if (value := record.metrics.get(name)) is not None
    ]
    return f"{head}{', '.join(numbers)}, method {record.seconds['method']:.1f} s"


def comparison(cell: Cell) -> str:
    """Return the numbers of a single run beside those of the original and the retrained model, and where to go on.

    The record may be older than the command: its line says when and where it was made.
    """
    beside = {"original": cell.sibling("baseline"), "retrained": cell.sibling("reference")}
    cells = {label: other for label, other in beside.items() if other is not None}
    if cell.run_id not in {other.run_id for other in cells.values()}:
        cells[cell.method_about["label"]] = cell
    about, width = cell.metric_about, max(map(len, cells))
    shown = [name for name in dict.fromkeys([*cell.config.table.metrics, "gap"]) if name in cell.config.metric]
    columns = {name: max(10, len(about[name]["label"]) + 2) for name in shown}
    lines = ["".join([" " * width, *(f"{about[name]['label']:>{columns[name]}}" for name in shown)])]
    for label, other in cells.items():
        if (record := record_of(other, quiet=True)) is None:
            command = shlex.join(["python", "-m", "benchmark.run", *other.overrides])
            lines.append(f"{label:{width}}  not made; {command}")
        else:
            values = [f"{in_unit(record.metrics.get(name), about[name]):>{columns[name]}}" for name in shown]
            lines.append("".join([f"{label:{width}}", *values]))
    if "gap" in shown:
        lines.append("gap: mean distance to the retrained model over the columns before it; 0 is the aim")
    own = RunRecord.find(cell.record_path)
    if own is not None and (share := own.metrics.get("changed_fraction")) is not None:
        lines.append(f"{cell.method_about['label']} changed {100 * share:.3g} % of the parameters")
    words = [word for word in cell.overrides if not word.startswith(("budget=", "save_model="))]
    if not any(re.match(r"\+*method\.", word) for word in words):  # which the other methods do not have
        names = dict.fromkeys(other.labels["method"] for other in cells.values())
        words = [*(word for word in words if not word.startswith("method=")), f"method={','.join(names)}"]
    table = shlex.join(["python", "-m", "benchmark.report", "-m", *words])
    return "\n".join([*lines, f"record: {cell.record_path}{'' if own is None else made(own)}", f"table: {table}"])


def made(record: RunRecord) -> str:
    """Return when and where a record was made."""
    about = record.provenance
    return f", made {about['finished'][:16].replace('T', ' ')} on {record.device}, {about['precision']}"


def in_unit(value: float | None, about: Mapping[str, Any]) -> str:
    """Return a metric's value for people, as its `about` says."""
    if value is None:
        return "–"
    return f"{about['scale'] * value:.1f} %" if about["unit"] == "percent" else f"{about['scale'] * value:.4g}"
