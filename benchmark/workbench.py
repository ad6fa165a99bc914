"""The objects of a cell: data set, split, model, method and device, made on first use."""

import sys
import tempfile
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from benchmark.artefacts import Artefact, Store
from benchmark.cell import Cell, content, without_about
from benchmark.device import compute_of, provenance, repeatable
from benchmark.files import content_hash
from benchmark.models import build
from benchmark.schema import check
from benchmark.training_state import StoredTraining
from datasets.base import ForgetSplit, ImageDataset, LabelledImages, check_fingerprint
from datasets.batches import Preprocessing, channel_statistics
from datasets.splits import requests_split, stratified_subset
from methods.base import UnlearningMethod, skip_reason
from methods.timing import Stopwatch
from methods.training import Compute, Recipe
from metrics.base import Metric, Metrics

CPU_EVAL_BATCH = 100  # images: on a CPU larger batches leave the caches and are slower


@dataclass(frozen=True, eq=False)
class Workbench:
    """The objects that a cell's configuration describes; ValueError for a value that its key cannot have."""

    cell: Cell

    def __post_init__(self) -> None:
        check(self.config, self.cell.contents.item)

    @property
    def config(self) -> DictConfig:
        return self.cell.config

    def validate(self) -> None:
        """Raise for a wrong option, target or data file, and for a folder that cannot be written, before any training.

        The data are loaded last. The code is hashed here, as it is imported: whoever edits it while a model trains
        gets a record of the code that ran.
        """
        _ = self.compute, self.method, self.reference_method, self.recipe, self.metrics
        _ = self.cell.code, self.provenance()
        folder = Path(self.config.output_dir)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ValueError(f"Expected output_dir to be a writable folder, but {folder} is not ({reason}).") from error
        _ = self.split

    @cached_property
    def compute(self) -> Compute:
        return compute_of(self.config.compute)

    @property
    def device(self) -> torch.device:
        return self.compute.device

    def provenance(self) -> dict[str, Any]:
        """Return the code, the libraries and the device of this process."""
        return provenance(self.compute)

    @cached_property
    def store(self) -> Store:
        return Store(Path(self.config.output_dir) / "artefacts", self.provenance, reuse=bool(self.config.reuse))

    def training_state(self, node: Artefact, *names: object, extra: dict[str, Any] | None = None) -> StoredTraining:
        """Return the keeper of the training `names` of an artefact while it is made."""
        origin = repeatable(self.provenance()) | {"code": dict(node.code)}  # the same in the process that continues it
        folder = self.store.training_folder(node) / content_hash([*map(str, names), origin])
        return StoredTraining(folder, self.config.compute.progress_seconds, {} if extra is None else extra)

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
        node = self.config.dataset
        config = [without_about(node.load), content(node.subset), node.get("fingerprint")]
        return load_dataset(yaml.safe_dump(config), self.device)

    @cached_property
    def split(self) -> ForgetSplit:
        make_split = instantiate(without_about(self.config.task.split))
        if self.cell.targets is not None:
            return requests_split(self.dataset, make_split, self.cell.targets)
        split: ForgetSplit = make_split(self.dataset)
        return split

    @property
    def forgotten_rows(self) -> Tensor:
        """The place of each image of D_f in the training set, (N_f,) int32: with it, runs tell their images apart."""
        order = self.dataset.train.index.argsort()
        places = torch.searchsorted(self.dataset.train.index[order], self.split.forget_train.index)
        return order[places].int().cpu()

    @property
    def training_images(self) -> LabelledImages:
        """The images that the original learns; under the labels of the forget set if the task has its own."""
        train = self.dataset.train
        return train.labelled_as(self.split.forget_train) if self.config.task.get("relabels") else train

    @cached_property
    def preprocessing(self) -> Preprocessing:
        node = self.config.preprocessing
        mean, std = node.mean, node.std
        if mean is None or std is None:
            mean, std = channel_statistics(self.dataset.train)
        return Preprocessing(tuple(mean), tuple(std), node.size)

    @cached_property
    def recipe(self) -> Recipe:
        recipe: Recipe = instantiate(without_about(self.config.original.recipe))
        return recipe

    @cached_property
    def method(self) -> UnlearningMethod:
        node = without_about(self.config.method)
        node.pop("other", None)  # seeds, see `Cell.other`
        method: UnlearningMethod = instantiate(node)
        return method

    @cached_property
    def reference_method(self) -> UnlearningMethod | None:
        method: UnlearningMethod | None = instantiate(without_about(self.config.get("reference")))
        return method

    @cached_property
    def skipped(self) -> str | None:
        """Why the method does not apply to the task; None if it does."""
        return skip_reason(self.method, self.split)

    @cached_property
    def metrics(self) -> dict[str, Metric | Metrics]:
        return {name: instantiate(node) for name, node in self.cell.metrics.items()}

    def build_model(self, seed: int, *, pretrained: bool = True) -> nn.Module:
        """Return a freshly initialised model on the device; without `pretrained`, random in every layer."""
        options = {} if pretrained else content(self.config.model.untrained)
        builder = instantiate(without_about(self.config.model.build), _partial_=True, **options)
        return self.compute.place(build(builder, len(self.dataset.class_names), seed))


@lru_cache(maxsize=2)
def load_dataset(config: str, device: torch.device) -> tuple[ImageDataset, float]:
    """Return the subset of a data set on the device, and the seconds that took; consecutive cells share both.

    Args:
        config: as YAML, for the cache: how to load the data, the options of the subset, the fingerprint.
    """
    stopwatch = Stopwatch(device)
    load, options, fingerprint = yaml.safe_load(config)
    with stopwatch.phase("load"):
        dataset: ImageDataset = instantiate(load)
        check_fingerprint(dataset, fingerprint)
        subset = stratified_subset(dataset, **options).to(device)
    return subset, stopwatch.seconds["load"]
