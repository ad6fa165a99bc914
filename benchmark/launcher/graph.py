"""The work that a grid still needs, as tasks that rest on each other; nothing here knows the engine."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from benchmark.artefacts import Artefact, Store
from benchmark.cell import Cell, content
from benchmark.cli import describe, show_log, wants_traceback
from benchmark.pipeline import wanted
from benchmark.records import RunRecord

log = logging.getLogger(__name__)
Name = tuple[str, str]  # kind and hash of an artefact, or "record" and run id


@dataclass(frozen=True)
class Task:
    """An artefact to make, or a record to write, with what a worker needs to do so.

    Attributes:
        config: of a cell that wants it, resolved, as plain values: a closure does not travel.
        needs: the tasks that have to end first.
    """

    name: Name
    config: dict[str, Any]
    needs: tuple[Name, ...]

    def __str__(self) -> str:
        return f"{self.name[0]} {self.name[1]}"


def add_tasks(tasks: dict[Name, Task], cell: Cell) -> Name:
    """Add what is missing for the cell's record, after what it rests on; return the name of the task that writes it."""
    config, missing = content(cell.config), store_of(cell).missing(*wanted(cell))
    for node in missing:
        needs = tuple(name for name in map(name_of, node.needs) if name in tasks)
        tasks.setdefault(name_of(node), Task(name_of(node), config, needs))
    record = ("record", cell.run_id)
    tasks.setdefault(record, Task(record, config, tuple(map(name_of, missing))))
    return record


def name_of(node: Artefact) -> Name:
    return node.kind, node.hash


def store_of(cell: Cell) -> Store:
    return Store(Path(cell.config.output_dir) / "artefacts")


def work(task: Task, folder: str, *before: str | None) -> RunRecord | str | None:
    """Do a task; the worker's side.

    Args:
        folder: where the command was started, which relative paths start from.
        before: what the tasks that this one needs have returned.

    Returns:
        A string if the task failed: the reason in one line. The record of a task that writes one, else None.
    """
    for reason in filter(None, before):
        return reason
    os.chdir(folder)
    show_log()
    try:
        cell = Cell(OmegaConf.create(task.config))
        if task.name[0] == "record":
            from benchmark.run import run_cell

            return run_cell(cell)
        nodes = (node for root in wanted(cell) for node in root.walk())
        store_of(cell).get(next(node for node in nodes if name_of(node) == task.name))
    except Exception as error:
        if wants_traceback():
            log.exception("%s failed", task)
        return describe(error)
    return None
