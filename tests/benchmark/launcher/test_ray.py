"""Grids under Ray: the records of a plain run, whoever is killed meanwhile."""

import importlib
import os
import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import pytest
from command_line import TINY, records_of, run_command
from processes import alive, family, finish, numbers_of, start, wait_until

from benchmark.cli import Failure
from benchmark.launcher import engine
from benchmark.launcher.graph import Task

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")]
GRID = ["-m", "protocol=paper", "compute.threads=1", "method=retrain,baseline,ssd", "method_seed=0,1", *TINY]
LOCAL = {"workers": 2, "num_cpus": 1, "num_gpus": None}
INIT = {"address": "local", "include_dashboard": False, "object_store_memory": 100_000_000}


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> dict[str, object]:
    """The records of a run without a launcher."""
    folder = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patches:
        assert run_command([*GRID, f"output_dir={folder}"], patches) == 0
    return numbers_of(folder)


def start_grid(folder: Path) -> subprocess.Popen[str]:
    return start(folder, *GRID, "launcher=local")


def test_a_killed_worker_changes_nothing(plain, tmp_path):
    command = start_grid(tmp_path)

    def worker() -> int | None:
        return next((pid for pid, name in family(command.pid).items() if name.startswith("ray::original")), None)

    wait_until(worker)
    os.kill(worker(), signal.SIGKILL)
    assert "Traceback" not in finish(command)
    assert numbers_of(tmp_path) == plain
    assert len(list((tmp_path / "artefacts" / "original").glob("*.json"))) == 1


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_command_that_is_stopped_takes_its_workers_along_and_continues(end, plain, tmp_path):
    command = start_grid(tmp_path)
    wait_until(lambda: records_of(tmp_path))
    workers = [pid for pid, name in family(command.pid).items() if re.match("ray::(IDLE|.*/)", name)]
    before = records_of(tmp_path)
    os.killpg(command.pid, end)  # as a terminal does
    errors = command.communicate(timeout=60)[1]
    assert workers
    assert command.returncode == (130 if end == signal.SIGINT else -end)
    wait_until(lambda: not alive(workers), seconds=30)
    assert end == signal.SIGKILL or errors.endswith("stopped; run the same command again to continue.\n")
    finish(start_grid(tmp_path))
    assert numbers_of(tmp_path) == plain
    assert before.items() <= records_of(tmp_path).items()


def act(task: Task, folder: str) -> Failure | None:
    """Stand in for `work`: the task's configuration says how often its worker dies, or why it fails."""
    tries = Path(task.config["tries"]) / task.name
    with tries.open("a") as file:
        file.write("x")
    if tries.stat().st_size <= task.config.get("deaths", 0):
        os.kill(os.getpid(), signal.SIGKILL)
    return Failure(task.name, task.config["reason"]) if "reason" in task.config else None


def test_a_task_is_tried_four_times_if_its_worker_dies_and_once_if_it_fails(tmp_path, monkeypatch):
    def task(name: str, *needs: str, **config: object) -> Task:
        return Task(name, {"tries": str(tmp_path), **config}, needs)

    listed = [
        task("dies once", deaths=1),
        task("after it", "dies once"),
        task("dies always", deaths=9),
        task("after death", "dies always"),
        task("fails", reason="no memory"),
        task("after failure", "fails"),
        task("last"),
    ]
    monkeypatch.setattr(engine, "work", act)
    with patch.dict(os.environ, engine.SETTINGS):  # Ray reads them when it is imported
        importlib.import_module("ray.cloudpickle").register_pickle_by_value(sys.modules[__name__])
        results = dict(engine.run_tasks({task.name: task for task in listed}, **LOCAL, init=INIT))
    assert results.keys() == {task.name for task in listed}
    assert [results[name] for name in ("dies once", "after it", "last")] == [None, None, None]
    assert results["dies always"] == results["after death"]
    assert results["dies always"].reason == "Expected a worker to survive dies always, but 4 of them died."
    assert results["fails"] == results["after failure"] == Failure("fails", "no memory")
    tries = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert tries == {"dies once": 2, "after it": 1, "dies always": 4, "fails": 1, "last": 1}
