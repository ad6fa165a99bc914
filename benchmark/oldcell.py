"""What the code before the graph of artefacts expects of a cell; goes with it."""

import sys
import tempfile
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from hydra.utils import instantiate
from torch import nn

from benchmark.cell import Cell, content, without_about
from benchmark.data import load_dataset
from benchmark.fastest import fastest, is_open, measured_speeds, training_speed, ways
from benchmark.models import build
from benchmark.reproducibility import resolve_device
from datasets.base import ForgetSplit, ImageDataset
from datasets.batches import Preprocessing, channel_statistics
from datasets.sequence import sequence_split
from methods.base import UnlearningMethod
from methods.requests import Sequential
from methods.training import Compute, Recipe

CPU_EVAL_BATCH = 100  # images: on a CPU larger batches leave the caches and are slower


class OldCell(Cell):
    """A cell with the objects that it describes."""

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
        return replace(self._way(), compile=self.compiles)

    @property
    def compiles(self) -> bool:
        auto = self.config.compute.compile == "auto"
        return self.device.type == "cuda" if auto else bool(self.config.compute.compile)

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
            return sequence_split(self.dataset, make_split, self.targets)
        split: ForgetSplit = make_split(self.dataset)
        return split

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
        method: UnlearningMethod = instantiate(without_about(self.config.method))
        return method if self.targets is None or self.is_reference else Sequential(method)

    @cached_property
    def reference_method(self) -> UnlearningMethod | None:
        method: UnlearningMethod | None = instantiate(without_about(self.config.get("reference")))
        return method

    def build_model(self, seed: int, *, pretrained: bool = True) -> nn.Module:
        """Return a freshly initialised model on the device; without `pretrained`, random in every layer."""
        return self.compute.place(self._unplaced_model(seed, pretrained=pretrained))

    def _unplaced_model(self, seed: int, *, pretrained: bool) -> nn.Module:
        options = {} if pretrained else content(self.config.model.untrained)
        builder = instantiate(self.config.model.build, _partial_=True, **options)
        return build(builder, len(self.dataset.class_names), seed)
