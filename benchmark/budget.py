"""`budget=9m`: nothing starts that would not end in time, and trainings stop at its end; no part of a run's name."""

import math
import os
import re
import time

ENDS = "BENCHMARK_BUDGET_ENDS"  # as time.time(); a variable, because Hydra hands a job nothing but its configuration
EXIT_CODE = 3  # of a command that leaves work for the next one
FORM = re.compile(r"(?=\d)(?:(\d+\.?\d*)h)?(?:(\d+\.?\d*)m)?(?:(\d+\.?\d*)s)?")


class OutOfBudgetError(Exception):
    """There is no time left for something; the same command makes it later."""


def seconds_of(budget: object) -> float:
    """Return a budget in seconds; infinite for None.

    >>> seconds_of("90s"), seconds_of("9m"), seconds_of("1h30m")
    (90.0, 540.0, 5400.0)

    Raises:
        ValueError: it is no time with its units.
    """
    if budget is None:
        return math.inf
    found = FORM.fullmatch(str(budget))
    hours, minutes, seconds = (float(part or 0) for part in found.groups()) if found else (0.0, 0.0, 0.0)
    total = 3600 * hours + 60 * minutes + seconds
    if total <= 0:
        raise ValueError(f"Expected budget to be a time such as 90s, 9m, 2h or 1h30m, but got {budget!r}.")
    return total


def begin(budget: object) -> None:
    """Let the time of this process, and of those that it starts, end after `budget`; never for None."""
    end_at(time.time() + seconds_of(budget))


def end_at(end: float) -> None:
    """Let the time of this process end at `end`, as `time.time()`."""
    os.environ[ENDS] = str(end)


def end() -> float:
    """Return when the time ends, as `time.time()`; infinite without a budget."""
    return float(os.environ.get(ENDS, math.inf))


def left() -> float:
    """Return the seconds that are left, below 0 after the end; infinite without a budget."""
    return end() - time.time()
