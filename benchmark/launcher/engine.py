"""Ray runs the tasks on whatever worker is free: the first one of the grid that has all it needs."""

import atexit
import logging
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from joblib import cpu_count

from benchmark import budget
from benchmark.cli import Failure, Left, describe
from benchmark.launcher.graph import Result, Task, work

RETRIES = 3  # of a task whose worker died
SECONDS_BETWEEN_LOOKS = 5.0  # at the machines of the cluster
SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_NUM_REDIS_GET_RETRIES": "1",  # a cluster that does not answer is given up after a minute, not after twenty
    "RAY_task_oom_retries": str(RETRIES),
}


def run_tasks(
    tasks: Mapping[str, Task], *, workers: int | None, num_cpus: float, num_gpus: float | None, init: Mapping[str, Any]
) -> Iterator[tuple[str, Result]]:
    """Run the tasks; yield the name and the result of each as it ends.

    Of tasks that could start, the first one does: Ray's own order would put every cell behind all artefacts.

    Args:
        tasks: by name, each after those that it needs.
        workers: tasks at a time, on this machine; None: as many as the cluster has room for.
        num_cpus: of a task, and its threads.
        num_gpus: of a task; None: its share of this machine's GPUs, or a whole one if the cluster has some.
        init: options of `ray.init`.
    """
    ray = started(workers, init, num_cpus)
    try:
        gpus = [machine.get("GPU", 0) for machine in machines(ray)]
        num_gpus = share(sum(gpus), workers) if num_gpus is None else num_gpus
        if workers is not None and num_gpus > sum(gpus):
            raise ValueError(f"Expected hydra.launcher.num_gpus to be at most {sum(gpus):g}, but got {num_gpus}.")
        once = num_gpus > 0 and max(gpus, default=0) > 1  # a process stays on the GPU of its first task
        remote = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=RETRIES, max_calls=int(once))(work)
        waiting = dict(tasks)
        running: dict[Any, str] = {}
        while waiting or running:
            if budget.left() <= 0:
                for name in waiting:
                    yield name, Left(name, "the time is over")
                waiting.clear()
                if not running:
                    break
            places = sum(room(machine, num_cpus, num_gpus) for machine in machines(ray))
            unfinished = {*waiting, *running.values()}
            ready = [name for name, task in waiting.items() if unfinished.isdisjoint(task.needs)]
            for name in ready[: max(0, max(1, places) - len(running))]:
                running[remote.options(name=name).remote(waiting.pop(name), str(Path.cwd()))] = name
            ended, _ = ray.wait(list(running), timeout=SECONDS_BETWEEN_LOOKS)
            for reference in ended:
                name = running.pop(reference)
                result = outcome(ray, name, reference)
                yield name, result
                if isinstance(result, Failure):
                    for other in [other for other, task in waiting.items() if name in task.needs]:
                        del waiting[other]
                        yield other, result
    except KeyboardInterrupt:
        atexit.register(os._exit, 130)  # at the end of the process, which an interrupted Ray can crash
        raise
    finally:
        ray.shutdown()


def started(workers: int | None, init: Mapping[str, Any], num_cpus: float) -> Any:
    """Return the module ray, started on this machine or connected to a cluster."""
    if workers is not None and not (type(workers) is int and workers > 0):
        raise ValueError(f"Expected hydra.launcher.workers to be a whole number above 0, but got {workers}.")
    if workers is not None and num_cpus > workers:  # no place would ever be free
        raise ValueError(
            f"Expected hydra.launcher.num_cpus to be at most hydra.launcher.workers={workers}, the processors that "
            f"launcher=local gives out, but got {num_cpus:g}; set OMP_NUM_THREADS for more threads per worker."
        )
    os.environ |= {**SETTINGS, **os.environ}
    if workers is not None:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex())  # else Ray writes one into the home folder
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cpu_count() // workers)))
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ValueError("Expected the package ray, but there is none; run pip install -e '.[cluster]'.") from error
    ray.init(num_cpus=workers, logging_level=logging.ERROR, **init)
    return ray


def machines(ray: Any) -> list[dict[str, float]]:
    """Return the resources of the machines that are there now."""
    return [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]


def room(machine: Mapping[str, float], num_cpus: float, num_gpus: float) -> int:
    """Return how many tasks a machine has room for.

    >>> room({"CPU": 8, "GPU": 1}, 2, 0.5), room({"CPU": 8}, 2, 0), room({"CPU": 8}, 2, 1)
    (2, 4, 0)
    """
    needs = {"CPU": num_cpus, "GPU": num_gpus}
    return min(int(machine.get(name, 0) / n + 1e-6) for name, n in needs.items() if n > 0)


def share(gpus: float, workers: int | None) -> float:
    """Return the part of a GPU that a task gets: workers are spread evenly over the GPUs.

    >>> share(0, 4), share(1, 3), share(2, 3), share(8, 4), share(2, None)
    (0, 0.3333, 0.5, 1.0, 1)
    """
    if gpus == 0 or workers is None:
        return min(1, gpus)
    return int(10_000 / math.ceil(workers / gpus)) / 10_000


def outcome(ray: Any, name: str, reference: Any) -> Result:
    """Return the result of a task that has ended, a failure if its workers died."""
    try:
        result: Result = ray.get(reference)
        return result
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError):
        return Failure(name, f"Expected a worker to survive {name}, but {RETRIES + 1} of them died.")
    except ray.exceptions.RayError as error:
        return Failure(name, describe(getattr(error, "cause", None) or error))
