"""Ray runs the tasks: each as soon as those it needs have ended, on whatever worker is free."""

import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmark.cli import Failure, describe
from benchmark.launcher.graph import Task, work
from benchmark.records import RunRecord

RETRIES = 3  # of a task whose worker died
SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_task_oom_retries": str(RETRIES),
}


def run_tasks(
    tasks: Mapping[str, Task], *, workers: int | None, num_cpus: float, num_gpus: float | None, init: Mapping[str, Any]
) -> Iterator[tuple[str, RunRecord | str | Failure]]:
    """Run the tasks; yield the name and the result of each cell's as it ends.

    Args:
        tasks: by name, each after those that it needs.
        workers: tasks at a time, on this machine; None: as many as the cluster has room for.
        num_cpus: of a task, and its threads.
        num_gpus: of a task; None: its share of this machine's GPUs, or a whole one if the cluster has some.
        init: options of `ray.init`.
    """
    ray = started(workers, init)
    try:
        gpus = [machine["Resources"].get("GPU", 0) for machine in ray.nodes() if machine["Alive"]]
        num_gpus = share(sum(gpus), workers) if num_gpus is None else num_gpus
        once = num_gpus > 0 and max(gpus) > 1  # a process stays on the GPU of its first task
        remote = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=RETRIES, max_calls=int(once))(work)
        results: dict[str, Any] = {}
        for name, task in tasks.items():
            before = [results[need] for need in task.needs]
            results[name] = remote.options(name=name).remote(task, str(Path.cwd()), *before)
        waiting = {results[name]: name for name, task in tasks.items() if task.is_cell}
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            name = waiting.pop(done)
            try:
                yield name, ray.get(done)
            except ray.exceptions.RayError as error:
                yield name, Failure(name, why(ray, {need: results[need] for need in (*tasks[name].needs, name)}, error))
    finally:
        ray.shutdown()


def started(workers: int | None, init: Mapping[str, Any]) -> ModuleType:
    """Return Ray, started on this machine or connected to a cluster."""
    os.environ |= {**SETTINGS, **os.environ}
    if workers is not None:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex())  # else Ray writes one into the home folder
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ValueError("Expected the package ray, but there is none; run pip install -e '.[cluster]'.") from error
    ray.init(logging_level=logging.ERROR, **init, **({} if workers is None else {"num_cpus": workers}))
    return ray


def share(gpus: float, workers: int | None) -> float:
    """Return the part of the GPUs that a task gets.

    >>> share(0, 4), share(1, 3), share(8, 4), share(2, None)
    (0, 0.3333, 1, 1)
    """
    return min(1, gpus if workers is None else int(10_000 * gpus / workers) / 10_000)


def why(ray: ModuleType, results: Mapping[str, Any], error: Exception) -> str:
    """Return the reason for an error that is none of the task's own: mostly that a worker died."""
    ended, _ = ray.wait(list(results.values()), num_returns=len(results), timeout=0)
    for name, result in results.items():
        try:
            ray.get([result] if result in ended else [])
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError):
            return f"Expected a worker to survive {name}, but {RETRIES + 1} of them died."
        except ray.exceptions.RayError:
            break
    return describe(error)
