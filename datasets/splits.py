"""The unlearning tasks as splits of a data set, forget requests in a row, and the stratified subset of a profile."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Annotated, Literal

import torch
from torch import Tensor

from datasets.base import ForgetSplit, ImageDataset, LabelledImages
from datasets.seeding import generator
from datasets.targets import find_class, read_request
from datasets.values import check_value

Target = str | int | Sequence[str | int]
Share = Annotated[float, "(0, 1)"]
NO_REQUESTS = "Expected a task that forgets classes for several requests; use task=class or task=subclass."


def class_split(dataset: ImageDataset, *, target: Target) -> ForgetSplit:
    """Forget every sample of one class, or of several; `target` is a name or an index, or a sequence of them."""
    return forget_label(dataset, dataset.class_names, target, "class")


def subclass_split(dataset: ImageDataset, *, target: Target) -> ForgetSplit:
    """Forget every sample of one fine class, or of several, while models and metrics see the superclasses."""
    if dataset.fine_class_names == dataset.class_names:
        raise ValueError(
            f"Expected a data set with superclasses, but {dataset.name} has none; "
            f"use dataset=cifar20 or dataset=digits with task=subclass."
        )
    return forget_label(dataset, dataset.fine_class_names, target, "subclass")


def forget_label(
    dataset: ImageDataset, names: Sequence[str], target: Target, level: Literal["class", "subclass"]
) -> ForgetSplit:
    kind = "class" if level == "class" else "fine class"
    targets = [target] if isinstance(target, str | int) else target
    positions = sorted(find_class(names, one, what=f"{kind} of {dataset.name}") for one in targets)
    if not positions or len(set(positions)) < len(positions):
        raise ValueError(f"Expected task.target to name at least one {kind}, and each once, but got {list(targets)}.")

    def parted(data: LabelledImages) -> tuple[LabelledImages, LabelledImages]:
        groups = data.labels if level == "class" else data.fine_labels
        return partition(data, torch.isin(groups, torch.tensor(positions, device=data.device)))

    parts = *parted(dataset.train), *parted(dataset.test)
    name = "+".join(names[position] for position in positions)
    unseen = None if dataset.validation is None else parted(dataset.validation)[0]
    return ForgetSplit(*parts, len(dataset.class_names), name, level, validation=unseen)


def random_split(
    dataset: ImageDataset, *, n: Annotated[int, "[1, inf)"], seed: int, pool: Annotated[int, "[1, inf)"] | None = None
) -> ForgetSplit:
    """Forget `n` training samples, drawn without replacement by (data set, n, seed) alone.

    D_r accuracy is measured on the whole test set, D_f accuracy on the forgotten training samples.

    Args:
        pool: draw from this many training samples, the same under every seed, so that seeds share forgotten samples.
    """
    total = len(dataset.train)
    if not 0 < n < total:
        raise ValueError(f"Expected task.n to be in 1 … {total - 1} for {dataset.name}, but got {n!r}.")
    if pool is not None and not n <= pool <= total:
        raise ValueError(f"Expected task.pool to be in {n} … {total} for {dataset.name}, but got {pool!r}.")
    pooled = torch.arange(total)
    if pool is not None:
        pooled = torch.randperm(total, generator=generator("forget", dataset.name, "pool", pool))[:pool]
    order = torch.randperm(len(pooled), generator=generator("forget", dataset.name, "random", n, seed))
    mask = torch.zeros(total, dtype=torch.bool)
    mask[pooled[order[:n]]] = True
    return forget_samples(dataset, mask, f"random-{n}")


def confusion_split(
    dataset: ImageDataset, *, target: Target, n: Annotated[int, "[1, inf)"], seed: int
) -> ForgetSplit:  # fmt: skip
    """Forget `n` training samples of each of two classes, all of them under the label of the other class.

    Interclass confusion of Goel et al., arXiv 2201.06640: the original model learnt these labels and confuses the two
    classes; one that never saw the samples does not. Measured as the random task is, so D_f accuracy is the share of
    D_f that is still taken for the other class. The draw depends on (data set, class, seed) alone.
    """
    names, train = dataset.class_names, dataset.train
    targets = [target] if isinstance(target, str | int) else target
    labels = sorted({find_class(names, one, what=f"class of {dataset.name}") for one in targets})
    if len(labels) != 2 or len(targets) != 2:
        raise ValueError(f"Expected task.target to name two classes that are confused, but got {list(targets)}.")
    mask = torch.zeros(len(train), dtype=torch.bool)
    for label in labels:
        rows = (train.labels.cpu() == label).nonzero().flatten()
        if not 0 < n < len(rows):
            raise ValueError(
                f"Expected task.n to be in 1 … {len(rows) - 1}, so that some images of {names[label]!r} keep their "
                f"label, but got {n!r}."
            )
        order = torch.randperm(len(rows), generator=generator("forget", dataset.name, "confusion", names[label], seed))
        mask[rows[order[:n]]] = True
    split = forget_samples(dataset, mask, "+".join(names[label] for label in labels))

    def swapped(data: LabelledImages) -> LabelledImages:
        return data.relabelled(sum(labels) - data.labels)

    forget, unseen = swapped(split.forget_train), dataset.validation
    if unseen is not None:
        unseen = swapped(unseen.subset(torch.isin(unseen.labels, torch.tensor(labels, device=unseen.device))))
    return replace(split, forget_train=forget, forget_test=forget, validation=unseen)


def indices_split(dataset: ImageDataset, *, file: str) -> ForgetSplit:
    """Forget the training samples that the lines of a file name; see `read_request`. Measured as the random task is."""
    lines, train = read_request(file, dataset.file_names), dataset.train
    present = set(train.index.tolist())
    absent = [row for row in lines if row not in present]
    if absent:
        row, last = absent[0], len(train.storage) - 1
        name = dataset.file_names[row] if row < len(dataset.file_names) else row
        apart = [
            part for part in (dataset.test, dataset.validation) if part is not None and part.storage is train.storage
        ]
        reason, hint = "is a test image, or dataset.subset.train_images (null: all) leaves it out", "remove the line"
        if row > last:
            reason = f"is more than the last index, {last}"
        elif any(row in part.index.tolist() for part in apart):
            reason = (
                "is a test image, or search.held_out, dataset.subset.held_out or .validation holds it out of training"
            )
            hint = "set that to null, or name no test image"
        more = f" So for lines {', '.join(str(lines[row]) for row in absent[1:6])}." if len(absent) > 1 else ""
        raise ValueError(
            f"Expected line {lines[row]} of {file} to name a training image, but {name} {reason}; {hint}.{more}"
        )
    return forget_samples(dataset, torch.isin(train.index.cpu(), torch.tensor(list(lines))), f"{len(lines)} samples")


def forget_samples(dataset: ImageDataset, mask: Tensor, name: str) -> ForgetSplit:
    """Forget the training samples inside `mask` (N,) bool; D_f accuracy is measured on themselves."""
    forget, retain = partition(dataset.train, mask.to(dataset.train.device))
    n_classes = len(dataset.class_names)
    return ForgetSplit(forget, retain, forget, dataset.test, n_classes, name, validation=dataset.validation)


def requests_split(
    dataset: ImageDataset, make_split: Callable[..., ForgetSplit], targets: Sequence[Target]
) -> ForgetSplit:
    """Return the split after the last of several forget requests, with the requests themselves.

    Its forget part is everything forgotten so far, in the order of the requests; its retain part is the rest. Each
    request is an ordinary split of the samples that earlier requests left: it forgets the newest target alone, and
    earlier targets are in none of its parts.

    Args:
        make_split: `make_split(dataset, target=…)`, as the configuration of the class and subclass tasks gives it.
        targets: names or indices, oldest request first.

    Raises:
        ValueError: the task has no target; `targets` is empty, names an unknown target, names one twice, or leaves
            nothing to retain.
    """
    if not isinstance(make_split, partial) or "target" not in make_split.keywords:
        raise ValueError(NO_REQUESTS)
    if not targets:
        raise ValueError("Expected requests.targets to name at least one target, but got none.")
    requests: list[ForgetSplit] = []
    left = dataset
    for target in targets:
        name = make_split(dataset, target=target).forget_target
        if name in [request.forget_target for request in requests]:
            raise ValueError(f"Expected every target of requests.targets once, but got {name!r} twice; remove one.")
        requests.append(make_split(left, target=target))
        if requests[-1].forget_test_is_train:
            raise ValueError(NO_REQUESTS)
        left = replace(left, train=requests[-1].retain_train, test=requests[-1].retain_test)
    return replace(
        requests[-1],
        forget_train=reduce(LabelledImages.join, (request.forget_train for request in requests)),
        forget_test=reduce(LabelledImages.join, (request.forget_test for request in requests)),
        forget_target="+".join(request.forget_target for request in requests),
        requests=tuple(requests),
    )


def partition(data: LabelledImages, mask: Tensor) -> tuple[LabelledImages, LabelledImages]:
    """Return the samples inside and outside `mask` (N,) bool, both in their old order."""
    return data.subset(mask), data.subset(~mask)


def stratified_subset(
    dataset: ImageDataset, *, train_images: int | None, test_images: int | None, seed: int,
    held_out: float | None = None, validation: float | None = None,
) -> ImageDataset:  # fmt: skip
    """Return at most so many training and test images, every (fine) class by its share; None keeps all.

    With `validation` that share of these training images is set apart, and no model learns them. With `held_out` that
    share of the rest becomes the test set, and no test image is left.
    """
    train = draw_stratified(dataset.train, train_images, seed, "train")
    if validation is not None:
        rest, apart = hold_out(train, validation, seed, "validation")
        test = rest if dataset.test is dataset.train else dataset.test
        dataset, train = replace(dataset, train=rest, test=test, validation=apart), rest
    if held_out is not None:
        rest, test = hold_out(train, held_out, seed)
        return replace(dataset, train=rest, test=test)
    same = dataset.test is dataset.train
    test = train if same else draw_stratified(dataset.test, test_images, seed, "test")
    return replace(dataset, train=train, test=test)


def hold_out(
    data: LabelledImages, share: float, seed: int, name: str = "held_out"
) -> tuple[LabelledImages, LabelledImages]:
    """Return the samples that stay and a stratified `share` of them that is held out, both in their old order."""
    check_value(name, share, Share)
    n, n_classes = round(share * len(data)), len(data.fine_labels.unique())
    if n < n_classes:
        keys = f"dataset.subset.{name}" + (", or search.held_out of a search" if name == "held_out" else "")
        raise ValueError(
            f"Expected {name}={share:g} to set at least one image per class apart ({n_classes}), but it gives {n} of "
            f"{len(data)}; raise {keys}."
        )
    held = draw_stratified(data, n, seed, name)
    stays = ~torch.isin(data.index, held.index)
    return data.subset(stays), held


def hold_out_per_class(
    data: LabelledImages, names: Sequence[str], *, share: float, dataset: str, seed: int
) -> tuple[LabelledImages, LabelledImages]:
    """Return the samples that stay and a `share` of every class that is held out: at least one, never all.

    The draw depends on (data set, class, seed) alone; ValueError if a class has a single sample, or for a wrong share.
    """
    check_value("the share of test images", share, Share)
    held = torch.zeros(len(data), dtype=torch.bool)
    for label, name in enumerate(names):
        rows = (data.labels == label).nonzero().flatten()
        if len(rows) < 2:
            raise ValueError(
                f"Expected at least 2 images of {name!r} for a stratified split, but got {len(rows)}; "
                f"add some, or remove the class."
            )
        order = torch.randperm(len(rows), generator=generator("split", dataset, seed, label))
        held[rows[order[: min(max(1, round(share * len(rows))), len(rows) - 1)]]] = True
    return data.subset(~held), data.subset(held)


def draw_stratified(data: LabelledImages, n: int | None, seed: int, part: str) -> LabelledImages:
    if n is None or n >= len(data):
        return data
    classes = data.fine_labels.cpu()
    if n < len(classes.unique()):
        raise ValueError(f"Expected {part}_images to be at least one per class ({len(classes.unique())}), but got {n}.")
    order = torch.randperm(len(data), generator=generator("subset", part, seed))
    by_class = order[torch.argsort(classes[order], stable=True)]
    counts = torch.bincount(classes)
    starts = counts.cumsum(0) - counts
    rank = torch.arange(len(data)) - starts[classes[by_class]]
    # The samples whose relative rank within their class is smallest: each class gives its share, up to one.
    share = (rank + 0.5) / counts[classes[by_class]]
    chosen = by_class[torch.argsort(share, stable=True)[:n]]
    return data.subset(chosen.sort().values.to(data.device))
