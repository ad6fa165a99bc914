"""A sweep as Hydra hands it to a launcher: cells in, records and failures out, told to the callbacks as they come."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobRuntime, JobStatus, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from benchmark.cell import Cell
from benchmark.cli import describe, wants_traceback
from benchmark.failures import Failure
from benchmark.launcher.engine import run_tasks
from benchmark.launcher.graph import Name, Task, add_tasks
from benchmark.records import RunRecord


@dataclass
class Job:
    """One cell of the sweep, as Hydra names things."""

    config: DictConfig
    result: JobReturn


@dataclass(frozen=True)
class Launch:
    """What Hydra tells a launcher, and the options of the engine."""

    context: HydraContext
    task_function: TaskFunction
    config: DictConfig
    options: dict[str, Any]

    def run(self, overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        """Run the cells that have no record yet; return all results, in the order of the overrides."""
        setup_globals()
        jobs = [self.job(list(words), first + i) for i, words in enumerate(overrides)]
        tasks: dict[Name, Task] = {}
        waiting: dict[Name, list[Job]] = {}
        for job in jobs:
            name = "run"
            try:
                cell = Cell(job.result.cfg)
                name = str(cell)
                if (record := RunRecord.find(cell.record_path)) is not None:
                    self.end(job, record)
                else:
                    waiting.setdefault(add_tasks(tasks, cell), []).append(job)
            except Exception as error:
                if wants_traceback():
                    raise
                self.end(job, Failure(name, describe(error)))
        for name, outcome in run_tasks(tasks, **self.options) if tasks else ():
            for job in waiting[name]:
                self.end(
                    job, outcome if isinstance(outcome, RunRecord) else Failure(str(Cell(job.result.cfg)), outcome)
                )
        return [job.result for job in jobs]

    def job(self, overrides: list[str], number: int) -> Job:
        """Compose one cell."""
        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
            hydra = OmegaConf.masked_copy(config, "hydra")
            own = OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])
        name = JobRuntime.instance().get("name")
        return Job(config, JobReturn(list(config.hydra.overrides.task), own, hydra, str(Path.cwd()), name))

    def end(self, job: Job, outcome: RunRecord | Failure) -> None:
        """Tell the callbacks that a cell is done."""
        job.result.status, job.result.return_value = JobStatus.COMPLETED, outcome
        self.context.callbacks.on_job_start(config=job.config, task_function=self.task_function)
        self.context.callbacks.on_job_end(config=job.config, job_return=job.result)
