"""The work that a grid still needs, as tasks that rest on each other; nothing here knows the engine."""

import logging
import os
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from benchmark import device, pipeline
from benchmark.cell import Cell, content
from benchmark.cli import Failure, describe, show_log, wants_traceback
from benchmark.records import RunRecord
from benchmark.run import run_cell
from benchmark.workbench import workbench

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """An artefact to make, or a cell to run once its artefacts are there.

    Attributes:
        name: of the artefact, or cell/<run id>.
        config: of a cell that wants it, resolved, as plain values: what an artefact calls to be made does not travel.
        needs: names of the tasks that have to end first.
    """

    name: str
    config: dict[str, Any]
    needs: tuple[str, ...]

    @property
    def is_cell(self) -> bool:
        return self.name.startswith("cell/")


def add_tasks(tasks: dict[str, Task], cell: Cell) -> str:
    """Add what is missing for the cell, each artefact once and after what it rests on; return its last task's name."""
    roots = pipeline.wanted(cell) if cell.config.stage == "record" else [pipeline.original(cell)]
    config, missing = content(cell.config), pipeline.store_of(cell).missing(*roots)
    for node in missing:
        needs = tuple(str(need) for need in node.needs if str(need) in tasks)
        tasks.setdefault(str(node), Task(str(node), config, needs))
    name = f"cell/{cell.run_id}"
    tasks.setdefault(name, Task(name, config, tuple(map(str, missing))))
    return name


def work(task: Task, folder: str, *before: RunRecord | str | Failure | None) -> RunRecord | str | Failure | None:
    """Do a task, in a worker; return the result of the cell, if it is one, or the failure that it met.

    Args:
        folder: of the command: what relative paths start from.
        before: what the tasks that it needs have returned; after a failure there is nothing to do.
    """
    for failure in before:
        if isinstance(failure, Failure):
            return failure
    os.chdir(folder)
    show_log()
    try:
        cell = Cell(OmegaConf.create(task.config))
        if task.is_cell:
            return run_cell(cell)
        device.set_up(cell.config.compute)
        workbench(cell).validate()
        pipeline.make(cell, task.name)
    except Exception as error:
        if wants_traceback():
            log.exception("%s", task.name)
        return Failure(task.name, describe(error))
    return None
