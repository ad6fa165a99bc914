"""Commands that are killed, stopped or short of disk at random moments: the same command ends with the same numbers."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from command_line import TINY, records_of

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
GRID = [
    "-m", *TINY, "recipe.epochs=4", "compute.progress_seconds=0", "compute.threads=1", "protocol=paper",
    "method=retrain,baseline,ssd",
]  # fmt: skip
MAX_SECONDS = 600.0
N_TRIES = 5


def start(folder: Path, file_bytes: int | None = None) -> subprocess.Popen[str]:
    """Start the grid in a session of its own; no file may grow beyond `file_bytes`, as on a disk that fills up."""

    def limit() -> None:
        if file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    command = [sys.executable, "-m", "benchmark.run", *GRID, f"output_dir={folder}"]
    return subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=limit
    )


def end(process: subprocess.Popen[str], code: int = 0) -> str:
    errors = process.communicate(timeout=MAX_SECONDS)[1]
    assert process.returncode == code, errors
    return errors


def numbers_of(folder: Path) -> dict[str, tuple]:
    """Return the metrics of each record, and the hashes of the weights and the outputs."""
    records = {name: json.loads(text) for name, text in records_of(folder).items()}
    hashes = {
        str(path.relative_to(folder)): json.loads(path.read_text())["sha256"]
        for path in folder.glob("artefacts/*/*.json")
    }
    return {name: (record["metrics"], record["original"]["sha256"]) for name, record in records.items()} | hashes


def wait_for_files(folder: Path, n: int, process: subprocess.Popen[str]) -> None:
    """Wait until `n` files more than now are there, or the process has ended."""
    before, deadline = len(list(folder.rglob("*"))), time.monotonic() + MAX_SECONDS
    while len(list(folder.rglob("*"))) < before + n and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


def killed(folder: Path, random: Random) -> None:
    process = start(folder)
    wait_for_files(folder, random.randint(1, 8), process)
    time.sleep(random.random() / 5)
    if process.poll() is None:
        os.killpg(process.pid, random.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
    process.communicate(timeout=MAX_SECONDS)


def stopped(folder: Path, random: Random) -> None:
    """Stop a command while another one runs the same grid."""
    first = start(folder)
    wait_for_files(folder, random.randint(1, 8), first)
    os.killpg(first.pid, signal.SIGSTOP)
    second = start(folder)
    time.sleep(2 + random.random())
    os.killpg(first.pid, signal.SIGCONT)
    end(first)
    end(second)


def short_of_disk(folder: Path, random: Random) -> None:
    process = start(folder, file_bytes=random.choice([200, 3_000, 20_000, 40_000]))
    errors = process.communicate(timeout=MAX_SECONDS)[1]
    assert process.returncode in (0, 1), errors
    assert "Traceback" not in errors


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> dict[str, tuple]:
    folder = tmp_path_factory.mktemp("plain")
    end(start(folder))
    return numbers_of(folder)


@pytest.mark.parametrize("harm", [killed, stopped, short_of_disk], ids=lambda harm: harm.__name__)
def test_harm_at_random_moments_changes_no_number(harm: Callable[[Path, Random], None], plain, tmp_path):
    random = Random(harm.__name__)
    for _ in range(N_TRIES):
        harm(tmp_path, random)
        if harm is stopped:
            break
    end(start(tmp_path))
    assert numbers_of(tmp_path) == plain
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".progress", ".pt")]
