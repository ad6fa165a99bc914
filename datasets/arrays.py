"""Array files: four arrays of one data set in an `.npz`, checked when read, written atomically."""

import hashlib
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

NAMES = ("train_images", "train_labels", "test_images", "test_labels")
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Arrays:
    """The arrays of one file: images (N, H, W, 3) uint8, labels (N,) int64, and their SHA-256."""

    values: Mapping[str, Array]
    fingerprint: str

    def split(self, part: str) -> tuple[Tensor, Tensor]:
        """Return images and labels of `train` or `test`."""
        return torch.from_numpy(self.values[f"{part}_images"]), torch.from_numpy(self.values[f"{part}_labels"])


def load_arrays(data_dir: Path, name: str, num_classes: int, download: Callable[[Path], Mapping[str, Array]]) -> Arrays:
    """Read `data_dir/name.npz`; where it is missing, write it from what `download(folder)` returns.

    Raises:
        FileNotFoundError: the file is missing and could not be downloaded.
        ValueError: the file is damaged or holds something else than images with labels.
    """
    path = data_dir / f"{name}.npz"
    if not path.exists():
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):
                if not path.exists():
                    arrays = download(data_dir / "download")
                    check_arrays(path, arrays, num_classes)
                    write_arrays(path, arrays)
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(
                f"Expected {path}, but it is not there and could not be downloaded ({type(error).__name__}: {error}); "
                f"put the array file there, or set data_dir=… or $UNLEARN_DATA_DIR to the folder that holds it."
            ) from error
    values = read_arrays(path)
    check_arrays(path, values, num_classes)
    return Arrays(values, fingerprint(values))


def read_arrays(path: Path) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in NAMES if name not in file]
            if missing:
                raise ValueError(f"it lacks {', '.join(missing)}")
            return {name: file[name] for name in NAMES}
    except PermissionError:
        raise
    except (ValueError, OSError, EOFError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"Expected {path} to be an array file with {', '.join(NAMES)}, but it is not ({error}); "
            f"delete it and run again to have it written anew."
        ) from error


def check_arrays(path: Path, arrays: Mapping[str, Array], num_classes: int) -> None:
    """Raise ValueError unless shapes, types and label ranges are those of an image data set."""
    for part in ("train", "test"):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or len(images) == 0:
            got = f"{images.dtype} {images.shape}"
            raise ValueError(f"Expected {part}_images in {path} to be uint8 (N, H, W, 3), but got {got}.")
        if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
            got = f"{labels.dtype} {labels.shape}"
            raise ValueError(f"Expected {part}_labels in {path} to be int64 ({len(images)},), but got {got}.")
        if labels.min() < 0 or labels.max() >= num_classes:
            got = f"{labels.min()} … {labels.max()}"
            raise ValueError(f"Expected {part}_labels in {path} to lie in 0 … {num_classes - 1}, but got {got}.")


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write the file under another name and rename it: it is there whole or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            np.savez(file, allow_pickle=False, **{name: arrays[name] for name in NAMES})
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def fingerprint(arrays: Mapping[str, Array]) -> str:
    """Return the SHA-256 over names, shapes, types and bytes of the arrays."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()
