"""A folder of images of the user's own: a folder per class, with or without `train/` and `test/` above them."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from datasets.arrays import read_or_make
from datasets.files import content_of, listed, same_name
from datasets.pins import DECODING, NAMES, check_arrays, decoded, images_of

if TYPE_CHECKING:
    from datasets.base import ImageDataset

PARTS = ("train", "test")


def load_folder(
    name: str,
    data_dir: str | Path,
    folder: str | Path,
    size: Annotated[int, "[1, inf)"],
    test_share: Annotated[float, "(0, 1)"],
    split_seed: int,
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

    names, content = class_names(folder), fingerprint_of(folder)
    files = image_files(folder)
    kept = hashlib.sha256(repr((content, size, DECODING)).encode()).hexdigest()[:16]
    path = Path(data_dir) / f"folder-{kept}.npz"
    arrays = read_or_make(path, NAMES, lambda: decoded(files, (size,)), check_arrays)
    images, labels = arrays.part("all")
    whole = LabelledImages.from_tensors(images, labels % len(names))
    if len(files) == len(names):
        train, test = hold_out_per_class(whole, names, share=test_share, dataset=name, seed=split_seed)
    else:
        is_train = torch.as_tensor(labels) < len(names)
        train, test = whole.subset(is_train), whole.subset(~is_train)
    return ImageDataset(name, train, test, names, names, content, file_names(folder))


def class_names(folder: str | Path) -> tuple[str, ...]:
    """Return the names of the classes, without a look at the images."""
    return tuple(dict.fromkeys(place.rpartition("/")[2] for place in class_folders(folder)))


def file_names(folder: str | Path) -> tuple[str, ...]:
    """Return the path of every image below `folder`, in the order of the rows of `load_folder`."""
    files = image_files(folder).items()
    return tuple(f"{place}/{same_name(path.name)}" for place, paths in files for path in paths)


def fingerprint_of(folder: str | Path) -> str:
    """Return the SHA-256 over path below `folder` and bytes of every image, wherever the folder lies."""
    digest = hashlib.sha256()
    for place, paths in image_files(folder).items():
        for path in paths:
            digest.update(repr((place, same_name(path.name), content_of(path))).encode())
    return digest.hexdigest()


def image_files(folder: str | Path) -> dict[str, list[Path]]:
    """Return the image files of every class folder; ValueError for one without any."""
    return {place: images_of(path) for place, path in class_folders(folder).items()}


def class_folders(folder: str | Path) -> dict[str, Path]:
    """Return path below `folder` -> class folder, in alphabetical order, those of `train` before those of `test`.

    Raises:
        ValueError: there are fewer than two, or others in `train` than in `test`.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"Expected dataset.root to be a folder with a folder per class, but {root} is none.")
    there = [part for part in (*PARTS, "val", "valid", "validation") if (root / part).is_dir()]
    split = set(PARTS) <= set(there)
    if "train" in there and not split:
        raise ValueError(
            f"Expected {root} to hold train/ and test/, or a folder per class, but got {', '.join(there)}; rename "
            f"the one with the test images to test, or set dataset.root={root / 'train'}, of which a part is drawn."
        )
    parts = {f"{part}/": folders_in(root / part) for part in PARTS} if split else {"": folders_in(root)}
    first, *rest = (set(part) for part in parts.values())
    if rest and first != rest[0]:
        lone = ", ".join(sorted(first ^ rest[0]))
        raise ValueError(f"Expected the same classes in {root}/train and {root}/test, but {lone} is in one alone.")
    if len(first) < 2:
        raise ValueError(f"Expected dataset.root to hold at least two class folders, but {root} has {len(first)}.")
    return {f"{place}{name}": path for place, part in parts.items() for name, path in part.items()}


def folders_in(folder: Path) -> dict[str, Path]:
    return {name: path for name, path in listed(folder).items() if path.is_dir()}
