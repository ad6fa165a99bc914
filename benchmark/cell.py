"""One cell of a grid: a composed configuration and the names it goes by. (stub until the configs branch lands)"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from benchmark.files import content_hash, file_sha256
from benchmark.records import run_id

FORMER = {"datasets.batches.Augmentation": "datasets.loading.Augmentation"}
PATHS = ("data_dir", "folder")  # keys that say where data lies; the fingerprint says what it is


@dataclass(frozen=True, eq=False)
class Cell:
    """A composed configuration; everything else follows from it, on first use.

    Attributes:
        overrides: what composes it, where it comes from a sweep.
    """

    config: DictConfig
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        missing = sorted(OmegaConf.missing_keys(self.config))
        if missing:
            raise ValueError(f"Expected a value for {', '.join(missing)}, but got none; set it as key=value.")

    @cached_property
    def fingerprint(self) -> str:
        from benchmark.workbench import workbench

        return workbench(self).dataset.fingerprint

    metric_needs = ("retrained", "untrained")

    @cached_property
    def targets(self) -> list[str | int] | None:
        """The targets of a sequence of forget requests, oldest first; None for a single one."""
        requests = content(self.config.requests)
        return (
            None
            if requests["targets"] is None
            else __import__("datasets.sequence", fromlist=["x"]).first_targets(requests["targets"], requests["n"])
        )

    @property
    def is_reference(self) -> bool:
        """Whether this cell's method is the retrained model that the others are compared with."""
        return bool(content(self.config.method) == content(self.config.get("reference")))

    @cached_property
    def original_key(self) -> dict[str, Any]:
        """What the original model depends on."""
        scientific = self.scientific
        return {name: scientific[name] for name in ("dataset", "model", "preprocessing", "original", "train_seed")} | {
            "data_fingerprint": self.fingerprint
        }

    @property
    def outputs_key(self) -> dict[str, Any]:
        """What the outputs of the unlearned model depend on."""
        return {
            "original": content_hash(self.original_key),
            "task": self.scientific["task"],
            "method": self.scientific["method"],
            "method_seed": self.scientific["method_seed"],
        }

    @property
    def reference_key(self) -> dict[str, Any]:
        """What the outputs of the retrained model depend on."""
        return self.outputs_key | {"method": self.scientific["reference"]}

    @cached_property
    def scientific(self) -> dict[str, Any]:
        """The part of the configuration that decides the numbers: no paths, labels, launcher or device."""
        config = self.config
        load = {name: value for name, value in content(config.dataset.load).items() if name not in PATHS}
        model = content(config.model.build)
        if model.get("weights"):
            path = Path(model["weights"])
            model["weights"] = file_sha256(path) if path.is_file() else str(path)
        scientific = {
            "dataset": load | content(config.dataset.subset),
            "model": model,
            "preprocessing": content(config.preprocessing),
            "original": content(config.original),
            "task": content(config.task.split) | ({} if self.targets is None else {"target": self.targets}),
            "method": content(config.method),
            "reference": content(config.get("reference")),
            "metric": content(config.metric),
            **self.seeds,
        }
        recorded: dict[str, Any] = as_recorded(scientific)
        return recorded

    @property
    def seeds(self) -> dict[str, int]:
        return {name: int(self.config[name]) for name in ("train_seed", "split_seed", "method_seed")}

    @cached_property
    def scientific_hash(self) -> str:
        return content_hash(self.scientific)

    @cached_property
    def run_id(self) -> str:
        return run_id(self.scientific_hash, self.fingerprint)

    @property
    def record_path(self) -> Path:
        return Path(self.config.output_dir) / "records" / f"{self.run_id}.json"

    @property
    def labels(self) -> dict[str, str]:
        """Names for people: of data set, model, task, target, method, protocol (with its ablation) and profile."""
        config = self.config
        names = {part: str(config[part].name) for part in ("dataset", "model", "task", "protocol", "profile")}
        names["ablation"] = str(config.protocol.ablation)
        target = "+".join(map(str, self.targets or [config.task.target]))
        return names | {"target": target, "method": method_name(config)}

    def __str__(self) -> str:
        names = self.labels
        order = ("dataset", "model", "task", "target", "method")
        return " ".join(names[part] for part in order) + f" seed {self.seeds['method_seed']}"


def method_name(config: DictConfig) -> str:
    """Return the method's name: the last part of the module that its `_target_` names."""
    return str(config.method._target_).split(".")[-2]


def content(node: Any) -> Any:
    """Return a configuration node as plain, resolved Python values."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def as_recorded(value: Any) -> Any:
    """Return `value` with moved code under the names by which finished runs know it."""
    if isinstance(value, dict):
        return {name: as_recorded(item) for name, item in value.items()}
    return FORMER.get(value, value) if isinstance(value, str) else value


def without_about(node):
    return node
