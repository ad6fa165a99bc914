"""A folder of images of the user's own: a folder per class, with or without `train/` and `test/` above them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.arrays import read_or_make
from datasets.files import content_of
from datasets.pins import NAMES, check_arrays, decoded, images_of

if TYPE_CHECKING:
    from datasets.base import ImageDataset

PARTS = ("train", "test")


@dataclass(frozen=True)
class Layout:
    """Where the images lie: part (`train` and `test`, or `all`) -> class -> its folder, in alphabetical order."""

    root: Path
    parts: Mapping[str, Mapping[str, Path]]

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(next(iter(self.parts.values())))

    def files(self) -> dict[str, dict[str, list[Path]]]:
        """Return the image files by part and class; ValueError for a class without any."""
        return {part: {name: images_of(path) for name, path in of.items()} for part, of in self.parts.items()}


def load_folder(
    name: str, data_dir: str | Path, folder: str | Path, size: int, test_share: float, split_seed: int
) -> "ImageDataset":
    """Return the images as RGB of `size` × `size` pixels; grey ones have three equal channels.

    A class is a folder, in alphabetical order. They lie in `folder`, or in its sub-folders `train` and `test`. The
    decoded images are kept as `data_dir/folder-<hash>.npz`: changed files have another file.

    Args:
        name: of the data set.
        test_share: the share of every class that becomes the test set, drawn by `split_seed`, if there is no `test`.

    Raises:
        ValueError: the folder holds no classes, an option is wrong, or an image cannot be read.
    """
    import torch

    from datasets.base import ImageDataset, LabelledImages  # late: a run's name needs no torch
    from datasets.splits import hold_out_per_class

    if not isinstance(size, int) or size < 1:
        raise ValueError(f"Expected dataset.size to be a whole number of pixels from 1 on, but got {size!r}.")
    layout = layout_of(folder)
    names, content = layout.class_names, fingerprint_of(folder)
    flat = {f"{part}/{label}": paths for part, of in layout.files().items() for label, paths in of.items()}
    kept = hashlib.sha256(repr((content, size)).encode()).hexdigest()[:16]
    path = Path(data_dir) / f"folder-{kept}.npz"
    arrays = read_or_make(path, NAMES, lambda: decoded(flat, (size,)), check_arrays)
    images, labels = arrays.part("all")
    whole = LabelledImages.from_tensors(images, labels % len(names))
    if len(layout.parts) == 1:
        train, test = hold_out_per_class(whole, names, share=test_share, dataset=name, seed=split_seed)
    else:
        is_train = torch.as_tensor(labels) < len(names)
        train, test = whole.subset(is_train), whole.subset(~is_train)
    return ImageDataset(name, train, test, names, names, content, file_names(folder))


def class_names(folder: str | Path) -> tuple[str, ...]:
    """Return the names of the classes, without a look at the images."""
    return layout_of(folder).class_names


def file_names(folder: str | Path) -> tuple[str, ...]:
    """Return the path of every image below `folder`, in the order of the rows of `load_folder`."""
    layout = layout_of(folder)
    lists: list[Sequence[Path]] = [paths for of in layout.files().values() for paths in of.values()]
    return tuple(path.relative_to(layout.root).as_posix() for paths in lists for path in paths)


def fingerprint_of(folder: str | Path) -> str:
    """Return the SHA-256 over part, class, name and bytes of every image, wherever the folder lies."""
    digest = hashlib.sha256()
    for part, of in layout_of(folder).files().items():
        for name, paths in of.items():
            for path in paths:
                digest.update(repr((part, name, path.name, content_of(path))).encode())
    return digest.hexdigest()


def layout_of(folder: str | Path) -> Layout:
    """Return the class folders; ValueError unless there are two, the same in `train` and `test`."""
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"Expected dataset.root to be a folder with a folder per class, but {root} is none.")
    split = all((root / part).is_dir() for part in PARTS)
    parts = {part: folders_in(root / part) for part in PARTS} if split else {"all": folders_in(root)}
    first, *rest = ({*of} for of in parts.values())
    if rest and first != rest[0]:
        lone = ", ".join(sorted(first ^ rest[0]))
        raise ValueError(f"Expected the same classes in {root}/train and {root}/test, but {lone} is in one alone.")
    if len(first) < 2:
        raise ValueError(f"Expected dataset.root to hold at least two class folders, but {root} has {len(first)}.")
    return Layout(root, parts)


def folders_in(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")}
