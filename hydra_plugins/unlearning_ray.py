"""Hydra takes launchers from the package `hydra_plugins` alone and imports it at each start: no Ray before `launch`."""

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class RayLauncher(Launcher):
    """Runs what the cells of a sweep still need as tasks of Ray; configs/launcher/ holds the options."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over."""
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the cells that these overrides compose; return their results in the same order."""
        from benchmark.launcher.launch import launch

        return launch(self.hydra_context, self.config, self.options, job_overrides)


OPTIONS: dict[str, Any] = {"workers": None, "num_cpus": 1, "num_gpus": None, "init": {}}
ConfigStore.instance().store(
    group="hydra/launcher", name="tasks", node={"_target_": f"{__name__}.RayLauncher", **OPTIONS}
)
