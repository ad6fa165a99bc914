"""The data types of the suite: labelled images on one device and the forget split over them."""

import hashlib
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """A view of N labelled images; subsets share the pixels, they never copy them.

    Attributes:
        storage: all pixels, (M, H, W, C) uint8.
        index: the row of each sample in `storage`, (N,) int64.
        labels: (N,) int64.
        fine_labels: labels of the subclasses, (N,) int64, where the data set has them.
    """

    storage: Tensor
    index: Tensor
    labels: Tensor
    fine_labels: Tensor | None = None

    def __post_init__(self) -> None:
        if self.storage.dtype != torch.uint8 or self.storage.ndim != 4:
            raise ValueError(
                f"Expected images to be uint8 of shape (N, H, W, C), "
                f"but got {self.storage.dtype} of shape {tuple(self.storage.shape)}."
            )
        for name, values in (
            ("index", self.index),
            ("labels", self.labels),
            ("fine_labels", self.fine_labels),
        ):
            if values is not None and (values.dtype != torch.int64 or values.shape != self.index.shape):
                raise ValueError(
                    f"Expected {name} to be int64 of shape {tuple(self.index.shape)}, "
                    f"but got {values.dtype} of shape {tuple(values.shape)}."
                )

    @classmethod
    def from_tensors(cls, images: Tensor, labels: Tensor, fine_labels: Tensor | None = None) -> Self:
        """Return all rows of `images` (N, H, W, C) uint8 with their labels (N,) int64."""
        return cls(images, torch.arange(len(images), device=images.device), labels, fine_labels)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        return self.storage.device

    def to(self, device: torch.device | str) -> Self:
        """Return the same view with pixels and labels on `device`."""
        fine = None if self.fine_labels is None else self.fine_labels.to(device)
        return replace(
            self,
            storage=self.storage.to(device),
            index=self.index.to(device),
            labels=self.labels.to(device),
            fine_labels=fine,
        )

    def subset(self, selection: Tensor) -> Self:
        """Return the samples that `selection` names: positions (K,) int64 or a mask (N,) bool."""
        fine = None if self.fine_labels is None else self.fine_labels[selection]
        return replace(self, index=self.index[selection], labels=self.labels[selection], fine_labels=fine)

    def relabelled(self, labels: Tensor) -> Self:
        """Return the same images under other labels, (N,) int64."""
        return replace(self, labels=labels)

    def join(self, other: "LabelledImages") -> Self:
        """Return these samples followed by those of `other`, which must share the pixels."""
        if other.storage is not self.storage:
            raise ValueError("Expected both sets to be views of the same images, but got different storages.")
        fine = None
        if self.fine_labels is not None and other.fine_labels is not None:
            fine = torch.cat([self.fine_labels, other.fine_labels])
        return replace(
            self,
            index=torch.cat([self.index, other.index]),
            labels=torch.cat([self.labels, other.labels]),
            fine_labels=fine,
        )


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Training and test images of one data set, with the names of its classes and the hash of its arrays."""

    name: str
    train: LabelledImages
    test: LabelledImages
    class_names: tuple[str, ...]
    fine_class_names: tuple[str, ...] | None
    fingerprint: str

    def __post_init__(self) -> None:
        for split, images in (("train", self.train), ("test", self.test)):
            check_labels(f"{self.name} {split} labels", images.labels, len(self.class_names))
            if self.fine_class_names is not None and images.fine_labels is not None:
                check_labels(f"{self.name} {split} fine labels", images.fine_labels, len(self.fine_class_names))

    def to(self, device: torch.device | str) -> Self:
        """Return the data set with all tensors on `device`; what the parts share, they still share."""
        train = self.train.to(device)
        if self.test is self.train:
            return replace(self, train=train, test=train)
        test = self.test
        if test.storage is self.train.storage:
            test = replace(test, storage=train.storage)
        return replace(self, train=train, test=test.to(device))


def check_labels(what: str, labels: Tensor, num_classes: int) -> None:
    """Raise ValueError unless every label lies in [0, num_classes)."""
    if len(labels) == 0:
        raise ValueError(f"Expected {what} to hold at least one sample, but got none.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"Expected {what} to lie in 0 … {num_classes - 1}, but got {low} … {high}.")


@dataclass(frozen=True, eq=False)
class ForgetSplit:
    """What is forgotten and what is retained, for training and for measuring.

    D_f = `forget_train`, D_r = `retain_train`. Accuracies are measured on `forget_test` and `retain_test`; the
    random task measures the former on the forgotten training samples, so there `forget_test is forget_train`.
    `level` says whether a forgotten class is one of the labels or one of the fine labels. `requests` are the splits
    that were forgotten one after the other to come here, oldest first; empty where there was one.

    Raises:
        ValueError: where a part is empty or a sample is both forgotten and retained.
    """

    forget_train: LabelledImages
    retain_train: LabelledImages
    forget_test: LabelledImages
    retain_test: LabelledImages
    num_classes: int
    forget_target: str
    level: Literal["class", "subclass"] = "class"
    requests: "tuple[ForgetSplit, ...]" = ()

    def __post_init__(self) -> None:
        for name in ("forget_train", "retain_train", "forget_test", "retain_test"):
            if len(getattr(self, name)) == 0:
                raise ValueError(
                    f"Expected {name} of forget target {self.forget_target!r} to hold samples, but it is empty; "
                    f"choose another target, or fewer samples to forget."
                )
        check_disjoint("train", self.forget_train, self.retain_train)
        if not self.forget_test_is_train:
            check_disjoint("test", self.forget_test, self.retain_test)

    @property
    def forget_test_is_train(self) -> bool:
        """Whether D_f accuracy is measured on the forgotten training samples (random task)."""
        return self.forget_test is self.forget_train

    @property
    def num_train(self) -> int:
        return len(self.forget_train) + len(self.retain_train)

    @property
    def forget_fingerprint(self) -> str:
        """Hash of the rows in the forget set."""
        return hashlib.sha256(self.forget_train.index.cpu().numpy().tobytes()).hexdigest()[:16]

    def groups(self, data: LabelledImages) -> Tensor:
        """Return the labels of `data` at the level at which this task forgets, (N,) int64."""
        if self.level == "subclass" and data.fine_labels is not None:
            return data.fine_labels
        return data.labels


def check_disjoint(what: str, forget: LabelledImages, retain: LabelledImages) -> None:
    """Raise ValueError where two views of the same images share a sample."""
    if forget.storage is not retain.storage:
        raise ValueError(f"Expected both {what} parts to be views of the same images, but got different storages.")
    shared = int(torch.isin(forget.index, retain.index).sum())
    if shared:
        raise ValueError(f"Expected the {what} parts of a forget split to be disjoint, but they share {shared}.")


def check_fingerprint(dataset, declared):
    pass
