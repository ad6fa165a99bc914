import numpy as np
import pytest
import torch

from datasets.base import ForgetSplit, ImageDataset, LabelledImages, check_fingerprint

CLASSES, FINE = ("a", "b", "c"), tuple("abcdef")


def images(n=6):
    pixels = torch.arange(n * 2 * 2 * 3, dtype=torch.uint8).view(n, 2, 2, 3)
    return LabelledImages.from_tensors(pixels, torch.arange(n) % 3, torch.arange(n))


def test_views_share_the_pixels_and_count_from_the_view():
    data = images()
    mask = torch.tensor([False, True, False, True, False, True])
    part = data.subset(mask).subset(torch.tensor([2, 0]))
    joined = part.join(data.subset(torch.tensor([2])))
    other = joined.relabelled(torch.zeros(3, dtype=torch.int64))
    assert part.index.tolist() == part.fine_labels.tolist() == [5, 1]
    assert joined.index.tolist() == joined.fine_labels.tolist() == other.index.tolist() == [5, 1, 2]
    assert (joined.labels.tolist(), other.labels.tolist()) == ([2, 1, 2], [0, 0, 0])
    assert all(view.storage is data.storage for view in (part, joined, other))
    with pytest.raises(ValueError, match="different storages"):
        data.join(images())


def test_arrays_share_their_memory_and_classes_are_their_own_subclasses():
    pixels, labels = torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.tensor([0, 1])
    data = LabelledImages.from_tensors(pixels.numpy(), labels.numpy())
    pixels[1, 2, 3, 0] = 7
    assert data.storage[1, 2, 3, 0] == 7
    assert data.fine_labels is data.labels


PIXELS, LABELS = torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)


def test_arrays_in_another_order_of_axes_are_read():
    pixels = np.asfortranarray(np.arange(72, dtype=np.uint8).reshape(6, 2, 2, 3))
    data = LabelledImages.from_tensors(pixels, np.arange(6) % 3)
    assert data.storage.is_contiguous()
    assert data.storage.numpy().tolist() == pixels.tolist()


def test_wrong_types_and_shapes_are_refused():
    for pixels, labels, fine, match in (
        (PIXELS.float(), LABELS, None, "images to be uint8"),
        (PIXELS[0], LABELS, None, "images to be uint8"),
        (PIXELS, LABELS[:1], None, "labels to be int64"),
        (PIXELS, LABELS, LABELS.int(), "fine_labels to be int64"),
    ):
        with pytest.raises(ValueError, match=match):
            LabelledImages.from_tensors(pixels, labels, fine)


def test_a_dataset_checks_labels_of_both_parts_and_levels():
    data = images()
    below = data.relabelled(data.labels - 1)
    nothing = data.subset(torch.tensor([], dtype=torch.int64))
    for train, test, classes, fine, match in (
        (data, data, CLASSES[:2], FINE, r"train labels to lie in 0 … 1, but got 0 … 2"),
        (data, below, CLASSES, FINE, r"test labels to lie in 0 … 2, but got -1 … 1"),
        (data, data, CLASSES, FINE[:5], "fine labels"),
        (data, nothing, CLASSES, FINE, "at least one sample"),
    ):
        with pytest.raises(ValueError, match=match):
            ImageDataset("x", train, test, classes, fine, "")


def test_moving_a_dataset_keeps_shared_parts_and_pixels(monkeypatch):
    monkeypatch.setattr("datasets.base.check_labels", lambda *arguments: None)  # the device meta has no values
    data = images()
    one = ImageDataset("x", data, data, CLASSES, FINE, "").to("meta")
    assert one.test is one.train
    halves = data.subset(torch.tensor([0, 1])), data.subset(torch.tensor([2, 3]))
    two = ImageDataset("x", *halves, CLASSES, FINE, "").to("meta")
    assert two.test.storage is two.train.storage


def test_a_declared_fingerprint_is_checked_and_null_allows_any():
    data = ImageDataset("cifar100", images(), images(), CLASSES, FINE, "a" * 64)
    for declared in ("a" * 64, None):
        check_fingerprint(data, declared)
    with pytest.raises(ValueError, match=r"official arrays of cifar100 \(SHA-256 bbbb.*got aaaa.*fingerprint=null"):
        check_fingerprint(data, "b" * 64)


def test_a_split_refuses_parts_that_overlap():
    data = images()
    apart = [data.subset(torch.tensor([row])) for row in (0, 1)]
    overlapping = [data.subset(torch.tensor(rows)) for rows in ([0, 1], [1, 2])]
    with pytest.raises(ValueError, match=r"train parts .* share 1"):
        ForgetSplit(*overlapping, *apart, 3, "x")
    with pytest.raises(ValueError, match=r"test parts .* share 1"):
        ForgetSplit(*apart, *overlapping, 3, "x")
