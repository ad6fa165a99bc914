"""What a person sees of a grid that several processes compute: one line for each cell as its record appears."""

import logging
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from benchmark.cell import content
from benchmark.failures import Failure, FailureNotes
from benchmark.grid import Plan, duration, make_plan
from benchmark.oldcell import OldCell as Cell
from benchmark.records import RunRecord
from benchmark.store import content_hash

log = logging.getLogger(__name__)


class Pace:
    """The estimated time that a plan still takes, from how the estimates of the finished cells came out."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.start = time.monotonic()
        self.finished: set[str] = set()

    def finish(self, scientific_hash: str) -> str:
        """Count the cells of this hash as finished; return how long the rest will take, in words."""
        if scientific_hash not in self.plan.seconds:
            return ""
        self.finished.add(scientific_hash)
        spent = sum(self.plan.seconds[name] for name in self.finished)
        left = sum(self.plan.seconds.values()) - spent
        if left <= 0 or spent <= 0:  # nothing that was planned to take time is finished yet
            return ""
        return f"  {duration(left * (time.monotonic() - self.start) / spent)} left"


class GridWatch:
    """The cells of a grid in one output folder, whoever computes them.

    Attributes:
        cells: by run id; where the data could not be loaded at the start, by a hash that stands for it.
        paths: where their records belong, as far as that is known.
    """

    def __init__(self, cells: Sequence[Cell], *, quiet: bool = False) -> None:
        """`quiet`: measure and print no plan."""
        folders = {str(cell.config.output_dir) for cell in cells}
        if len(folders) != 1:
            raise ValueError(f"Expected one output_dir for all cells, but got {', '.join(sorted(folders))}.")
        self.folder = Path(folders.pop())
        self.cells: dict[str, Cell] = {}
        self.paths: dict[str, Path] = {}
        for cell in cells:
            path = record_path(cell)
            name = path.stem if path else content_hash([cell.scientific_hash, content(cell.config.dataset.load)])
            self.cells[name] = cell
            if path:
                self.paths[name] = path
        self.notes = FailureNotes(self.folder / "failed")
        self._present: set[str] = set()
        self.done: set[str] = set()  # these and the failures have been told
        self.failures: dict[str, Failure] = {}
        # A damaged record is set aside, and its cell computed again.
        self.done = {name for name in self.recorded() if RunRecord.find(self.paths[name]) is not None}
        self._polling = threading.Lock()
        self.pace = Pace(Plan(len(self.cells), 0, {}, {}) if quiet else make_plan(list(self.cells.values())))
        if not quiet:
            log.info("%s", self.pace.plan)

    def find_path(self, name: str) -> bool:
        """Return whether it is known where the cell's record belongs; loads its data where that failed before."""
        path = self.paths.get(name) or record_path(self.cells[name])
        if path is not None:
            self.paths[name] = path
        return path is not None

    def recorded(self) -> set[str]:
        """Return the cells with a record. Lists the folder: a shared one may remember that a single file is missing."""
        folder = self.folder / "records"
        present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if present != self._present:  # who made the new ones had the data: try again, up to the first that still fails
            self._present = present
            all(self.find_path(name) for name in self.pending())
        return {name for name, path in self.paths.items() if path.name in present}

    def poll(self) -> None:
        """Print the cells that were finished or have failed since the last call."""
        with self._polling:
            self._poll()

    def _poll(self) -> None:
        for name in sorted(self.recorded() - self.done, key=list(self.cells).index):
            self.done.add(name)
            self.failures.pop(name, None)
            record = RunRecord.read(self.paths[name])
            log.info("%s%s%s", self._counter(), summary(record), self.pace.finish(record.scientific_hash))
        for note, failure in self.notes.read().items():
            for name in self.pending():
                if note in (name, self.cells[name].scientific_hash):  # Hydra's launchers know the second only
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
        exit_with_missing([(cell, self.failures.get(name)) for name, cell in self.cells.items()])


def exit_with_missing(cells: Sequence[tuple[Cell, Failure | None]]) -> None:
    """End with exit code 1 and a line for each cell that has no record, where there are some.

    Each cell comes with why it failed, where that is known.
    """
    lines = []
    for cell, failure in cells:
        path = record_path(cell)
        if path is None or not path.exists():
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
    names = record.labels
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
