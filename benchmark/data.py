"""The data set of a configuration, loaded once for consecutive cells."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from hydra.utils import instantiate

from benchmark.store import content_hash
from datasets.base import ImageDataset
from datasets.splits import stratified_subset


def load_dataset(load: dict[str, Any], subset: dict[str, Any], device: torch.device) -> ImageDataset:
    """Return the subset of a data set on the device; consecutive cells of a grid share it."""
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
def _load_dataset(config: _Hashable, device: torch.device) -> ImageDataset:
    dataset: ImageDataset = instantiate(config.load)
    return stratified_subset(dataset, **config.subset).to(device)
