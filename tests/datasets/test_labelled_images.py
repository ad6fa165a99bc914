import pytest
import torch

from datasets.base import ForgetSplit, ImageDataset, LabelledImages, check_labels


def images(n=6):
    pixels = torch.arange(n * 2 * 2 * 3, dtype=torch.uint8).view(n, 2, 2, 3)
    return LabelledImages.from_tensors(pixels, torch.arange(n) % 3, torch.arange(n))


@pytest.mark.parametrize("selection", [torch.tensor([4, 1]), torch.tensor([False, True, False, False, True, False])])
def test_subset_shares_the_pixels(selection):
    data = images()
    part = data.subset(selection)
    assert part.storage.data_ptr() == data.storage.data_ptr()
    assert sorted(part.index.tolist()) == [1, 4]
    assert torch.equal(part.labels, data.labels[selection])
    assert torch.equal(part.fine_labels, data.fine_labels[selection])


def test_subset_of_a_subset_counts_from_the_subset():
    part = images().subset(torch.tensor([5, 3, 1])).subset(torch.tensor([2, 0]))
    assert part.index.tolist() == [1, 5]
    assert part.fine_labels.tolist() == [1, 5]


def test_relabelled_keeps_images_and_the_old_labels_of_the_source():
    data = images()
    other = data.relabelled(torch.zeros(6, dtype=torch.int64))
    assert other.labels.tolist() == [0] * 6
    assert data.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert other.index is data.index
    assert other.storage.data_ptr() == data.storage.data_ptr()


def test_join_appends_and_shares_the_pixels():
    data = images()
    joined = data.subset(torch.tensor([3, 2])).join(data.subset(torch.tensor([0])))
    assert joined.index.tolist() == [3, 2, 0]
    assert joined.labels.tolist() == [0, 2, 0]
    assert joined.fine_labels.tolist() == [3, 2, 0]
    assert joined.storage.data_ptr() == data.storage.data_ptr()
    assert len(joined) == 3


def test_join_refuses_other_pixels():
    with pytest.raises(ValueError, match="different storages"):
        images().join(images())


@pytest.mark.parametrize(
    ("pixels", "labels", "fine", "match"),
    [
        (torch.zeros(2, 4, 4, 3), torch.zeros(2, dtype=torch.int64), None, "images to be uint8"),
        (
            torch.zeros(2, 4, 4, dtype=torch.uint8),
            torch.zeros(2, dtype=torch.int64),
            None,
            "images to be uint8",
        ),
        (torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.zeros(2), None, "labels to be int64"),
        (
            torch.zeros(2, 4, 4, 3, dtype=torch.uint8),
            torch.zeros(3, dtype=torch.int64),
            None,
            "labels to be int64",
        ),
        (
            torch.zeros(2, 4, 4, 3, dtype=torch.uint8),
            torch.zeros(2, dtype=torch.int64),
            torch.zeros(2, dtype=torch.int32),
            "fine_labels to be int64",
        ),
    ],
)
def test_wrong_types_and_shapes_are_refused(pixels, labels, fine, match):
    with pytest.raises(ValueError, match=match):
        LabelledImages.from_tensors(pixels, labels, fine)


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0]])
def test_labels_outside_the_classes_are_refused(labels):
    with pytest.raises(ValueError, match=r"to lie in 0 … 2"):
        check_labels("labels", torch.tensor(labels), 3)


def test_a_dataset_checks_labels_of_both_parts_and_levels():
    data = images()
    with pytest.raises(ValueError, match="train labels"):
        ImageDataset("x", data, data, ("a", "b"), None, "")
    with pytest.raises(ValueError, match="fine labels"):
        ImageDataset("x", data, data, ("a", "b", "c"), tuple("abcde"), "")
    with pytest.raises(ValueError, match="at least one sample"):
        ImageDataset("x", data, data.subset(torch.tensor([], dtype=torch.int64)), ("a", "b", "c"), None, "")


def test_moving_a_dataset_keeps_one_set_for_training_and_test_one():
    data = images()
    moved = ImageDataset("x", data, data, ("a", "b", "c"), None, "").to("cpu")
    assert moved.test is moved.train


def part(*rows):
    return lambda data: data.subset(torch.tensor(rows, dtype=torch.int64))


@pytest.mark.parametrize(
    ("forget", "retain", "match"),
    [
        (part(0, 1), part(1, 2), "share 1"),
        (part(), part(1), "forget_train"),
        (part(0), part(), "retain_train"),
    ],
)
def test_a_split_refuses_overlap_and_empty_parts(forget, retain, match):
    train, test = images(), images()
    with pytest.raises(ValueError, match=match):
        ForgetSplit(forget(train), retain(train), part(0)(test), part(1)(test), 3, "x")


def test_a_split_refuses_overlap_in_the_test_set():
    train, test = images(), images()
    with pytest.raises(ValueError, match="test parts"):
        ForgetSplit(part(0)(train), part(1)(train), part(0, 1)(test), part(1, 2)(test), 3, "x")


def test_forget_fingerprint_depends_on_the_rows():
    train, test = images(), images()

    def name(*rows):
        rest = [i for i in range(6) if i not in rows]
        split = ForgetSplit(part(*rows)(train), part(*rest)(train), part(0)(test), part(1)(test), 3, "x")
        return split.forget_fingerprint

    assert name(0, 1) == name(0, 1) != name(0, 2)
