"""A sweep as Hydra hands it to a launcher: cells in, their results out, told to the callbacks as they come."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobRuntime, JobStatus, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from benchmark.cli import Failure, describe, wants_traceback
from benchmark.compose import cell_of
from benchmark.launcher.engine import run_tasks
from benchmark.launcher.graph import Task, add_tasks
from benchmark.records import RunRecord


@dataclass(frozen=True)
class Job:
    """A cell as Hydra names things."""

    config: DictConfig
    result: JobReturn
    name: str = "run"


@dataclass(frozen=True)
class Launch:
    """What Hydra tells a launcher, and the options of the engine."""

    context: HydraContext
    task_function: TaskFunction
    config: DictConfig
    options: dict[str, Any]

    def run(self, overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        """Run the cells that have no record yet; return every result, in the order of the overrides."""
        setup_globals()
        jobs = [self.job(list(one), first + i) for i, one in enumerate(overrides)]
        tasks: dict[str, Task] = {}
        waiting: dict[str, list[Job]] = {}
        for job in jobs:
            try:
                cell = cell_of(job.result.cfg)
                job = replace(job, name=str(cell))
                found = RunRecord.find(cell.record_path) if cell.config.stage == "record" else None
                if found is None:
                    waiting.setdefault(add_tasks(tasks, cell), []).append(job)
                else:
                    self.end(job, found)
            except Exception as error:
                if wants_traceback():
                    raise
                self.end(job, Failure(job.name, describe(error)))
        for name, outcome in run_tasks(tasks, **self.options) if tasks else ():
            for job in waiting[name]:
                self.end(job, replace(outcome, cell=job.name) if isinstance(outcome, Failure) else outcome)
        return [job.result for job in jobs]

    def job(self, overrides: list[str], number: int) -> Job:
        """Compose one cell."""
        config = self.context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        own = OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])
        used, name = list(config.hydra.overrides.task), JobRuntime.instance().get("name")
        return Job(config, JobReturn(used, own, OmegaConf.masked_copy(config, "hydra"), str(Path.cwd()), name))

    def end(self, job: Job, outcome: RunRecord | str | Failure) -> None:
        """Tell the callbacks that a cell is done."""
        job.result.status, job.result.return_value = JobStatus.COMPLETED, outcome
        self.context.callbacks.on_job_start(config=job.config, task_function=self.task_function)
        self.context.callbacks.on_job_end(config=job.config, job_return=job.result)
