"""An `.npz` file of the user's own: arrays of images and labels, under one of a few common names."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np

from datasets.arrays import UNREADABLE, Array
from datasets.files import content_of, same_name

if TYPE_CHECKING:
    from datasets.base import ImageDataset, LabelledImages

# part -> names of its images, names of its labels
SPELLINGS = {
    "train": (("x_train", "train_images", "X_train", "train_x"), ("y_train", "train_labels", "Y_train", "train_y")),
    "test": (("x_test", "test_images", "X_test", "test_x"), ("y_test", "test_labels", "Y_test", "test_y")),
    "all": (("images", "x", "X", "data"), ("labels", "y", "Y", "targets")),
}
CLASS_NAMES = ("class_names", "classes")


def load_npz(name: str, file: str | Path, test_share: Annotated[float, "(0, 1)"], split_seed: int) -> "ImageDataset":
    """Return the images of an array file; grey ones (N, H, W) or (N, H, W, 1) get three equal channels.

    The file holds images and labels of a training and a test set, or of one set, of which a share of every class
    becomes the test set: see `SPELLINGS`. Images are uint8. A class is a value of the labels, whole numbers or texts;
    with `class_names` it is an index into them.

    Raises:
        ValueError: the file cannot be read, lacks an array, or holds no such images and labels.
    """
    from datasets.base import ImageDataset, LabelledImages  # late: a run's name needs no torch
    from datasets.splits import hold_out_per_class

    arrays = read(file)
    names, codes = classes_of(file, arrays)

    def part(part: str) -> "LabelledImages":
        key, _ = keys(arrays, part)
        return LabelledImages.from_tensors(in_colour(file, key, arrays[key], len(codes[part])), codes[part])

    if "all" in codes:
        train, test = hold_out_per_class(part("all"), names, share=test_share, dataset=name, seed=split_seed)
    else:
        train, test = part("train"), part("test")
    return ImageDataset(name, train, test, names, names, fingerprint_of(file))


def class_names(file: str | Path) -> tuple[str, ...]:
    """Return the names of the classes, without a look at the images."""
    return classes_of(file, read(file, labels_alone=True))[0]


def fingerprint_of(file: str | Path) -> str:
    """Return the SHA-256 of the file; ValueError if there is none."""
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"Expected dataset.file to be an .npz file, but there is none at {path}.")
    return content_of(path)


def read(path: str | Path, *, labels_alone: bool = False) -> dict[str, Array]:
    """Return the known arrays of a file, by their own names."""
    _ = fingerprint_of(path)
    try:
        if isinstance(found := np.load(path, allow_pickle=False), np.ndarray):
            raise TypeError("it holds a single array")
        with found:
            wanted = [*CLASS_NAMES]
            for part in parts_of(found):
                images, labels = keys(found, part)
                wanted += [labels] if labels_alone else [images, labels]
            return {key: found[key] for key in wanted if key in found}
    except UNREADABLE as error:
        raise ValueError(f"Expected {path} to be an .npz file of images and labels, but {error}.") from error


def parts_of(arrays: Mapping[str, Array]) -> list[str]:
    """Return the parts whose labels are there: train and test, or all; ValueError for anything else."""
    for parts in (["train", "test"], ["all"]):
        if all(any(key in arrays for key in SPELLINGS[part][1]) for part in parts):
            return parts
    raise ValueError(
        f"it holds {', '.join(arrays) or 'nothing'}; name its arrays x_train, y_train, x_test and y_test, or images "
        f"and labels"
    )


def keys(arrays: Mapping[str, Array], part: str) -> tuple[str, str]:
    """Return under which names a file holds the images and the labels of a part."""
    chosen = [[key for key in spellings if key in arrays] for spellings in SPELLINGS[part]]
    if not all(chosen):
        raise ValueError(f"it lacks the images of its labels ({', '.join(SPELLINGS[part][0])})")
    return chosen[0][0], chosen[1][0]


def classes_of(path: str | Path, arrays: Mapping[str, Array]) -> tuple[tuple[str, ...], dict[str, Array]]:
    """Return the names of the classes and, by part, the class of each image (N,) int64."""
    labels = {}
    for part in parts_of(arrays):
        key = next(key for key in SPELLINGS[part][1] if key in arrays)
        labels[part] = arrays[key].squeeze(1) if arrays[key].shape[1:] == (1,) else arrays[key]
        if labels[part].ndim != 1 or labels[part].dtype.kind not in "iuU":
            got = f"{arrays[key].dtype} {arrays[key].shape}"
            raise ValueError(f"Expected {key} in {path} to be whole numbers or texts, one per image, but got {got}.")
    given = next((arrays[key] for key in CLASS_NAMES if key in arrays), None)
    if given is not None and given.ndim != 1:
        raise ValueError(f"Expected {' or '.join(CLASS_NAMES)} in {path} to be a list, but got shape {given.shape}.")
    values = np.unique(np.concatenate([*labels.values()])) if given is None else np.arange(len(given))
    words = (values if given is None else given).tolist()
    names = tuple(same_name(word.decode() if isinstance(word, bytes) else str(word)) for word in words)
    if len({*names}) < max(2, len(names)):
        raise ValueError(f"Expected at least 2 classes of different names in {path}, but got {', '.join(names)}.")
    for found in labels.values():
        if unknown := set(found.tolist()) - set(values.tolist()):
            got = ", ".join(map(str, sorted(unknown)[:5]))
            raise ValueError(f"Expected the labels in {path} to lie in 0 … {len(names) - 1}, but got {got}.")
    return names, {part: np.searchsorted(values, found).astype(np.int64) for part, found in labels.items()}


def in_colour(path: str | Path, key: str, images: Array, n: int) -> Array:
    """Return images (N, H, W, 3); ValueError unless they are `n` of uint8, grey or RGB, channels last."""
    pixels = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] not in (1, 3) or len(images) != n:
        shapes, got = f"({n}, H, W) or ({n}, H, W, 3)", f"{images.dtype} {images.shape}"
        raise ValueError(f"Expected {key} in {path} to be uint8 of shape {shapes}, one per label, but got {got}.")
    return pixels if pixels.shape[-1] == 3 else pixels.repeat(3, axis=3)
