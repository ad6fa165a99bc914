"""Array files: the arrays of one data set in an `.npz`, checked when read, written atomically; without torch."""

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.files import locked, replacing

NAMES = ("train_images", "train_labels", "test_images", "test_labels")
UNREADABLE = (
    ValueError, TypeError, OSError, EOFError, KeyError, AttributeError, RuntimeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Arrays:
    """The arrays of one file: images (N, H, W, 3) uint8, labels (N,) int64 of each part, and their SHA-256."""

    values: Mapping[str, Array]
    fingerprint: str

    def part(self, part: str) -> tuple[Array, Array]:
        """Return images and labels of `train` or `test`, or of `all` if the file holds no split."""
        return self.values[f"{part}_images"], self.values[f"{part}_labels"]


def load_arrays(data_dir: Path, name: str, num_classes: int, download: Callable[[Path], Mapping[str, Array]]) -> Arrays:
    """Read `data_dir/name.npz`; a missing file is made from the arrays that `download(folder)` returns.

    Raises:
        FileNotFoundError: the file is missing and could not be made.
        ValueError: the file is damaged, or does not hold images with labels.
    """

    def check(path: Path, arrays: Mapping[str, Array]) -> None:
        for part in ("train", "test"):
            check_part(path, arrays, part, num_classes)

    return read_or_make(data_dir / f"{name}.npz", NAMES, lambda: download(data_dir / "download"), check)


def read_or_make(
    path: Path,
    names: Sequence[str],
    make: Callable[[], Mapping[str, Array]],
    check: Callable[[Path, Mapping[str, Array]], None],
) -> Arrays:
    """Read the arrays `names` of the file; a missing file is made from the arrays that `make()` returns.

    `check(path, arrays)` raises ValueError for arrays of another kind.

    Raises:
        FileNotFoundError: the file is missing and could not be made.
        ValueError: the file is damaged, or the check refuses it.
    """
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path.with_name(f"{path.name}.lock"), f"making {path.name}"):
                if not path.exists():
                    arrays = make()
                    check(path, arrays)
                    write_arrays(path, {name: arrays[name] for name in names})
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(
                f"Expected {path}, but it is not there and could not be made ({type(error).__name__}: {error}); "
                f"put the array file there, or set data_dir=… or $UNLEARN_DATA_DIR to the folder that holds it."
            ) from error
    values = read_arrays(path, names)
    check(path, values)
    return Arrays(values, fingerprint(values))


def fingerprint_of(path: str | Path) -> str:
    """Return the SHA-256 of the four arrays in a file, as `load_arrays` does, for the name of a run on a user's data.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or lacks an array.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected your array file {path}, but there is none; put it there, or set data_dir=….")
    return fingerprint(read_arrays(Path(path), NAMES))


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, Array]:
    try:
        if not path.is_file():
            raise ValueError("it is no regular file")  # a pipe would be waited for
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in names if name not in file]
            if missing:
                raise ValueError(f"it lacks {', '.join(missing)}")
            return {name: file[name] for name in names}
    except PermissionError:
        raise
    except UNREADABLE as error:
        raise ValueError(
            f"Expected {path} to be an array file with {', '.join(names)}, but it is not ({error}); "
            f"delete it and run again to have it written anew."
        ) from error


def check_part(path: Path, arrays: Mapping[str, Array], part: str, num_classes: int) -> None:
    """Raise ValueError unless shapes, types and label range of one part are those of an image data set."""
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
    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def fingerprint(arrays: Mapping[str, Array]) -> str:
    """Return the SHA-256 over names, shapes, types and bytes of the arrays."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()
