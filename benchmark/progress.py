"""A line about a long step: how far it is and the time that is left; on a terminal another about the whole grid."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from benchmark.cli import duration

log = logging.getLogger(__name__)
SECONDS = 10.0  # a shorter step says nothing; between two lines that are not on a terminal


@dataclass
class Grid:
    """How far the grid of this process is; a single run has none.

    Hydra hands a job nothing but its configuration, so the callback and the steps meet here.

    Attributes:
        left: the time that is left in words, as far as it is known.
    """

    done: int = 0
    total: int = 0
    left: str = ""


grid = Grid()


@contextmanager
def progress(step: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes how many of `total` parts are done, of which an earlier process may have done some.

    A terminal shows bars that move and go at the end; a pipe or a file gets a new line every ten seconds.
    """
    start = last = time.monotonic()
    before: int | None = None  # parts of an earlier process
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
    console = Console(stderr=True)
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task(step, total=total, left="")
    if grid.total:
        bar.add_task("cells of the grid", total=grid.total, completed=grid.done, left=grid.left)

    def report(done: int) -> None:
        nonlocal last, before
        before = done - 1 if before is None else before
        now = time.monotonic()
        left = f"{duration((now - start) / (done - before) * (total - done))} left"
        bar.update(task, completed=done, left=left)
        if now - last < SECONDS:
            return
        if console.is_terminal:
            bar.start()
        else:
            last = now
            log.info("  %s: %d of %d, %s", step, done, total, left)

    try:
        yield report
    finally:
        if console.is_terminal:
            bar.stop()
