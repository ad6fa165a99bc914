"""Start the suite's commands as processes of their own, and see what they start."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path

from command_line import records_of

ROOT = Path(__file__).parents[2]
MAX_SECONDS = 600.0


def start(folder: Path, *words: str, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    """Start `benchmark.run` in a session of its own, as a terminal does; `before` is called in the new process."""
    command = [sys.executable, "-m", "benchmark.run", *words, f"output_dir={folder}"]
    return subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=before
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for the end of a command, with this exit code; return what it wrote to stderr."""
    errors = process.communicate(timeout=MAX_SECONDS)[1]
    assert process.returncode == code, errors
    return errors


def family(pid: int) -> dict[int, str]:
    """Return the living processes that `pid` has started, and those that they have, by id: their names."""
    listed = subprocess.run(["ps", "-A", "-o", "ppid=,pid=,stat=,args="], capture_output=True, text=True).stdout
    rows = [line.split(None, 3) for line in listed.splitlines()]
    found: dict[int, str] = {}
    parents = {pid}
    while parents:
        new = {int(row[1]): row[3] for row in rows if int(row[0]) in parents and not row[2].startswith("Z")}
        found |= new
        parents = set(new)
    return found


def alive(pids: Collection[int]) -> bool:
    listed = subprocess.run(["ps", "-A", "-o", "pid=,stat="], capture_output=True, text=True).stdout
    states = dict(line.split() for line in listed.splitlines())
    return any(not states.get(str(pid), "Z").startswith("Z") for pid in pids)


def wait_until(condition: Callable[[], object], seconds: float = MAX_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "this takes too long"
        time.sleep(0.02)


def numbers_of(folder: Path) -> dict[str, object]:
    """Return the metrics of each record, and the hashes of all weights and outputs."""
    records = {name: json.loads(text) for name, text in records_of(folder).items()}
    hashes = {
        str(path.relative_to(folder)): json.loads(path.read_text())["sha256"]
        for path in folder.glob("artefacts/*/*.json")
    }
    return {name: (record["metrics"], record["original"]["sha256"]) for name, record in records.items()} | hashes
