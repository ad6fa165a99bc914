"""The three unlearning tasks as splits of a data set, and the stratified subset of the quick profile."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from datasets.base import ForgetSplit, ImageDataset, LabelledImages
from datasets.seeding import generator


def class_split(dataset: ImageDataset, *, target: str | int) -> ForgetSplit:
    """Forget every sample of one class; `target` is its name or index."""
    position = find_class(dataset.class_names, target, what=f"class of {dataset.name}")
    return split_by_mask(
        dataset,
        dataset.train.labels == position,
        dataset.test.labels == position,
        target=dataset.class_names[position],
    )


def subclass_split(dataset: ImageDataset, *, target: str | int) -> ForgetSplit:
    """Forget every sample of one fine class, while models and metrics see the superclasses."""
    train, test, names = dataset.train.fine_labels, dataset.test.fine_labels, dataset.fine_class_names
    if train is None or test is None or names is None or len(names) == len(dataset.class_names):
        raise ValueError(
            f"Expected a data set with superclasses, but {dataset.name} has none; "
            f"use dataset=cifar20 or dataset=digits with task=subclass."
        )
    position = find_class(names, target, what=f"fine class of {dataset.name}")
    return split_by_mask(dataset, train == position, test == position, target=names[position], level="subclass")


def random_split(dataset: ImageDataset, *, n: int, seed: int) -> ForgetSplit:
    """Forget `n` training samples, drawn without replacement by (data set, n, seed) alone.

    D_r accuracy is measured on the whole test set, D_f accuracy on the forgotten training samples.
    """
    total = len(dataset.train)
    if not isinstance(n, int) or not 0 < n < total:
        raise ValueError(f"Expected task.n to be in 1 … {total - 1} for {dataset.name}, but got {n!r}.")
    order = torch.randperm(total, generator=generator("forget", dataset.name, "random", n, seed))
    mask = torch.zeros(total, dtype=torch.bool)
    mask[order[:n]] = True
    forget, retain = partition(dataset.train, mask.to(dataset.train.device))
    return ForgetSplit(forget, retain, forget, dataset.test, len(dataset.class_names), f"random-{n}")


def find_class(names: tuple[str, ...], target: str | int, *, what: str) -> int:
    """Return the index of the class that `target` (name or index) means."""
    text = str(target)
    if text in names:
        return names.index(text)
    if text.lstrip("-").isdigit() and 0 <= int(text) < len(names):
        return int(text)
    raise ValueError(
        f"Expected task.target to be a {what} (0 … {len(names) - 1}, or one of {', '.join(names)}), but got {text!r}."
    )


def partition(data: LabelledImages, mask: Tensor) -> tuple[LabelledImages, LabelledImages]:
    """Return the samples inside and outside `mask` (N,) bool, both in their old order."""
    return data.subset(mask), data.subset(~mask)


def split_by_mask(
    dataset: ImageDataset,
    train: Tensor,
    test: Tensor,
    *,
    target: str,
    level: Literal["class", "subclass"] = "class",
) -> ForgetSplit:
    forget_train, retain_train = partition(dataset.train, train)
    forget_test, retain_test = partition(dataset.test, test)
    return ForgetSplit(forget_train, retain_train, forget_test, retain_test, len(dataset.class_names), target, level)


def stratified_subset(
    dataset: ImageDataset, *, train_images: int | None, test_images: int | None, seed: int,
    held_out: float | None = None,
) -> ImageDataset:  # fmt: skip
    """Return at most so many training and test images, every (fine) class by its share; None keeps all.

    With `held_out` that share of these training images becomes the test set, and no test image is left.
    """
    train = draw_stratified(dataset.train, train_images, seed, "train")
    if held_out is not None:
        rest, test = hold_out(train, held_out, seed)
        return replace(dataset, train=rest, test=test)
    same = dataset.test is dataset.train
    test = train if same else draw_stratified(dataset.test, test_images, seed, "test")
    return replace(dataset, train=train, test=test)


def hold_out(data: LabelledImages, share: float, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Return the samples that stay and a stratified `share` of them that is held out, both in their old order."""
    if not 0 < share < 1:
        raise ValueError(f"Expected held_out to be a share between 0 and 1, but got {share}.")
    held = draw_stratified(data, round(share * len(data)), seed, "held_out")
    stays = ~torch.isin(data.index, held.index)
    return data.subset(stays), held


def draw_stratified(data: LabelledImages, n: int | None, seed: int, part: str) -> LabelledImages:
    if n is None or n >= len(data):
        return data
    classes = (data.labels if data.fine_labels is None else data.fine_labels).cpu()
    if n < len(classes.unique()):
        raise ValueError(f"Expected {part}_images to be at least one a class ({len(classes.unique())}), but got {n}.")
    order = torch.randperm(len(data), generator=generator("subset", part, seed))
    by_class = order[torch.argsort(classes[order], stable=True)]
    counts = torch.bincount(classes)
    starts = counts.cumsum(0) - counts
    rank = torch.arange(len(data)) - starts[classes[by_class]]
    # The samples whose relative rank within their class is smallest: each class gives its share, up to one.
    share = (rank + 0.5) / counts[classes[by_class]]
    chosen = by_class[torch.argsort(share, stable=True)[:n]]
    return data.subset(chosen.sort().values.to(data.device))
