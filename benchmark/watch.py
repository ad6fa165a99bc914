"""What a person sees of a grid that several processes compute: one line for each cell as its record appears."""

import logging
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmark.cell import Cell
from benchmark.failures import Failure, FailureNotes
from benchmark.grid import Plan, duration, make_plan
from benchmark.records import RunRecord

log = logging.getLogger(__name__)


class Pace:
    """The estimated time that a plan still takes, from how the estimates of the finished cells came out."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.start = time.monotonic()
        self.spent = 0.0  # estimated seconds of the cells that are finished

    def finish(self, config_hash: str) -> str:
        """Count a cell as finished; return how long the rest will take, in words."""
        if config_hash not in self.plan.seconds:
            return ""
        self.spent += self.plan.seconds[config_hash]
        left = sum(self.plan.seconds.values()) - self.spent
        if left <= 0 or self.spent <= 0:  # nothing that was planned to take time is finished yet
            return ""
        return f"  {duration(left * (time.monotonic() - self.start) / self.spent)} left"


class GridWatch:
    """The cells of a grid in one output folder, whoever computes them."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        folders = {str(cell.config.output_dir) for cell in cells}
        if len(folders) != 1:
            raise ValueError(f"Expected one output_dir for all cells, but got {', '.join(sorted(folders))}.")
        self.folder = Path(folders.pop())
        self.cells = {cell.config_hash: cell for cell in cells}
        self.notes = FailureNotes(self.folder / "failed")
        self.paths = {name: path for name, cell in self.cells.items() if (path := record_path(cell)) is not None}
        # These and the failures below have been told; a damaged record is set aside, and its cell computed again.
        self.done = {name for name in self.recorded() if RunRecord.find(self.paths[name]) is not None}
        self.failures: dict[str, Failure] = {}
        self._polling = threading.Lock()
        self.pace = Pace(make_plan(list(self.cells.values())))
        log.info("%s", self.pace.plan)

    def recorded(self) -> set[str]:
        """Return the cells with a record. Lists the folder: a shared one may remember that a single file is missing."""
        folder = self.folder / "records"
        present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        return {name for name, path in self.paths.items() if path.name in present}

    def poll(self) -> None:
        """Print the cells that were finished or have failed since the last call."""
        with self._polling:
            self._poll()

    def _poll(self) -> None:
        for name in sorted(self.recorded() - self.done, key=list(self.cells).index):
            self.done.add(name)
            self.failures.pop(name, None)
            log.info("%s%s%s", self._counter(), summary(RunRecord.read(self.paths[name])), self.pace.finish(name))
        for name, failure in self.notes.read().items():
            if name in self.cells and name not in self.done and name not in self.failures:
                self.failures[name] = failure
                log.error("%s%s: failed: %s", self._counter(), failure.cell, failure.reason)

    def keep_polling(self, stop: threading.Event, seconds: float = 1.0) -> None:
        """Poll until `stop` is set; for a thread."""
        while not stop.wait(seconds):
            self.poll()

    def _counter(self) -> str:
        return f"[{len(self.done | set(self.failures))}/{len(self.cells)}] "

    def pending(self) -> list[str]:
        """Return the cells that have neither a record nor failed, in the order of the grid."""
        settled = self.done | set(self.failures)
        return [name for name in self.cells if name not in settled]

    def end(self) -> None:
        """Name the cells without a record; exit code 1 where there are some."""
        self.poll()
        exit_with_missing(list(self.cells.values()), self.failures)


def exit_with_missing(cells: Sequence[Cell], failures: Mapping[str, Failure]) -> None:
    """End with exit code 1 and a line for each cell that has no record, where there are some.

    `failures` says why, by config hash.
    """
    lines = []
    for cell in cells:
        path = record_path(cell)
        if path is None or not path.exists():
            failure = failures.get(cell.config_hash)
            lines.append(f"  {cell}: {failure.reason if failure else 'its process ended before it was done'}")
    if lines:
        sys.exit("\n".join([f"error: {len(lines)} of {len(cells)} cells failed:", *lines]))


def record_path(cell: Cell) -> Path | None:
    """Return where the cell's record belongs; None where its data cannot be loaded: it will fail for that reason."""
    try:
        return cell.record_path
    except Exception:
        return None


def summary(record: RunRecord) -> str:
    """Return one line with the record's names and main numbers."""
    names = record.identity
    head = " ".join(names[part] for part in ("dataset", "model", "task", "target", "method"))
    head += f" seed {record.seeds['method_seed']}: "
    if record.skipped is not None:
        return f"{head}skipped, {record.skipped}"
    shown = {"D_r": "retain_accuracy", "D_f": "forget_accuracy", "MIA": "mia"}
    numbers = [
        f"{short} {100 * value:.1f} %"
        for short, name in shown.items()
        if (value := record.metrics.get(name)) is not None
    ]
    return f"{head}{', '.join(numbers)}, method {record.seconds['method']:.1f} s"
