import pytest
import torch

from datasets.base import ForgetSplit, ImageDataset, LabelledImages, check_fingerprint

CLASSES, FINE = ("a", "b", "c"), tuple("abcdef")


def images(n=6):
    pixels = torch.arange(n * 2 * 2 * 3, dtype=torch.uint8).view(n, 2, 2, 3)
    return LabelledImages.from_tensors(pixels, torch.arange(n) % 3, torch.arange(n))


@pytest.mark.parametrize("selection", [torch.tensor([4, 1]), torch.tensor([False, True, False, False, True, False])])
def test_subset_shares_the_pixels(selection):
    data = images()
    part = data.subset(selection)
    assert part.storage is data.storage
    assert sorted(part.index.tolist()) == [1, 4]
    assert torch.equal(part.labels, data.labels[selection])
    assert torch.equal(part.fine_labels, data.fine_labels[selection])


def test_subset_of_a_subset_counts_from_the_subset():
    part = images().subset(torch.tensor([5, 3, 1])).subset(torch.tensor([2, 0]))
    assert part.index.tolist() == part.fine_labels.tolist() == [1, 5]


def test_arrays_share_their_memory_and_classes_are_their_own_subclasses():
    pixels, labels = torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.tensor([0, 1])
    data = LabelledImages.from_tensors(pixels.numpy(), labels.numpy())
    pixels[1, 2, 3, 0] = 7
    assert data.storage[1, 2, 3, 0] == 7
    assert data.fine_labels is data.labels


def test_relabelled_keeps_images_and_the_old_labels_of_the_source():
    data = images()
    other = data.relabelled(torch.zeros(6, dtype=torch.int64))
    assert other.labels.tolist() == [0] * 6
    assert data.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert other.index is data.index
    assert other.storage is data.storage


def test_join_appends_and_shares_the_pixels():
    data = images()
    joined = data.subset(torch.tensor([3, 2])).join(data.subset(torch.tensor([0])))
    assert joined.index.tolist() == joined.fine_labels.tolist() == [3, 2, 0]
    assert joined.labels.tolist() == [0, 2, 0]
    assert joined.storage is data.storage
    with pytest.raises(ValueError, match="different storages"):
        data.join(images())


PIXELS, LABELS = torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("pixels", "labels", "fine", "match"),
    [
        (PIXELS.float(), LABELS, None, "images to be uint8"),
        (PIXELS[0], LABELS, None, "images to be uint8"),
        (PIXELS, LABELS.float(), None, "labels to be int64"),
        (PIXELS, LABELS[:1], None, "labels to be int64"),
        (PIXELS, LABELS, LABELS.int(), "fine_labels to be int64"),
    ],
)
def test_wrong_types_and_shapes_are_refused(pixels, labels, fine, match):
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


def part(*rows):
    return lambda data: data.subset(torch.tensor(rows, dtype=torch.int64))


def split_of(*train_and_test):
    train, test = images(), images()
    forget, retain, forget_test, retain_test = (*train_and_test, part(0), part(1))[:4]
    return ForgetSplit(forget(train), retain(train), forget_test(test), retain_test(test), 3, "x")


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ((part(0, 1), part(1, 2)), "train parts .* share 1"),
        ((part(0), part(1), part(0, 1), part(1, 2)), "test parts .* share 1"),
        ((part(), part(1)), "forget_train"),
        ((part(0), part()), "retain_train"),
    ],
)
def test_a_split_refuses_overlap_and_empty_parts(parts, match):
    with pytest.raises(ValueError, match=match):
        split_of(*parts)


def test_forget_fingerprint_depends_on_the_rows():
    one, same, other = (split_of(part(*rows), part(5)).forget_fingerprint for rows in ((0, 1), (0, 1), (0, 2)))
    assert one == same != other
