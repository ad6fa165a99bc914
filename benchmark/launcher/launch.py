"""A sweep as Hydra hands it to a launcher: overrides in, results out, told to the callbacks as they come."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from benchmark.callback import GridCallback, is_done
from benchmark.cell import Cell
from benchmark.cli import Failure, describe, wants_traceback
from benchmark.composer import Composer
from benchmark.launcher.engine import run_tasks
from benchmark.launcher.graph import Result, Task, add_tasks
from benchmark.records import record_of


def launch(
    context: HydraContext, config: DictConfig, options: Mapping[str, Any], overrides: Sequence[Sequence[str]]
) -> list[JobReturn]:
    """Run the cells that have no record yet; return every cell's result, in the order of the overrides.

    Args:
        config: of the sweep as a whole, with Hydra's own node.
        options: of the engine, see `run_tasks`.
        overrides: of each cell.
    """
    cells = cells_of_jobs(context, config, overrides)
    results = [
        JobReturn(words, cell.config, config, str(Path.cwd()), config.hydra.job.name)
        for words, cell in zip(overrides, cells, strict=True)
    ]
    tasks: dict[str, Task] = {}
    waiting: dict[str, list[int]] = {}

    def end(i: int, outcome: Result) -> None:
        results[i].status, results[i].return_value = JobStatus.COMPLETED, outcome
        context.callbacks.on_job_end(config=cells[i].config, job_return=results[i])

    for i, cell in enumerate(cells):
        try:
            if is_done(cell):
                end(i, record_of(cell))
            else:
                waiting.setdefault(add_tasks(tasks, cell), []).append(i)
        except Exception as error:
            if wants_traceback():
                raise
            end(i, Failure(str(cell), describe(error)))
    for name, outcome in run_tasks(tasks, **options) if tasks else ():
        for i in waiting.get(name, []):
            end(i, replace(outcome, cell=str(cells[i])) if isinstance(outcome, Failure) else outcome)
    return results


def cells_of_jobs(context: HydraContext, config: DictConfig, overrides: Sequence[Sequence[str]]) -> list[Cell]:
    """Return the cell of each job: the callback has composed all but those that a sweeper of its own makes up."""
    jobs = next((x.jobs for x in context.callbacks.callbacks if isinstance(x, GridCallback)), {})
    if all(tuple(words) in jobs for words in overrides):
        return [jobs[tuple(words)] for words in overrides]
    given = cast("dict[str, list[str]]", OmegaConf.to_container(config.hydra.overrides, resolve=False))
    composer = Composer([*given["hydra"], *given["task"]], config)
    return [composer.cell(words) for words in overrides]
