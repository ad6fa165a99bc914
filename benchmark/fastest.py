"""The precision and memory layout that train a model fastest on this device, measured once for each output folder."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from filelock import FileLock
from omegaconf import DictConfig
from torch import nn

from benchmark.provenance import device_name
from benchmark.store import content_hash, write_atomically
from datasets.base import LabelledImages
from datasets.batches import Preprocessing
from datasets.seeding import generator
from methods.timing import Stopwatch
from methods.training import Compute, Precision, Recipe, train

log = logging.getLogger(__name__)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
MARGIN = 0.95  # of the time of the way before it that a less exact or less usual way must stay below
STEPS, ENOUGH_SECONDS = 6, 0.6  # of one way: a trial ends with either
Trial = Callable[[Compute], float]  # way of computing -> images a second


def is_open(config: DictConfig) -> bool:
    """Return whether the configuration leaves precision or memory layout to a measurement."""
    return "auto" in (config.precision, config.channels_last)


def ways(config: DictConfig, device: torch.device) -> list[Compute]:
    """Return what the configuration allows on this device, the ways to be preferred first."""
    precisions = PRECISIONS if config.precision == "auto" else (config.precision,)
    if config.precision == "auto" and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
        precisions = ("float32",)
    layouts = (True, False) if config.channels_last == "auto" else (bool(config.channels_last),)
    return [Compute(device, precision, layout) for precision in precisions for layout in layouts]


def fastest(allowed: list[Compute], speeds: Mapping[str, float]) -> Compute:
    """Return the fastest of the ways; an earlier one where the gain is within the noise of a short trial."""
    best = allowed[0]
    for way in allowed[1:]:
        if speeds[name_of(best)] < MARGIN * speeds[name_of(way)]:
            best = way
    return best


def name_of(way: Compute) -> str:
    return f"{way.precision}, {'channels last' if way.channels_last else 'contiguous'}"


def measured_speeds(folder: Path, key: Mapping[str, Any], allowed: list[Compute], trial: Trial) -> dict[str, float]:
    """Return the images a second of each allowed way; measured by one process, read from `folder` by all others.

    So every run of a table computes in the same way, however the measurement came out.
    """
    device = allowed[0].device
    key = {**key, "device": device_name(device), "torch": torch.__version__, "ways": [name_of(way) for way in allowed]}
    path = folder / f"{content_hash(key)}.json"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            speeds = {name_of(way): trial(way) for way in allowed}
            write_atomically(path, json.dumps({"key": key, "images_per_second": speeds}, indent=1) + "\n")
            log.info("  fastest training: %s (%s)", name_of(fastest(allowed, speeds)), path)
        try:
            return {str(way): float(speed) for way, speed in json.loads(path.read_text())["images_per_second"].items()}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"Expected {path} to hold measured speeds, but it does not; delete it.") from error


def training_speed(
    model: nn.Module, data: LabelledImages, recipe: Recipe, *, preprocessing: Preprocessing, compute: Compute
) -> float:
    """Return the images a second that `model` trains on this device: the fastest of a few real steps.

    The first step, in which kernels are chosen and loaded, never counts. Compiled training counts as the same without
    compilation, which takes longer than many steps. The model is trained: do not use it for anything else.
    """
    compute = replace(compute, compile=False)
    sample = data.subset(torch.arange(min(recipe.batch_size, len(data)), device=data.device))
    one_step = replace(recipe, epochs=1, lr=1e-6, warmup_epochs=0)
    random = generator("speed", device=compute.device)
    seconds: list[float] = []
    while len(seconds) < 2 or (len(seconds) < STEPS and sum(seconds) < ENOUGH_SECONDS):
        stopwatch = Stopwatch(compute.device)
        with stopwatch.phase("step"):
            train(model, sample, one_step, preprocessing=preprocessing, random=random, compute=compute)
        seconds.append(stopwatch.seconds["step"])
    return len(sample) / min(seconds[1:])
