"""Commands that are killed, stopped or short of disk at random moments: the same command ends with the same numbers."""

import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import pytest
from command_line import TINY, make_table
from processes import MAX_SECONDS, alive, family, finish, numbers_of, start, wait_until

pytestmark = pytest.mark.slow
WORDS = ["-m", *TINY, "recipe.epochs=4", "compute.threads=1", "protocol=paper", "method=retrain,baseline,ssd"]
GRID = [*WORDS, "compute.progress_seconds=0"]  # which keeps a training after each epoch
NO_RAY = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
N_TRIES = 5
Start = Callable[..., subprocess.Popen[str]]


def wait_for_files(folder: Path, n: int, process: subprocess.Popen[str]) -> None:
    """Wait until `n` files more than now are there, or the process has ended."""
    before = len(list(folder.rglob("*")))
    wait_until(lambda: process.poll() is not None or len(list(folder.rglob("*"))) >= before + n)


def begun(start_grid: Start, folder: Path, random: Random) -> tuple[subprocess.Popen[str], dict[int, str]]:
    """Start the grid, wait for a random moment; return it with all processes that it has started."""
    process = start_grid(folder)
    wait_for_files(folder, random.randint(1, 8), process)
    time.sleep(random.random() / 5)
    return process, family(process.pid)


def killed(start_grid: Start, folder: Path, random: Random) -> None:
    process, others = begun(start_grid, folder, random)
    if process.poll() is None:
        os.killpg(process.pid, random.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
    process.communicate(timeout=MAX_SECONDS)
    wait_until(lambda: not alive(others), seconds=60)


def one_killed(start_grid: Start, folder: Path, random: Random) -> None:
    """Kill one process that the command has started."""
    process, others = begun(start_grid, folder, random)
    if workers := [pid for pid, name in others.items() if re.match("ray::.*/", name)]:
        os.kill(random.choice(workers), signal.SIGKILL)
    finish(process)
    wait_until(lambda: not alive(others), seconds=60)


def one_stopped(start_grid: Start, folder: Path, random: Random) -> None:
    """Stop one process that the command has started, for longer than others wait for a sign of life."""
    process, others = begun(start_grid, folder, random)
    if workers := [pid for pid, name in others.items() if re.match("ray::.*/", name)]:
        pid = random.choice(workers)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(5 * random.random())
        os.kill(pid, signal.SIGCONT)
    finish(process)


def stopped(start_grid: Start, folder: Path, random: Random) -> None:
    """Stop a command while another one runs the same grid."""
    first, _ = begun(start_grid, folder, random)
    os.killpg(first.pid, signal.SIGSTOP)
    second = start_grid(folder)
    time.sleep(2 + random.random())
    os.killpg(first.pid, signal.SIGCONT)
    finish(first)
    finish(second)


def short_of_disk(start_grid: Start, folder: Path, random: Random) -> None:
    """Let no file grow beyond a size, as on a disk that fills up."""
    size = random.choice([200, 3_000, 20_000, 40_000])
    process = start_grid(folder, before=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size)))
    errors = process.communicate(timeout=MAX_SECONDS)[1]
    assert process.returncode in (0, 1), errors
    assert "Traceback" not in errors


def table_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Return the table of the grid, as `benchmark.report` makes it from the records."""
    assert make_table([*WORDS, f"output_dir={folder}"], monkeypatch) == 0
    (path,) = folder.glob("tables/*/table.csv")
    return path.read_bytes()


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> tuple[dict[str, object], bytes]:
    folder = tmp_path_factory.mktemp("plain")
    finish(start(folder, *GRID))
    with pytest.MonkeyPatch.context() as patches:
        return numbers_of(folder), table_of(folder, patches)


CASES = [
    *(pytest.param([], harm, id=f"serial-{harm.__name__}") for harm in (killed, stopped, short_of_disk)),
    *(
        pytest.param(["launcher=local"], harm, id=f"ray-{harm.__name__}", marks=NO_RAY)
        for harm in (killed, one_killed, one_stopped)
    ),
]


@pytest.mark.parametrize(("launcher", "harm"), CASES)
def test_harm_at_random_moments_changes_no_number(launcher, harm, plain, tmp_path, monkeypatch):
    def start_grid(folder: Path, **options: Any) -> subprocess.Popen[str]:
        return start(folder, *GRID, *launcher, **options)

    for seed in range(N_TRIES):
        folder = tmp_path if harm in (killed, short_of_disk) else tmp_path / str(seed)  # these leave work for the next
        harm(start_grid, folder, Random(f"{harm.__name__} {seed}"))
        if folder != tmp_path or seed == N_TRIES - 1:
            finish(start_grid(folder))
            assert (numbers_of(folder), table_of(folder, monkeypatch)) == plain
            assert not [path for path in folder.rglob("*") if path.suffix in (".progress", ".pt")]
