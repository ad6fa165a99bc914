"""The embedded default: scikit-learn's 1 797 handwritten digits, nothing to download."""

from typing import Literal

import numpy as np
from sklearn.datasets import load_digits as sklearn_digits
from sklearn.model_selection import train_test_split

from datasets.arrays import Array, fingerprint
from datasets.base import ImageDataset, LabelledImages

PAIRS = ((0, 6), (1, 7), (2, 3), (4, 9), (5, 8))
SIZE = 16  # pixels; twice the original 8


def load_digits(labels: Literal["fine", "coarse"]) -> ImageDataset:
    """Return the digits as 16×16 RGB images, 80 % training and 20 % test by a fixed stratified draw.

    `fine` labels are the ten digits; `coarse` labels are five pairs of digits, for the subclass task. The digits
    stay as `fine_labels` in both.
    """
    if labels not in ("fine", "coarse"):
        raise ValueError(f"Expected dataset.load.labels to be fine or coarse, but got {labels!r}.")
    source = sklearn_digits()
    grey = np.rint(source.images * (255 / 16)).astype(np.uint8)  # (N, 8, 8), levels 0 … 16
    pixels = grey.repeat(SIZE // 8, axis=1).repeat(SIZE // 8, axis=2)[..., None].repeat(3, axis=3)
    digits = source.target.astype(np.int64)
    pair_of = np.array([next(i for i, pair in enumerate(PAIRS) if d in pair) for d in range(10)])
    rows = train_test_split(np.arange(len(digits)), test_size=0.2, random_state=0, stratify=digits)
    parts: list[LabelledImages] = []
    arrays: dict[str, Array] = {}
    for part, chosen in zip(("train", "test"), map(np.sort, rows), strict=True):
        images, fine = np.ascontiguousarray(pixels[chosen]), digits[chosen]
        arrays |= {f"{part}_images": images, f"{part}_labels": fine}
        own = fine if labels == "fine" else pair_of[fine]
        parts.append(LabelledImages.from_tensors(images, own, fine))
    names = tuple(str(d) for d in range(10))
    classes = names if labels == "fine" else tuple(f"{a}-{b}" for a, b in PAIRS)
    return ImageDataset("digits", parts[0], parts[1], classes, names, fingerprint(arrays))
