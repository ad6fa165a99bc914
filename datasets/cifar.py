"""CIFAR-10, CIFAR-100 and CIFAR-20 (the images of CIFAR-100 under their 20 superclasses)."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from datasets.arrays import load_arrays
from datasets.base import ImageDataset, LabelledImages

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# Official order; the five superclasses that the paper forgets carry the paper's short names.
SUPERCLASSES = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "veg": "apple mushroom orange pear sweet_pepper",
    "electrical_devices": "clock keyboard lamp telephone television",
    "furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "outdoor_things": "bridge castle house road skyscraper",
    "natural_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicle1": "bicycle bus motorcycle pickup_truck train",
    "vehicle2": "lawn_mower rocket streetcar tank tractor",
}
CIFAR100_CLASSES = tuple(sorted(name for members in SUPERCLASSES.values() for name in members.split()))


def fine_to_coarse() -> Tensor:
    """Return the superclass of each CIFAR-100 class, (100,) int64."""
    coarse = {name: i for i, members in enumerate(SUPERCLASSES.values()) for name in members.split()}
    return torch.tensor([coarse[name] for name in CIFAR100_CLASSES])


def load_cifar10(data_dir: str | Path) -> ImageDataset:
    """Return CIFAR-10 from `data_dir/cifar10.npz`, downloaded by torchvision where it is missing."""
    arrays = load_arrays(Path(data_dir), "cifar10", 10, lambda folder: official_arrays("CIFAR10", folder))
    train, test = (LabelledImages.from_tensors(*arrays.split(part)) for part in ("train", "test"))
    return ImageDataset("cifar10", train, test, CIFAR10_CLASSES, None, arrays.fingerprint)


def load_cifar100(data_dir: str | Path, labels: Literal["fine", "coarse"]) -> ImageDataset:
    """Return CIFAR-100 from `data_dir/cifar100.npz`; `coarse` labels make it CIFAR-20."""
    if labels not in ("fine", "coarse"):
        raise ValueError(f"Expected dataset.load.labels to be fine or coarse, but got {labels!r}.")
    arrays = load_arrays(Path(data_dir), "cifar100", 100, lambda folder: official_arrays("CIFAR100", folder))
    parts = []
    for part in ("train", "test"):
        images, fine = arrays.split(part)
        parts.append(LabelledImages.from_tensors(images, fine if labels == "fine" else fine_to_coarse()[fine], fine))
    names = CIFAR100_CLASSES if labels == "fine" else tuple(SUPERCLASSES)
    name = "cifar100" if labels == "fine" else "cifar20"
    return ImageDataset(name, parts[0], parts[1], names, CIFAR100_CLASSES, arrays.fingerprint)


def official_arrays(torchvision_name: str, folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Download the official release into `folder` and return its four arrays."""
    from torchvision import datasets as torchvision_datasets

    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for part in ("train", "test"):
        data = getattr(torchvision_datasets, torchvision_name)(folder, train=part == "train", download=True)
        arrays[f"{part}_images"] = np.asarray(data.data, dtype=np.uint8)
        arrays[f"{part}_labels"] = np.asarray(data.targets, dtype=np.int64)
    return arrays
