"""What a person sees of a run or a sweep: the plan, a line for each finished cell, the failures."""

import logging
import sys
import time
from dataclasses import dataclass
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from benchmark.cell import Cell
from benchmark.cli import describe
from benchmark.grid import Plan, cells_of, duration, make_plan
from benchmark.records import RunRecord

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """Why a cell of a sweep has no record."""

    cell: str
    reason: str


class GridProgress(Callback):
    """Hydra callback; works in one process and, with less to say, under launchers that start others."""

    def __init__(self) -> None:
        self.cells: list[Cell] = []
        self.plan: Plan | None = None
        self.start = time.monotonic()
        self.finished = 0
        self.spent = 0.0  # estimated seconds of the cells that are finished
        self.failures: list[Failure] = []

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Say how many cells there are, how many are done and how long the rest will take."""
        try:
            self.cells = cells_of(list(config.hydra.overrides.task))
            self.plan = make_plan(self.cells)
        except Exception as error:
            sys.exit(f"error: {describe(error)}")
        log.info("%s", self.plan)
        self.start = time.monotonic()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Print the cell's numbers, or why it failed."""
        outcome = job_return._return_value
        self.finished += 1
        counter = f"[{self.finished}/{self.plan.total}] " if self.plan else ""
        if isinstance(outcome, Failure):
            self.failures.append(outcome)
            if self.plan:
                log.error("%s%s: failed: %s", counter, outcome.cell, outcome.reason)
        elif isinstance(outcome, RunRecord):
            log.info("%s%s%s", counter, summary(outcome), self._time_left(outcome.config_hash))

    def _time_left(self, config_hash: str) -> str:
        if self.plan is None or config_hash not in self.plan.seconds:
            return ""
        self.spent += self.plan.seconds[config_hash]
        left = sum(self.plan.seconds.values()) - self.spent
        pace = (time.monotonic() - self.start) / max(self.spent, 1e-9)
        return f"  {duration(left * pace)} left" if left > 0 else ""

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """End a failed single run with its reason and exit code 1."""
        for failure in self.failures:
            sys.exit(f"error: {failure.reason}")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Name the cells without a record; exit code 1 where there are some."""
        reasons = {failure.cell: failure.reason for failure in self.failures}
        missing = [cell for cell in self.cells if not has_record(cell)]
        if not missing:
            return
        lines = [f"  {cell}: {reasons.get(str(cell), 'see the log of its job')}" for cell in missing]
        sys.exit("\n".join([f"error: {len(missing)} of {len(self.cells)} cells failed:", *lines]))


def has_record(cell: Cell) -> bool:
    try:
        return cell.record_path.exists()
    except Exception:  # the cell's data cannot be loaded: it failed for that reason
        return False


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
