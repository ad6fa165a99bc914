"""Device-resident batches: uint8 pixels in, normalised float images out, no worker processes."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.base import LabelledImages
from datasets.values import check_fields

Positive = Annotated[float, "(0, inf)"]


@dataclass(frozen=True)
class Preprocessing:
    """Pixels (B, H, W, C) uint8 -> normalised images (B, C, H, W) float32, up-sampled to `size` if there is one.

    `mean` and `std` are per channel, in units of the pixel range [0, 1].
    """

    mean: tuple[float, float, float]
    std: tuple[Positive, Positive, Positive]
    size: Annotated[int, "[1, inf)"] | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, pixels: Tensor) -> Tensor:
        mean, scale = channel_constants(self.mean, self.std, pixels.device)
        images = pixels.to(torch.float32).sub_(mean).mul_(scale).permute(0, 3, 1, 2)  # channels-last in memory
        if self.size is not None and images.shape[-2:] != (self.size, self.size):
            images = F.interpolate(images, size=(self.size, self.size), mode="bilinear", antialias=True)
        return images


@lru_cache(maxsize=8)
def channel_constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return offset and scale of the channels, (C,) each; cached, because a copy to a GPU would wait for the GPU."""
    with torch.inference_mode(mode=False):
        return (
            torch.tensor(mean, device=device).mul_(255),
            torch.tensor(std, device=device).mul_(255).reciprocal_(),
        )


def channel_statistics(data: LabelledImages) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation of each channel, in units of the pixel range [0, 1]."""
    pixels = data.storage[data.index].flatten(0, 2)  # (N·H·W, C)
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in pixels.T:
        weight = torch.bincount(channel.int(), minlength=256).cpu().double() / channel.numel()
        mean = (weight * levels).sum()
        means.append(float(mean))
        stds.append(float((weight * (levels - mean).square()).sum().sqrt()))
    return tuple(means), tuple(stds)


@dataclass(frozen=True)
class Augmentation:
    """Random crop after padding, horizontal flip and rotation, as torchvision's transforms in this order.

    Attributes:
        padding: black pixels on every side before the crop.
        flip: mirror half of the images.
        degrees: rotate by an angle uniform in ±degrees, nearest neighbour, black outside.
        crop: side of the crop in pixels; None: the image's own size.
    """

    padding: Annotated[int, "[0, inf)"]
    flip: bool
    degrees: Annotated[float, "[0, inf)"]
    crop: Annotated[int, "[1, inf)"] | None = None

    def __post_init__(self) -> None:
        check_fields(self)


def augment(data: LabelledImages, positions: Tensor, augmentation: Augmentation, random: torch.Generator) -> Tensor:
    """Return augmented pixels (B, H, W, C) uint8 of the samples at `positions` (B,) in one gather.

    Every output pixel is traced back through rotation, flip and crop to the source pixel it shows.
    """
    _, full_height, full_width, channels = data.storage.shape
    height, width = (augmentation.crop or full_height), (augmentation.crop or full_width)
    padding, batch, device = augmentation.padding, len(positions), data.device
    if max(height - full_height, width - full_width) > 2 * padding:
        largest = min(full_height, full_width) + 2 * padding
        raise ValueError(
            f"Expected crop of the augmentation to be at most the padded image's {largest}, but got {height}."
        )

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand((batch, 1, 1), generator=random, device=device) * (high - low) + low

    angle = uniform(-math.radians(augmentation.degrees), math.radians(augmentation.degrees))
    y = torch.arange(height, device=device).view(1, -1, 1) - (height - 1) / 2
    x = torch.arange(width, device=device).view(1, 1, -1) - (width - 1) / 2
    column = (angle.cos() * x - angle.sin() * y + (width - 1) / 2).round_().long()  # (B, H, W), before rotation
    row = (angle.sin() * x + angle.cos() * y + (height - 1) / 2).round_().long()
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    if augmentation.flip:
        column = torch.where(uniform(0, 1) < 0.5, width - 1 - column, column)
    if padding or augmentation.crop:
        for place, full, size in ((row, full_height, height), (column, full_width, width)):
            span = full + 2 * padding - size + 1
            place += (uniform(0, span).floor_().clamp_(max=span - 1) - padding).long()
        inside &= (row >= 0) & (row < full_height) & (column >= 0) & (column < full_width)
    source = (row * full_width + column).masked_fill_(~inside, 0).view(batch, -1)  # (B, H·W)
    source += data.index[positions].view(-1, 1) * (full_height * full_width)
    pixels = data.storage.view(-1, channels)[source.view(-1)].view(batch, height, width, channels)
    return pixels.mul_(inside.unsqueeze(-1))


@dataclass(frozen=True, eq=False)
class Batches:
    """An iterable of (images (B, C, H, W) float32, labels (B,) int64), newly shuffled by each pass.

    Attributes:
        data: the samples, on the device of the batches.
        random: a generator on that device; None keeps the order of `data`.
        augmentation: needs `random`.
    """

    data: LabelledImages
    batch_size: int
    preprocessing: Preprocessing
    random: torch.Generator | None = None
    augmentation: Augmentation | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"Expected batch_size to be at least 1, but got {self.batch_size}.")
        if self.augmentation is not None and self.random is None:
            raise ValueError("Expected a generator beside an augmentation, but got none.")

    def __len__(self) -> int:
        return math.ceil(len(self.data) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for positions, images in self.with_positions():
            yield images, self.data.labels[positions]

    def with_positions(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (positions in `data` (B,) int64, images (B, C, H, W) float32)."""
        count, device = len(self.data), self.data.device
        if self.random is None:
            order = torch.arange(count, device=device)
        else:
            order = torch.randperm(count, generator=self.random, device=device)
        for positions in order.split(self.batch_size):
            if self.augmentation is None or self.random is None:
                pixels = self.data.storage[self.data.index[positions]]
            else:
                pixels = augment(self.data, positions, self.augmentation, self.random)
            yield positions, self.preprocessing(pixels)
