"""Ray runs the tasks: each as soon as those it needs have ended, on whatever worker is free."""

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmark.launcher.graph import Name, Task, work
from benchmark.records import RunRecord

RETRIES = 3  # of a task whose worker died
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_task_oom_retries": str(RETRIES),
}


def run_tasks(
    tasks: Mapping[Name, Task],
    *,
    workers: int | None,
    num_cpus: float,
    num_gpus: float | None,
    init: Mapping[str, Any],
) -> Iterator[tuple[Name, RunRecord | str]]:
    """Run the tasks; yield the name of each one that writes a record as it ends, with the record or why there is none.

    Args:
        tasks: each after those that it needs.
        workers: tasks at a time, on this machine; None: as many as the cluster has room for.
        num_cpus, num_gpus: of a task; None: its share of this machine's GPUs, or a whole one if the cluster has some.
        init: options of `ray.init`.
    """
    ray = started(workers, init)
    try:
        machines = [machine["Resources"].get("GPU", 0) for machine in ray.nodes() if machine["Alive"]]
        if num_gpus is None:
            num_gpus = share(sum(machines), workers)
        kept = 1 if num_gpus and max(machines) > 1 else 0  # a process that has used a GPU stays with it
        remote = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=RETRIES, max_calls=kept)(work)
        references: dict[Name, Any] = {}
        for name, task in tasks.items():
            before = [references[need] for need in task.needs]
            references[name] = remote.options(name=str(task)).remote(task, str(Path.cwd()), *before)
        names = {reference: name for name, reference in references.items() if name[0] == "record"}
        while names:
            (done,), _ = ray.wait(list(names), num_returns=1)
            name = names.pop(done)
            try:
                yield name, ray.get(done)
            except ray.exceptions.RayError:
                yield name, f"the process of {culprit(ray, tasks, references, name)} died {RETRIES + 1} times"
    finally:
        ray.shutdown()


def started(workers: int | None, init: Mapping[str, Any]) -> ModuleType:
    """Return Ray, started on this machine or connected to a cluster."""
    os.environ |= QUIET
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ValueError("Expected the package ray, but there is none; run pip install -e '.[cluster]'.") from error
    options = dict(init)
    if workers is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
        options["num_cpus"] = workers
    ray.init(logging_level=logging.ERROR, **options)
    return ray


def share(gpus: float, workers: int | None) -> float:
    """Return the GPUs of one task.

    >>> share(0, 4), share(1, 3), share(8, 4), share(2, None)
    (0, 0.3333, 1, 1)
    """
    return min(1, gpus if workers is None else int(10_000 * gpus / workers) / 10_000)


def culprit(ray: ModuleType, tasks: Mapping[Name, Task], references: Mapping[Name, Any], name: Name) -> Task:
    """Return the task whose worker died: this one or the first that it needs."""
    for need in tasks[name].needs:
        try:
            ray.get(references[need])
        except ray.exceptions.RayError:
            return culprit(ray, tasks, references, need)
    return tasks[name]
