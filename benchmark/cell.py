"""One cell of a grid: a composed configuration, the objects it describes and the names it goes by."""

import sys
import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from benchmark.data import load_dataset
from benchmark.fastest import fastest, is_open, measured_speeds, training_speed, ways
from benchmark.models import build
from benchmark.records import run_id
from benchmark.reproducibility import resolve_device
from benchmark.store import content_hash, file_sha256
from datasets.base import ForgetSplit, ImageDataset
from datasets.batches import Preprocessing, channel_statistics
from datasets.splits import requests_split
from datasets.targets import first_targets
from methods.base import UnlearningMethod
from methods.requests import Sequential
from methods.training import Compute, Recipe

CPU_EVAL_BATCH = 100  # images: on a CPU larger batches leave the caches and are slower
FORMER = {"datasets.batches.Augmentation": "datasets.loading.Augmentation"}
PATHS = ("data_dir", "folder")  # keys that say where data lies; the fingerprint says what it is


@dataclass(frozen=True)
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

    def validate(self) -> None:
        """Raise for options that are wrong, and for a folder that cannot be written, before anything long starts."""
        _ = self.method, self.reference_method, self.recipe
        folder = Path(self.config.output_dir)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ValueError(f"Expected output_dir to be a writable folder, but {folder} is not ({reason}).") from error

    @cached_property
    def device(self) -> torch.device:
        return resolve_device(self.config.compute)

    @cached_property
    def compute(self) -> Compute:
        """Where and how to compute; what the configuration leaves open is measured on first use, see `fastest`."""
        return replace(self._way(), compile=self.config.compute.compile)

    def _way(self) -> Compute:
        allowed = ways(self.config.compute, self.device)
        if not is_open(self.config.compute):
            return allowed[0]

        def trial(way: Compute) -> float:
            model = way.place(self._unplaced_model(0, pretrained=False))
            data, recipe = self.dataset.train, self.recipe
            return training_speed(model, data, recipe, preprocessing=self.preprocessing, compute=way)

        key = {
            "model": self.scientific["model"],
            "num_classes": len(self.dataset.class_names),
            "image": list(self.dataset.train.storage.shape[1:]),
            "size": self.preprocessing.size,
            "optimizer": self.recipe.optimizer,
            "batch_size": self.recipe.batch_size,
            "tf32": self.config.compute.tf32,
        }
        return fastest(allowed, measured_speeds(Path(self.config.output_dir) / "compute", key, allowed, trial))

    @property
    def eval_batch_size(self) -> int:
        """Images that share a forward pass in measurements."""
        limit = CPU_EVAL_BATCH if self.device.type == "cpu" else sys.maxsize
        return int(self.config.compute.eval_batch_size or min(self.config.model.eval_batch_size, limit))

    @property
    def dataset(self) -> ImageDataset:
        return self._loaded[0]

    @property
    def load_seconds(self) -> float:
        """How long loading the data took, when it was not in memory yet."""
        return self._loaded[1]

    @cached_property
    def _loaded(self) -> tuple[ImageDataset, float]:
        return load_dataset(content(self.config.dataset.load), content(self.config.dataset.subset), self.device)

    @cached_property
    def split(self) -> ForgetSplit:
        make_split = instantiate(self.config.task.split)
        if self.targets is not None:
            return requests_split(self.dataset, make_split, self.targets)
        split: ForgetSplit = make_split(self.dataset)
        return split

    @cached_property
    def targets(self) -> list[str | int] | None:
        """The targets of a sequence of forget requests, oldest first; None for a single one."""
        requests = content(self.config.requests)
        return None if requests["targets"] is None else first_targets(requests["targets"], requests["n"])

    @cached_property
    def preprocessing(self) -> Preprocessing:
        node = self.config.preprocessing
        mean, std = node.mean, node.std
        if mean is None or std is None:
            mean, std = channel_statistics(self.dataset.train)
        return Preprocessing(tuple(mean), tuple(std), node.size)

    @cached_property
    def recipe(self) -> Recipe:
        recipe: Recipe = instantiate(self.config.original.recipe)
        return recipe

    @cached_property
    def method(self) -> UnlearningMethod:
        """The method; in a sequence request by request, but the retrained model never saw any of the forgotten."""
        method: UnlearningMethod = instantiate(self.config.method)
        return method if self.targets is None or self.is_reference else Sequential(method)

    @cached_property
    def reference_method(self) -> UnlearningMethod | None:
        method: UnlearningMethod | None = instantiate(self.config.get("reference"))
        return method

    @property
    def is_reference(self) -> bool:
        """Whether this cell's method is the retrained model that the others are compared with."""
        return bool(content(self.config.method) == content(self.config.get("reference")))

    def build_model(self, seed: int, *, pretrained: bool = True) -> nn.Module:
        """Return a freshly initialised model on the device; without `pretrained`, random in every layer."""
        return self.compute.place(self._unplaced_model(seed, pretrained=pretrained))

    def _unplaced_model(self, seed: int, *, pretrained: bool) -> nn.Module:
        options = {} if pretrained else content(self.config.model.untrained)
        builder = instantiate(self.config.model.build, _partial_=True, **options)
        return build(builder, len(self.dataset.class_names), seed)

    @cached_property
    def original_key(self) -> dict[str, Any]:
        """What the original model depends on."""
        scientific = self.scientific
        return {name: scientific[name] for name in ("dataset", "model", "preprocessing", "original", "train_seed")} | {
            "data_fingerprint": self.dataset.fingerprint
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
        return run_id(self.scientific_hash, self.dataset.fingerprint)

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
