"""The steps that are measured, each in the suite's way and in the textbook way, on the same checkpoint."""

import copy
import logging
import os
import shutil
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import chain
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from benchmark.evaluate import evaluate
from benchmark.fastest import name_of, ways
from benchmark.oldcell import OldCell as Cell
from datasets.base import LabelledImages
from datasets.batches import Batches
from datasets.seeding import generator
from methods.dampening.importance import Reduction, parameter_importance
from methods.fisher import sample_error
from methods.fisher_information import fisher_diagonal
from methods.ssd import SSD
from methods.training import Compute, Recipe, train
from metrics.membership import fit_attack
from scripts.fisher_tolerance import literal_loop
from scripts.speed_measure import Result, Step
from scripts.speed_textbook import Textbook, importance_of

log = logging.getLogger(__name__)
METRICS = ("retain_accuracy", "forget_accuracy", "mia")
ATTACK_SAMPLES = (50_000, 10_000)
FISHER_IMAGES = 32  # a barely trained network needs a gradient for almost every class: seconds an image
EXACT_IMAGES = 16  # no more than a batch
COMPILED_EPOCHS = 4  # of one call: a GPU takes the few steps of an epoch in as long as starting them


def can_compile(device: torch.device) -> bool:
    """Return whether torch.compile finds a compiler; on a GPU it is Triton's, for C, and needs Python's headers."""
    if device.type == "cuda":
        compilers = [os.environ.get("CC", "gcc"), "clang"]
        return any(map(shutil.which, compilers)) and Path(sysconfig.get_path("include"), "Python.h").exists()
    return shutil.which("g++") is not None


@dataclass(frozen=True)
class Compiled(Compute):
    """Trains the one model whose compiled `network` it is given; `Compute` compiles anew in each training."""

    network: nn.Module | None = None

    def compiled(self, model: nn.Module) -> nn.Module:
        return super().compiled(model) if self.network is None else self.network


@dataclass(frozen=True)
class Steps:
    """Builds the steps of an SSD cell.

    Attributes:
        sample: training images of the steps that need no whole data set.
        literal: images on which Fisher's literal loop runs.
        tolerance: of the Fisher information.
        workers: of the textbook way's DataLoader.
    """

    cell: Cell
    sample: int
    literal: int
    tolerance: float
    workers: int

    @cached_property
    def textbook(self) -> Textbook:
        return Textbook(self.cell.device, self.cell.preprocessing, self.ssd.batch_size, self.workers)

    @property
    def ssd(self) -> SSD:
        method = self.cell.method
        if not isinstance(method, SSD):
            raise ValueError(f"Expected method to be ssd, but got {type(method).__name__}.")
        return method

    @cached_property
    def recipe(self) -> Recipe:
        """The cell's recipe, one epoch of it at a small constant learning rate."""
        return replace(self.cell.recipe, epochs=1, lr=0.01, warmup_epochs=0, milestones=())

    @cached_property
    def few(self) -> LabelledImages:
        data = self.cell.dataset.train
        order = torch.randperm(len(data), generator=generator("speed sample"))
        return data.subset(order[: self.sample].to(data.device))

    @cached_property
    def model(self) -> nn.Module:
        """The checkpoint: one epoch on the sample."""
        return self.train(self.cell.build_model(0), self.cell.compute, self.few)

    @cached_property
    def plain(self) -> nn.Module:
        """The same checkpoint in torch's default memory layout."""
        return copy.deepcopy(self.model).to(memory_format=torch.contiguous_format)

    def train(self, model: nn.Module, compute: Compute, data: LabelledImages, *, epochs: int = 1) -> nn.Module:
        return train(
            model, data, replace(self.recipe, epochs=epochs), preprocessing=self.cell.preprocessing,
            random=generator("speed", device=compute.device), compute=compute,
        )  # fmt: skip

    def batches(self, data: LabelledImages) -> Batches:
        return Batches(data, self.ssd.batch_size, self.cell.preprocessing)

    def evaluate(self, model: nn.Module) -> Result:
        size = self.cell.eval_batch_size
        outputs = evaluate(model, self.cell.split, self.cell.preprocessing, batch_size=size, changed_fraction=0.0)
        return {name: torch.tensor(instantiate(self.cell.config.metric[name])(outputs)) for name in METRICS}

    def textbook_evaluate(self, model: nn.Module) -> Result:
        metric = self.cell.config.metric
        per_batch = metric.retain_accuracy.averaging == "per_batch"
        return self.textbook.evaluate(model, self.cell.split, per_batch=per_batch, c=metric.mia.c)

    def all(self) -> dict[str, Step]:
        """Return the steps by name; none computes anything yet but the checkpoint."""
        from scripts.speed_cells import cell_steps

        return {step.name: step for step in chain(self._parts(), cell_steps(self), self._compiled())}

    def _parts(self) -> Iterator[Step]:
        n, few, plain, textbook = len(self.few), self.few, self.plain, self.textbook
        bf16 = self.cell.compute.precision == "bfloat16"
        yield Step(
            "training", "images", n,
            lambda: dict(self.train(copy.deepcopy(self.model), self.cell.compute, few).named_parameters()),
            lambda: textbook.train(copy.deepcopy(plain), few, self.recipe) or {},
            agreement=self._training_agreement, dtype=torch.bfloat16 if bf16 else torch.float32,
        )  # fmt: skip
        for way in ways(OmegaConf.create({"precision": "auto", "channels_last": "auto"}), self.cell.device):
            yield Step(
                f"training {name_of(way)}".replace(",", ""), "images", n,
                lambda w=way: dict(self.train(w.place(copy.deepcopy(self.model)), w, few).named_parameters()),
                dtype=torch.bfloat16 if way.precision == "bfloat16" else torch.float32,
            )  # fmt: skip
        for reduction, size in (("batch_mean", self.ssd.batch_size), ("per_sample", 1)):

            def importance(r: Reduction = reduction) -> Result:
                return parameter_importance(self.model, self.batches(few), reduction=r)

            def literal(s: int = size) -> Result:  # on the very same images: transforms round in another order
                return importance_of(plain, Batches(few, s, self.cell.preprocessing), self.cell.device)

            yield Step(
                f"importance_{reduction}", "images", n, importance,
                lambda s=size: textbook.importance(plain, few, s),
                agreement=lambda a=importance, b=literal: (a(), b()),
                exact=lambda r=reduction, s=size: self._exact_importances(r, s),
            )  # fmt: skip
        fisher_data = self._first(FISHER_IMAGES)
        yield Step(
            "fisher", "images", len(fisher_data), lambda: self._fisher(fisher_data, self.tolerance),
            lambda: literal_loop(plain, self._literal_batches()), textbook_amount=self.literal,
            agreement=lambda: (self._fisher(self._literal, 0.0), literal_loop(plain, self._literal_batches())),
        )  # fmt: skip
        random = torch.Generator().manual_seed(0)
        members, others = (torch.rand(k, generator=random, dtype=torch.float64) for k in ATTACK_SAMPLES)
        yield Step(
            "attack_fit", "samples", sum(ATTACK_SAMPLES),
            lambda: {"coef": torch.from_numpy(fit_attack(members.square(), others, c=2.0).coef_)},
        )  # fmt: skip

    def _first(self, n: int) -> LabelledImages:
        return self.few.subset(torch.arange(min(n, len(self.few)), device=self.few.device))

    @property
    def _literal(self) -> LabelledImages:
        return self._first(self.literal)

    def _literal_batches(self) -> Batches:
        return self.batches(self._literal)

    def _fisher(self, data: LabelledImages, tolerance: float) -> Result:
        """Return the information of `data`, each sample with the error that it may have among the whole retain set."""
        error = sample_error(tolerance, len(self.cell.split.retain_train))
        random = generator("fisher", device=data.device)
        return fisher_diagonal(self.model, self.batches(data), error=error, random=random)

    def _exact_importances(self, reduction: Reduction, size: int) -> tuple[Result, Result]:
        """Return the importances of a few images in float64, and those of the plain loop."""
        model = copy.deepcopy(self.plain).double()
        images, labels = next(iter(Batches(self._first(EXACT_IMAGES), EXACT_IMAGES, self.cell.preprocessing)))
        batch = (images.double(), labels)
        plain = zip(batch[0].split(size), labels.split(size), strict=True)
        return parameter_importance(model, [batch], reduction=reduction), importance_of(model, plain, images.device)

    def _training_agreement(self) -> tuple[Result, Result]:
        """One step in float32 on the same images in the same order, without augmentation."""
        recipe = self.recipe.without_augmentation()
        data = self._first(recipe.batch_size)
        order = torch.randperm(len(data), generator=generator("agreement", device=data.device), device=data.device)
        ours, plain = copy.deepcopy(self.model), copy.deepcopy(self.plain)
        train(
            ours, data, recipe, preprocessing=self.cell.preprocessing,
            random=generator("agreement", device=data.device), compute=replace(self.cell.compute, precision="float32"),
        )  # fmt: skip
        self.textbook.train(plain, data.subset(order), recipe, shuffle=False)
        return dict(ours.named_parameters()), dict(plain.named_parameters())

    def _compiled(self) -> Iterator[Step]:
        """Yield training through torch.compile: always of the same model, for CUDA graphs are bound to its weights."""
        size, way = self.recipe.batch_size, self.cell.compute
        data = self._first(len(self.few) // size * size)  # whole batches: others are not compiled
        if len(data) == 0 or not can_compile(self.cell.device):
            log.info("training compiled: left out; it needs a compiler and a sample of at least %d images", size)
            return

        @cache
        def compiled() -> tuple[nn.Module, Compute]:
            model = copy.deepcopy(self.model)
            network = replace(way, compile=True).compiled(model)
            return model, Compiled(way.device, way.precision, way.channels_last, network=network)

        def training(model: nn.Module, compute: Compute) -> Result:
            return dict(self.train(model, compute, data, epochs=COMPILED_EPOCHS).named_parameters())

        yield Step(
            "training compiled", "images", COMPILED_EPOCHS * len(data), lambda: training(*compiled()),
            counted=lambda: training(copy.deepcopy(self.model), replace(way, compile=False)),
            dtype=torch.bfloat16 if way.precision == "bfloat16" else torch.float32,
        )  # fmt: skip
