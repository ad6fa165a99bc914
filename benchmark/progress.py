"""What a person sees of a run or a sweep: the plan, a line for each finished cell, the failures."""

import logging
import sys
import threading
from pathlib import Path
from typing import Any, cast

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from benchmark.cli import describe, show_log
from benchmark.failures import Failure, FailureNotes
from benchmark.grid import cells_of, make_plan
from benchmark.oldcell import OldCell as Cell
from benchmark.records import RunRecord
from benchmark.watch import GridWatch, Pace, exit_with_missing, summary

log = logging.getLogger(__name__)


class GridProgress(Callback):
    """Hydra callback. Under a launcher that runs the cells in other processes, this one reads what those write."""

    def __init__(self) -> None:
        self.cells: list[Cell] = []
        self.pace: Pace | None = None
        self.watch: GridWatch | None = None
        self.stop = threading.Event()
        self.finished = 0
        self.failures: dict[str, Failure] = {}  # by config hash
        self.is_copy = False  # whether this object was sent to another process

    def __getstate__(self) -> dict[str, Any]:
        """Travel light: no cells and, above all, no data."""
        return {"is_copy": True}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
        self.__dict__ |= state

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Say how many cells there are, how many are done and how long the rest will take."""
        try:
            overrides = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)  # each cell resolves its own
            self.cells = cells_of(cast("list[str]", overrides))
            if config.hydra.launcher._target_.endswith("BasicLauncher"):
                self.pace = Pace(make_plan(self.cells))
                log.info("%s", self.pace.plan)
            else:
                self.watch = GridWatch(self.cells)
        except Exception as error:
            sys.exit(f"error: {describe(error)}")
        if self.watch:
            threading.Thread(target=self.watch.keep_polling, args=(self.stop,), daemon=True).start()

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Show the log in a process that did not come from the command line."""
        if self.is_copy:
            show_log()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Print the cell's numbers, or why it failed; from another process leave a note."""
        outcome = job_return._return_value
        self.finished += 1
        counter = f"[{self.finished}/{len(self.cells)}] " if self.pace else ""
        if isinstance(outcome, Failure):
            name = name_of(job_return.cfg)
            self.failures[name] = outcome
            if self.is_copy:
                FailureNotes(Path(config.output_dir) / "failed").write(name, outcome)
            elif self.pace:
                log.error("%s%s: failed: %s", counter, outcome.cell, outcome.reason)
        elif isinstance(outcome, RunRecord) and not self.is_copy:
            left = self.pace.finish(outcome.scientific_hash) if self.pace else ""
            log.info("%s%s%s", counter, summary(outcome), left)

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """End a failed single run with its reason and exit code 1."""
        for failure in self.failures.values():
            sys.exit(f"error: {failure.reason}")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Name the cells without a record; exit code 1 where there are some."""
        self.stop.set()
        if self.watch:
            self.watch.end()
        exit_with_missing([(cell, self.failures.get(cell.scientific_hash)) for cell in self.cells])


def name_of(config: DictConfig | None) -> str:
    """Return the config hash of a cell that failed; nothing where the configuration itself is wrong."""
    try:
        return Cell(config).scientific_hash if config is not None else ""
    except Exception:
        return ""
