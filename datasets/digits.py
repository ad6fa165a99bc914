"""The embedded default: scikit-learn's 1,797 handwritten digits, each upright and lying; nothing to download."""

from typing import Literal

import numpy as np
from sklearn.datasets import load_digits as sklearn_digits
from sklearn.model_selection import train_test_split

from datasets.arrays import Array, fingerprint
from datasets.base import ImageDataset, LabelledImages
from datasets.digits_classes import CLASSES, SUPERCLASS_OF, SUPERCLASSES

SIZE = 16  # pixels; twice the original 8


def load_digits(labels: Literal["fine", "coarse"]) -> ImageDataset:
    """Return the digits as 16×16 RGB images, 80 % training and 20 % test by a fixed draw, stratified by digit.

    Each image is there twice, upright and turned by 90° to the left, both in the same part. `fine` labels are the 20
    classes `upright_0` … `lying_9`; `coarse` labels are five superclasses of four of them, for the subclass task. The
    20 classes stay as `fine_labels` in both.
    """
    source = sklearn_digits()
    grey = np.rint(source.images * (255 / 16)).astype(np.uint8)  # (N, 8, 8), levels 0 … 16
    pixels = grey.repeat(SIZE // 8, axis=1).repeat(SIZE // 8, axis=2)[..., None].repeat(3, axis=3)
    digits = source.target.astype(np.int64)
    rows = train_test_split(np.arange(len(digits)), test_size=0.2, random_state=0, stratify=digits)
    parts: list[LabelledImages] = []
    arrays: dict[str, Array] = {}
    for part, chosen in zip(("train", "test"), map(np.sort, rows), strict=True):
        upright = pixels[chosen]
        images = np.concatenate([upright, np.rot90(upright, axes=(1, 2))])
        fine = np.concatenate([digits[chosen], digits[chosen] + 10])
        arrays |= {f"{part}_images": images, f"{part}_labels": fine}
        parts.append(
            LabelledImages.from_tensors(images, fine if labels == "fine" else np.array(SUPERCLASS_OF)[fine], fine)
        )
    classes = CLASSES if labels == "fine" else SUPERCLASSES
    return ImageDataset("digits", parts[0], parts[1], classes, CLASSES, fingerprint(arrays))
