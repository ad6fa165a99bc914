"""PinsFaceRecognition: faces of 105 people, from Kaggle or from a folder that is there already."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from struct import error as StructError
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageOps

from datasets.archives import extract_zip
from datasets.arrays import Array, Arrays, check_part, read_or_make
from datasets.files import listed, same_name
from datasets.kaggle_download import download_archive

if TYPE_CHECKING:
    from datasets.base import ImageDataset

KAGGLE = "hereisburak/pins-face-recognition"
N_IDENTITIES, N_IMAGES = 105, 17_534  # of the official archive
MAX_FILES, MAX_BYTES = 30_000, 4 * 1024**3  # when unpacked: well above its content

PREFIX = "pins_"
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # of Pillow's, which reads others by programs of their own
MAX_PIXELS = 100_000_000  # of an image when decoded: 300 MB
DECODING = "upright"  # names how files become pixels: array files of another way are not read
SIZES = (36, 32)  # pixels: resizes, one after the other; the released code augments between them
TEST_SHARE = 0.2
NAMES = ("all_images", "all_labels", "class_names")

log = logging.getLogger(__name__)


def load_pins(
    data_dir: str | Path, folder: str | Path | None, split: Literal["none", "stratified"], split_seed: int,
    size: Literal[36, 32] = 32,
) -> "ImageDataset":  # fmt: skip
    """Return the faces as square RGB images; a class is an identity, in the alphabetical order of the folders.

    The array file is `data_dir/pins.npz` (`pins-36.npz`); a missing one is made from Kaggle's archive. With a `folder`
    of folders `pins_<name>` it is `data_dir/pins-<hash of the files>.npz`: another folder, or a changed one, has
    another file.

    Args:
        size: pixels; 36 leaves out the second resize, for an augmentation that crops.
        split: `none` makes training and test set the same object, all images; `stratified` draws a fifth of every
            identity for the test set, by `split_seed`.

    Raises:
        FileNotFoundError: there is no array file and none could be made.
        ValueError: an option is wrong, an image or an archive is damaged, or the folder holds no faces.
    """
    from datasets.base import ImageDataset, LabelledImages  # late: `fingerprint_of` needs no torch
    from datasets.splits import hold_out_per_class

    arrays = face_arrays(data_dir, folder, size)
    names = tuple(map(str, arrays.values["class_names"]))
    train = test = LabelledImages.from_tensors(*arrays.part("all"))
    if split == "stratified":
        train, test = hold_out_per_class(train, names, share=TEST_SHARE, dataset="pins", seed=split_seed)
    return ImageDataset("pins", train, test, names, names, arrays.fingerprint)


def fingerprint_of(data_dir: str | Path, folder: str | Path | None, size: int = 32) -> str:
    """Return the fingerprint of the data set that `load_pins` returns; a missing array file is made first."""
    return face_arrays(data_dir, folder, size).fingerprint


def face_arrays(data_dir: str | Path, folder: str | Path | None, size: int) -> Arrays:
    root, sizes = Path(data_dir), SIZES[: SIZES.index(size) + 1]
    if folder is None:
        path = root / ("pins.npz" if sizes == SIZES else f"pins-{size}.npz")
        return read_or_make(path, NAMES, lambda: official_arrays(root / "download", sizes), check_arrays)
    files = image_files(Path(folder))
    path = root / f"pins-{content_hash(files, sizes)}.npz"
    return read_or_make(path, NAMES, lambda: decoded(files, sizes), check_arrays)


def official_arrays(folder: Path, sizes: Sequence[int]) -> dict[str, Array]:
    """Download Kaggle's archive into `folder`, unpack it there and return its arrays."""
    log.info("  downloading %s from Kaggle", KAGGLE)
    otherwise = f"set dataset.load.folder=… to a folder of folders {PREFIX}<name>"
    archive = download_archive(KAGGLE, folder, otherwise=otherwise)
    extract_zip(archive, archive.with_suffix(""), max_files=MAX_FILES, max_bytes=MAX_BYTES)
    files = image_files(archive.with_suffix(""))
    counts = len(files), sum(map(len, files.values()))
    if counts != (N_IDENTITIES, N_IMAGES):
        raise ValueError(
            f"Expected {N_IDENTITIES} identities and {N_IMAGES} images in {archive}, but got {counts[0]} and "
            f"{counts[1]}; delete it and run again, or use its images with dataset.load.folder="
            f"{archive.with_suffix('')}."
        )
    return decoded(files, sizes)


def image_files(folder: Path) -> dict[str, list[Path]]:
    """Return the image files of every identity, both in alphabetical order (capitals first).

    The folders `pins_<name>`, whatever the case of the prefix, lie in `folder` or in its only sub-folder that has any,
    as in the official archive.
    """
    if not folder.is_dir():
        raise ValueError(f"Expected dataset.load.folder to be a folder, but {folder} is none.")
    nested = [path for path in listed(folder).values() if path.is_dir()]
    found = [identities for place in (folder, *nested) if (identities := identities_in(place))]
    if len(found) != 1:
        raise ValueError(
            f"Expected one folder with folders {PREFIX}<name>, one per identity, but {folder} and its "
            f"folders make {len(found)}; set dataset.load.folder to the folder that holds them."
        )
    files = {name: images_of(path) for name, path in found[0].items()}
    if len(files) < 2:
        raise ValueError(f"Expected at least two identities in {folder}, but got {len(files)}.")
    return files


def identities_in(folder: Path) -> dict[str, Path]:
    """Return identity -> its folder, in alphabetical order; ValueError if one has two."""
    found: dict[str, Path] = {}
    for name, path in listed(folder).items():
        identity = name[len(PREFIX) :]
        if not (name.lower().startswith(PREFIX) and identity and path.is_dir()):
            continue
        if identity in found:
            raise ValueError(f"Expected one folder of {identity!r}, but got {found[identity]} and {path}; join them.")
        found[identity] = path
    return dict(sorted(found.items()))


def images_of(folder: Path) -> list[Path]:
    files = [path for path in listed(folder).values() if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not files:
        raise ValueError(f"Expected images ({', '.join(SUFFIXES)}) in {folder}, but it holds none; remove or fill it.")
    return files


def content_hash(files: Mapping[str, Sequence[Path]], sizes: Sequence[int]) -> str:
    """Return a hash of sizes, identities, file names and bytes, wherever the files lie."""
    digest = hashlib.sha256(repr((sizes, DECODING)).encode())
    for name, paths in files.items():
        for path in paths:
            digest.update(repr((name, same_name(path.name), hashlib.sha256(path.read_bytes()).hexdigest())).encode())
    return digest.hexdigest()[:16]


def decoded(files: Mapping[str, Sequence[Path]], sizes: Sequence[int]) -> dict[str, Array]:
    """Return images (N, S, S, 3) uint8, labels (N,) int64 and the names of the classes as text; S is the last size."""
    images, damaged = [], []
    for path in (path for paths in files.values() for path in paths):
        try:
            images.append(decode(path, sizes))
        except ValueError as error:
            damaged.append((path, error))
    if damaged:
        more = ", ".join(str(path) for path, _ in damaged[1:6])
        raise ValueError(f"{damaged[0][1]}" + (f" Of {len(damaged)} such files, the next are {more}." if more else ""))
    return {
        "all_images": np.stack(images),
        "all_labels": np.repeat(np.arange(len(files)), [len(paths) for paths in files.values()]),
        "class_names": np.array(list(files)),
    }


def decode(path: Path, sizes: Sequence[int] = SIZES) -> Array:
    """Return one image as RGB, upright, resized to each of `sizes` in turn with Pillow's bilinear filter.

    Raises:
        ValueError: it is no image, or one of more than 8 bits per channel, which has no range to scale it by.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} × {image.height} pixels, more than {MAX_PIXELS}")
            if image.mode.startswith(("I", "F")):  # Pillow would cut off all above 255
                raise ValueError("more than 8 bits per channel")
            face = ImageOps.exif_transpose(image).convert("RGB")
            for size in sizes:
                face = face.resize((size, size), Image.Resampling.BILINEAR)
            return np.asarray(face)
    except (OSError, SyntaxError, ValueError, EOFError, StructError, Image.DecompressionBombError) as error:
        raise ValueError(f"Expected {path} to be an image, but it cannot be read ({error}); replace it.") from error


def check_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Raise ValueError unless the file holds images, labels and one name per identity."""
    names = arrays["class_names"]
    if names.dtype.kind != "U" or names.ndim != 1 or len(np.unique(names)) != len(names):
        raise ValueError(
            f"Expected class_names in {path} to be distinct texts (K,), but got {names.dtype} {names.shape}."
        )
    check_part(path, arrays, "all", len(names))
