"""One line about a long step: how far it is and the time that is left."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmark.cli import duration

log = logging.getLogger(__name__)
SECONDS = 10.0  # a shorter step says nothing; between two lines that are not on a terminal


@contextmanager
def progress(step: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes how many of `total` parts are done, of which an earlier process may have done some.

    A terminal shows one line that changes and goes at the end; a pipe or a file gets a new line every ten seconds.
    """
    start = last = time.monotonic()
    before: int | None = None  # parts of an earlier process
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    console = Console(stderr=True)
    bar = Progress(*columns, console=console, transient=True, speed_estimate_period=float("inf"))
    task = bar.add_task(step, total=total)

    def report(done: int) -> None:
        nonlocal last, before
        before = done - 1 if before is None else before
        now = time.monotonic()
        bar.update(task, completed=done)
        if now - last < SECONDS:
            return
        if console.is_terminal:
            bar.start()
        else:
            last = now
            seconds = (now - start) / (done - before) * (total - done)
            log.info("  %s: %d of %d, %s left", step, done, total, duration(seconds))

    try:
        yield report
    finally:
        if console.is_terminal:
            bar.stop()
