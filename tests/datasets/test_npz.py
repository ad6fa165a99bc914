"""An array file of a user's own."""

import numpy as np
import pytest
import torch

from datasets.npz import class_names, fingerprint_of, load_npz

RNG = np.random.default_rng(0)
LABELS = np.arange(20) % 2
COLOUR = RNG.integers(0, 256, (20, 6, 5, 3), dtype=np.uint8)


def load(path, share=0.25):
    return load_npz("mine", path, share, 0)


def write(tmp_path, **arrays):
    np.savez(tmp_path / "mine.npz", **arrays)
    return tmp_path / "mine.npz"


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("X_train", "y_train", "X_test", "y_test"),
    ],
)
def test_training_and_test_arrays(names, tmp_path):
    data = load(write(tmp_path, **dict(zip(names, (COLOUR, LABELS, COLOUR[:6], LABELS[:6]), strict=True))))
    assert (len(data.train), len(data.test)) == (20, 6)
    assert torch.equal(data.train.storage, torch.from_numpy(COLOUR))
    assert data.train.labels.tolist() == LABELS.tolist()
    assert data.class_names == class_names(tmp_path / "mine.npz") == ("0", "1")


def test_one_set_is_split(tmp_path):
    data = load(write(tmp_path, images=COLOUR, labels=LABELS[:, None].astype(np.uint8)))
    assert torch.bincount(data.test.labels).tolist() == [2, 2]
    assert sorted([*data.train.index.tolist(), *data.test.index.tolist()]) == list(range(20))


def test_grey_images_get_three_equal_channels(tmp_path):
    for grey in (COLOUR[..., 0], COLOUR[..., :1]):
        pixels = load(write(tmp_path, images=grey, labels=LABELS)).train.storage
        assert torch.equal(pixels, torch.from_numpy(COLOUR[..., :1]).expand(-1, -1, -1, 3))


def test_classes_are_the_values_of_the_labels_or_named(tmp_path):
    years = load(write(tmp_path, images=COLOUR, labels=np.where(LABELS == 1, 1999, 5)))
    assert years.class_names == ("5", "1999")
    texts = load(write(tmp_path, images=COLOUR, labels=np.array(["dog", "cat"])[LABELS]))
    assert texts.class_names == ("cat", "dog")
    assert texts.train.labels.tolist() == (1 - LABELS[texts.train.index]).tolist()
    named = load(write(tmp_path, images=COLOUR, labels=LABELS, class_names=np.array(["owl", "cat"])))
    assert named.class_names == ("owl", "cat")


def test_the_fingerprint_is_that_of_the_file(tmp_path):
    path = write(tmp_path, images=COLOUR, labels=LABELS)
    first = load(path).fingerprint
    assert (
        first
        == fingerprint_of(tmp_path / "mine.npz")
        == fingerprint_of((tmp_path / "mine.npz").rename(tmp_path / "x.npz"))
    )
    assert fingerprint_of(write(tmp_path, images=255 - COLOUR, labels=LABELS)) != first


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"pictures": COLOUR}, "it holds pictures; name its arrays x_train"),
        ({"labels": LABELS}, r"it lacks the images of its labels \(images, x"),
        ({"images": COLOUR / 255, "labels": LABELS}, r"to be uint8 of shape \(20, H, W\) .*float64"),
        (
            {"images": COLOUR.transpose(0, 3, 1, 2), "labels": LABELS},
            r"\(20, H, W, 3\), one per label, but got uint8 \(20, 3, 6, 5\)",
        ),
        ({"images": COLOUR[:9], "labels": LABELS}, "but got uint8"),
        ({"images": COLOUR, "labels": LABELS * 0.5}, "labels in .* whole numbers or texts"),
        ({"images": COLOUR, "labels": LABELS + 1, "classes": np.array(["cat", "dog"])}, "lie in 0 … 1, but got 2"),
        ({"images": COLOUR, "labels": np.array([print] * 20)}, "allow_pickle"),
        ({"images": COLOUR, "labels": LABELS, "classes": np.array("cat")}, r"to be a list, but got shape \(\)"),
        ({"images": COLOUR, "labels": 0 * LABELS + 7}, "at least 2 classes of different names .*got 7"),
        ({"images": COLOUR, "labels": LABELS, "classes": np.array(["a", "a"])}, "of different names .*got a, a"),
    ],
)
def test_what_is_refused(arrays, expected, tmp_path):
    with pytest.raises(ValueError, match=expected):
        load(write(tmp_path, **arrays))


def test_a_file_of_something_else(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"no arrays")
    for path, expected in ((tmp_path / "x.npz", "images and labels"), (tmp_path / "none.npz", "there is none")):
        with pytest.raises(ValueError, match=expected):
            load(path)


def test_names_of_classes_have_one_spelling(tmp_path):
    for given in (np.array(["cafe\u0301", "tea"]), np.array(["café".encode(), b"tea"])):
        assert class_names(write(tmp_path, images=COLOUR, labels=LABELS, class_names=given)) == ("café", "tea")
