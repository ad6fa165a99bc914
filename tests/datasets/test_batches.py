import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional as TF

from datasets.base import LabelledImages
from datasets.batches import Augmentation, Batches, Preprocessing, augment, channel_statistics

CIFAR100_MEAN, CIFAR100_STD = (0.50708, 0.48655, 0.44092), (0.26733, 0.25644, 0.27615)
FULL = Augmentation(padding=4, flip=True, degrees=15)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def noise_images(n, size=32, seed=0):
    pixels = torch.randint(0, 256, (n, size, size, 3), generator=seeded(seed), dtype=torch.uint8)
    return LabelledImages.from_tensors(pixels, torch.arange(n))


def test_preprocessing_equals_torchvision_and_leaves_the_pixels_alone():
    data = noise_images(4)
    before = data.storage.clone()
    reference = transforms.Compose([transforms.ToTensor(), transforms.Normalize(CIFAR100_MEAN, CIFAR100_STD)])
    expected = torch.stack([reference(image.numpy()) for image in data.storage])
    ours = Preprocessing(CIFAR100_MEAN, CIFAR100_STD)(data.storage)
    torch.testing.assert_close(ours, expected, atol=2e-6, rtol=0)
    assert torch.equal(data.storage, before)


def test_preprocessing_upsamples_after_normalisation():
    data = noise_images(2, size=8)
    plain = Preprocessing(CIFAR100_MEAN, CIFAR100_STD)(data.storage)
    ours = Preprocessing(CIFAR100_MEAN, CIFAR100_STD, size=20)(data.storage)
    torch.testing.assert_close(ours, TF.resize(plain, [20, 20], antialias=True), atol=1e-6, rtol=0)


def test_images_of_another_shape_are_scaled_on_both_sides():
    for shape in ((1, 48, 64, 3), (1, 64, 48, 3)):
        images = Preprocessing((0.5,) * 3, (0.5,) * 3, 64)(torch.zeros(shape, dtype=torch.uint8))
        assert images.shape == (1, 3, 64, 64)


def test_channel_statistics_equal_numpy():
    data = noise_images(6, size=8).subset(torch.tensor([4, 0, 3]))
    pixels = data.storage[data.index].numpy().astype(np.float64) / 255
    mean, std = channel_statistics(data)
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 1, 2)), atol=1e-12)
    np.testing.assert_allclose(std, pixels.std(axis=(0, 1, 2)), atol=1e-12)


@pytest.mark.data
def test_channel_statistics_of_cifar100_are_the_papers(array_dir):
    from datasets.cifar import load_cifar100

    mean, std = channel_statistics(load_cifar100(array_dir, "fine").train)
    np.testing.assert_allclose(mean, CIFAR100_MEAN, atol=1e-4)
    np.testing.assert_allclose(std, CIFAR100_STD, atol=1e-4)


def test_batches_of_a_subset_keep_its_order_and_the_short_last_one(preprocessing):
    data = noise_images(9, size=4)
    batches = Batches(data.subset(torch.tensor([5, 0, 6, 8, 2])), 2, preprocessing)
    assert [labels.tolist() for _, labels in batches] == [[5, 0], [6, 8], [2]]
    assert len(batches) == 3
    for images, labels in batches:
        assert torch.equal(images, preprocessing(data.storage[labels]))


@pytest.mark.usefixtures("global_rng_untouched")
def test_order_and_augmentation_are_new_each_pass_and_belong_to_the_generator(preprocessing):
    def epoch(batches):
        images, labels = zip(*batches, strict=True)
        assert sorted(torch.cat(labels).tolist()) == list(range(20))
        return torch.cat(labels).tolist(), torch.cat(images)

    data = noise_images(20, size=4)
    batches, twin, other = (Batches(data, 6, preprocessing, seeded(seed), FULL) for seed in (1, 1, 2))
    first, second, same = epoch(batches), epoch(batches), epoch(twin)
    assert first[0] == same[0]
    assert torch.equal(first[1], same[1])
    assert first[0] != second[0]
    assert first[0] != epoch(other)[0]


def test_what_is_refused(preprocessing):
    for std in ((0.5, 0.5), (0.5, 0.5, 0.0), (0.5, 0.5, float("nan"))):
        with pytest.raises(ValueError, match="std to be 3 values, each a finite number above 0"):
            Preprocessing(CIFAR100_MEAN, std)
    with pytest.raises(ValueError, match="crop to be a whole number from 1 on"):
        Augmentation(4, True, 15, 0)
    with pytest.raises(ValueError, match="at most the padded image's 16"):
        augment(noise_images(2, size=8), torch.arange(2), Augmentation(4, True, 15, 17), seeded(0))
    with pytest.raises(ValueError, match="batch_size"):
        Batches(noise_images(2, size=4), 0, preprocessing)
    with pytest.raises(ValueError, match="generator"):
        Batches(noise_images(2, size=4), 1, preprocessing, None, FULL)


@pytest.mark.parametrize(
    ("padding", "flip", "size", "crop"),
    [(0, False, 32, None), (4, True, 32, None), (4, True, 36, 32), (0, True, 36, 32)],
)
def test_augmentation_equals_torchvisions_crop_flip_and_rotation(padding, flip, size, crop):
    n, degrees, random = 24, 15, seeded(5)
    data = noise_images(n + 1, size).subset(torch.arange(n, 0, -1))
    before = data.storage.clone()
    ours = augment(data, torch.arange(n), Augmentation(padding, flip, degrees, crop), seeded(5))
    span = size + 2 * padding - 32 + 1

    def draw():  # in the order of `augment`
        return torch.rand((n, 1, 1), generator=random).flatten()

    angles = (draw() * 2 - 1) * degrees
    flips = draw() < 0.5 if flip else torch.zeros(n, dtype=torch.bool)
    tops, lefts = ((draw() * span).long() if span > 1 else torch.zeros(n).long() for _ in range(2))
    theirs = []
    for image, angle, mirrored, top, left in zip(data.storage[data.index], angles, flips, tops, lefts, strict=True):
        picture = TF.crop(TF.pad(Image.fromarray(image.numpy()), padding), int(top), int(left), 32, 32)
        picture = TF.hflip(picture) if mirrored else picture
        theirs.append(np.asarray(TF.rotate(picture, float(angle))))
    assert torch.equal(data.storage, before)
    same = (ours.numpy() == np.stack(theirs)).all(-1).mean(axis=(1, 2))
    assert same.min() >= 0.97  # pixels on the border between two are rounded either way
