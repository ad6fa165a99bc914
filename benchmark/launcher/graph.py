"""The work that a grid still needs, as tasks that rest on each other; nothing here knows the engine."""

import logging
import math
import os
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from benchmark import budget, device, pipeline
from benchmark.budget import OutOfBudgetError
from benchmark.cell import Cell
from benchmark.cli import Failure, Left, describe, show_log, wants_traceback
from benchmark.records import RunRecord
from benchmark.run import run_cell
from benchmark.workbench import Workbench

log = logging.getLogger(__name__)
Result = RunRecord | str | Failure | None  # of a cell, see `run_cell`; None: the artefact is there


@dataclass(frozen=True)
class Task:
    """An artefact to make, or a cell to run once its artefacts are there.

    Attributes:
        name: of the artefact, or cell/<run id>.
        config: of a cell that wants it, resolved, as plain values: what an artefact calls to be made does not travel.
        needs: names of the tasks that have to end first, theirs included.
        overrides: those that compose the cell.
        ends: when the budget does, see `benchmark.budget.end`; the machines' clocks agree.
    """

    name: str
    config: dict[str, Any]
    needs: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    ends: float = math.inf


def add_tasks(tasks: dict[str, Task], cell: Cell) -> str:
    """Add what is missing for the cell, each artefact once and after what it rests on; return its last task's name."""
    bench = Workbench(cell)
    config, missing = cell.contents(cell.config), bench.store.missing(*pipeline.wanted(bench))
    for node in missing:
        needs = {str(need): None for need in node.walk() if str(need) in tasks and need is not node}
        tasks.setdefault(str(node), Task(str(node), config, tuple(needs), ends=budget.end()))
    name = f"cell/{cell.run_id}"
    tasks.setdefault(name, Task(name, config, tuple(map(str, missing)), cell.overrides, budget.end()))
    return name


def work(task: Task, folder: str) -> Result:
    """Do a task, in a worker started anywhere; `folder` is the command's: what relative paths start from."""
    os.chdir(folder)
    budget.end_at(task.ends)
    show_log()
    try:
        cell = Cell(OmegaConf.create(task.config), task.overrides)
        if task.name.startswith("cell/"):
            return run_cell(cell)
        bench = Workbench(cell)
        device.set_up(cell.config.compute)
        bench.validate()
        pipeline.make(bench, task.name)
    except OutOfBudgetError as error:
        return Left(task.name, str(error))
    except Exception as error:
        if wants_traceback():
            log.exception("%s", task.name)
        return Failure(task.name, describe(error))
    return None
