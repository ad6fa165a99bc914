"""The data types of the suite: labelled images on one device and the forget split over them."""

import hashlib
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor

from datasets.arrays import Array


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """A view of N labelled images; subsets share the pixels, they never copy them.

    Attributes:
        storage: all pixels, (M, H, W, C) uint8.
        index: the row of each sample in `storage`, (N,) int64.
        labels: (N,) int64.
        fine_labels: labels of the subclasses, (N,) int64; those of the classes if the data set has no subclasses.
    """

    storage: Tensor
    index: Tensor
    labels: Tensor
    fine_labels: Tensor

    def __post_init__(self) -> None:
        if self.storage.dtype != torch.uint8 or self.storage.ndim != 4:
            raise ValueError(
                f"Expected images to be uint8 of shape (N, H, W, C), "
                f"but got {self.storage.dtype} of shape {tuple(self.storage.shape)}."
            )
        for name in ("index", "labels", "fine_labels"):
            values = getattr(self, name)
            if values.dtype != torch.int64 or values.shape != self.index.shape:
                raise ValueError(
                    f"Expected {name} to be int64 of shape {tuple(self.index.shape)}, "
                    f"but got {values.dtype} of shape {tuple(values.shape)}."
                )

    @classmethod
    def from_tensors(
        cls, images: Tensor | Array, labels: Tensor | Array, fine_labels: Tensor | Array | None = None
    ) -> Self:
        """Return all rows of `images` (N, H, W, C) uint8 with their labels (N,) int64.

        Arrays share their memory, unless their axes lie in another order than C's.
        """
        storage, coarse = torch.as_tensor(images).contiguous(), torch.as_tensor(labels)
        fine = coarse if fine_labels is None else torch.as_tensor(fine_labels)
        return cls(storage, torch.arange(len(storage), device=storage.device), coarse, fine)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        return self.storage.device

    def to(self, device: torch.device | str) -> Self:
        """Return the same view with pixels and labels on `device`."""
        return type(self)(*(tensor.to(device) for tensor in (self.storage, self.index, self.labels, self.fine_labels)))

    def subset(self, selection: Tensor) -> Self:
        """Return the samples that `selection` names: positions (K,) int64 or a mask (N,) bool."""
        rows = (tensor[selection] for tensor in (self.index, self.labels, self.fine_labels))
        return type(self)(self.storage, *rows)

    def relabelled(self, labels: Tensor) -> Self:
        """Return the same images under other labels, (N,) int64."""
        return replace(self, labels=labels)

    def labelled_as(self, other: "LabelledImages") -> Self:
        """Return the same images, those of `other`, a view of the same pixels, under its labels."""
        by_row = torch.empty(len(self.storage), dtype=torch.int64, device=self.device)
        by_row[self.index] = self.labels
        by_row[other.index] = other.labels
        return self.relabelled(by_row[self.index])

    def join(self, other: "LabelledImages") -> Self:
        """Return these samples followed by those of `other`, which must share the pixels."""
        if other.storage is not self.storage:
            raise ValueError("Expected both sets to be views of the same images, but got different storages.")
        names = "index", "labels", "fine_labels"
        return type(self)(self.storage, *(torch.cat([getattr(self, name), getattr(other, name)]) for name in names))


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Training and test images of one data set, with the names of its classes and the SHA-256 of its arrays.

    `file_names` are those of the images by row of the training images' storage; empty if they come from no files.
    `validation` are training images that no model learns; None if there are none.
    """

    name: str
    train: LabelledImages
    test: LabelledImages
    class_names: tuple[str, ...]
    fine_class_names: tuple[str, ...]
    fingerprint: str
    file_names: tuple[str, ...] = ()
    validation: LabelledImages | None = None

    def __post_init__(self) -> None:
        for split, images in (("train", self.train), ("test", self.test)):
            check_labels(f"{self.name} {split} labels", images.labels, len(self.class_names))
            check_labels(f"{self.name} {split} fine labels", images.fine_labels, len(self.fine_class_names))

    def to(self, device: torch.device | str) -> Self:
        """Return the data set with all tensors on `device`; parts that share pixels still share them."""
        train = self.train.to(device)

        def moved(part: LabelledImages) -> LabelledImages:
            shares = part.storage is self.train.storage
            return (replace(part, storage=train.storage) if shares else part).to(device)

        test = train if self.test is self.train else moved(self.test)
        validation = None if self.validation is None else moved(self.validation)
        return replace(self, train=train, test=test, validation=validation)


def check_fingerprint(dataset: ImageDataset, declared: str | None) -> None:
    """Raise ValueError unless the arrays have the SHA-256 that the configuration declares; None allows any."""
    if declared is not None and dataset.fingerprint != declared:
        raise ValueError(
            f"Expected the official arrays of {dataset.name} (SHA-256 {declared[:12]}…), but got "
            f"{dataset.fingerprint[:12]}…; set dataset.fingerprint=null to use your own."
        )


def check_labels(what: str, labels: Tensor, num_classes: int) -> None:
    """Raise ValueError unless every label lies in [0, num_classes)."""
    if len(labels) == 0:
        raise ValueError(f"Expected {what} to hold at least one sample, but got none.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"Expected {what} to lie in 0 … {num_classes - 1}, but got {low} … {high}.")


@dataclass(frozen=True, eq=False)
class ForgetSplit:
    """The forget set and the retain set, for training and for measuring.

    D_f = `forget_train`, D_r = `retain_train`. Accuracies are measured on `forget_test` and `retain_test`; the
    random task measures the former on the forgotten training samples, so there `forget_test is forget_train`.
    `level` says whether a forgotten class is one of the labels or one of the fine labels. `requests` are the splits
    of several forget requests, oldest first; empty for a single request. `validation` are images of D_f's distribution
    that no model learns and that are not measured on; None if there are none.

    Raises:
        ValueError: a part is empty, or a sample is both forgotten and retained.
    """

    forget_train: LabelledImages
    retain_train: LabelledImages
    forget_test: LabelledImages
    retain_test: LabelledImages
    num_classes: int
    forget_target: str
    level: Literal["class", "subclass"] = "class"
    requests: "tuple[ForgetSplit, ...]" = ()
    validation: LabelledImages | None = None

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
    def forget_fingerprint(self) -> str:
        """Hash of the rows in the forget set."""
        return hashlib.sha256(self.forget_train.index.cpu().numpy().tobytes()).hexdigest()[:16]

    def groups(self, data: LabelledImages) -> Tensor:
        """Return the labels of `data` at the level at which this task forgets, (N,) int64."""
        return data.fine_labels if self.level == "subclass" else data.labels


def check_disjoint(what: str, forget: LabelledImages, retain: LabelledImages) -> None:
    """Raise ValueError if two views of the same images share a sample."""
    if forget.storage is not retain.storage:
        raise ValueError(f"Expected both {what} parts to be views of the same images, but got different storages.")
    shared = int(torch.isin(forget.index, retain.index).sum())
    if shared:
        raise ValueError(f"Expected the {what} parts of a forget split to be disjoint, but they share {shared}.")
