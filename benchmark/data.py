"""The data set of a configuration, loaded once for consecutive cells."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from hydra.utils import instantiate

from benchmark.store import content_hash
from datasets.base import ImageDataset
from datasets.splits import stratified_subset
from methods.timing import Stopwatch


def load_dataset(load: dict[str, Any], subset: dict[str, Any], device: torch.device) -> tuple[ImageDataset, float]:
    """Return the subset of a data set on the device, and the seconds that took; consecutive cells share both."""
    return _load_dataset(_Hashable(load, subset), device)


@dataclass(frozen=True, eq=False)
class _Hashable:
    """Configuration as a dictionary key."""

    load: dict[str, Any]
    subset: dict[str, Any]

    def __hash__(self) -> int:
        return hash(content_hash([self.load, self.subset]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashable) and (self.load, self.subset) == (other.load, other.subset)


@lru_cache(maxsize=2)
def _load_dataset(config: _Hashable, device: torch.device) -> tuple[ImageDataset, float]:
    stopwatch = Stopwatch(device)
    with stopwatch.phase("load"):
        dataset: ImageDataset = instantiate(config.load)
        subset = stratified_subset(dataset, **config.subset).to(device)
    return subset, stopwatch.seconds["load"]
