"""CIFAR-10, CIFAR-100 and CIFAR-20 (the images of CIFAR-100 under their 20 superclasses)."""

from pathlib import Path
from typing import Literal

import numpy as np

from datasets.arrays import Array, load_arrays
from datasets.base import ImageDataset, LabelledImages
from datasets.cifar_classes import CIFAR10, CIFAR20, CIFAR100, SUPERCLASS_OF


def load_cifar10(data_dir: str | Path) -> ImageDataset:
    """Return CIFAR-10 from `data_dir/cifar10.npz`, else from torchvision's folder in `data_dir` or its download."""
    arrays = load_arrays(Path(data_dir), "cifar10", 10, lambda folder: official_arrays("CIFAR10", folder))
    train, test = (LabelledImages.from_tensors(*arrays.part(part)) for part in ("train", "test"))
    return ImageDataset("cifar10", train, test, CIFAR10, CIFAR10, arrays.fingerprint)


def load_cifar100(data_dir: str | Path, labels: Literal["fine", "coarse"]) -> ImageDataset:
    """Return CIFAR-100 from `data_dir/cifar100.npz`; `coarse` labels make it CIFAR-20."""
    arrays = load_arrays(Path(data_dir), "cifar100", 100, lambda folder: official_arrays("CIFAR100", folder))
    name, names = ("cifar100", CIFAR100) if labels == "fine" else ("cifar20", CIFAR20)
    label_of = np.arange(100) if labels == "fine" else fine_to_coarse()
    parts = []
    for part in ("train", "test"):
        images, fine = arrays.part(part)
        parts.append(LabelledImages.from_tensors(images, label_of[fine], fine))
    return ImageDataset(name, parts[0], parts[1], names, CIFAR100, arrays.fingerprint)


def fine_to_coarse() -> Array:
    """Return the superclass of each CIFAR-100 class, (100,) int64."""
    return np.array([CIFAR20.index(SUPERCLASS_OF[name]) for name in CIFAR100])


def official_arrays(release: str, folder: Path) -> dict[str, Array]:
    """Return the four arrays of the official release: torchvision's folder beside or in `folder`, or its download."""
    from torchvision import datasets as torchvision_datasets

    load = getattr(torchvision_datasets, release)
    root = next((place for place in (folder.parent, folder) if (place / load.base_folder).is_dir()), folder)
    arrays: dict[str, Array] = {}
    for part in ("train", "test"):
        data = load(root, train=part == "train", download=True)
        arrays[f"{part}_images"] = np.asarray(data.data, dtype=np.uint8)
        arrays[f"{part}_labels"] = np.asarray(data.targets, dtype=np.int64)
    return arrays
