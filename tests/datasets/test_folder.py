"""A folder of a user's own images."""

import io
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from faces import picture, write_folder
from PIL import Image

from datasets import folder as own
from datasets.folder import class_names, file_names, fingerprint_of, load_folder

PETS = {f"{name}/{i}.png": picture(10 * k + i) for k, name in enumerate(["cat", "dog", "pins_owl"]) for i in range(5)}


def load(root, **options):
    return load_folder(**{"name": "pets", "data_dir": root.parent / "data", "folder": root, "size": 8,
                          "test_share": 0.4, "split_seed": 0} | options)  # fmt: skip


@pytest.fixture
def pets(tmp_path):
    """Three classes of five images, with files that are no images beside them."""
    return write_folder(tmp_path / "pets", PETS | {"notes.txt": b"", "cat/notes.txt": b"", ".git/config": b""})


def test_class_folders_of_any_name_become_a_stratified_split(pets):
    data = load(pets)
    assert data.class_names == class_names(pets) == ("cat", "dog", "pins_owl")
    assert data.train.storage.shape == (15, 8, 8, 3)
    assert torch.bincount(data.train.labels).tolist() == [3, 3, 3]
    assert torch.bincount(data.test.labels).tolist() == [2, 2, 2]
    assert not torch.isin(data.train.index, data.test.index).any()
    assert not torch.equal(load(pets, split_seed=1).test.index, data.test.index)
    assert len(load(pets, test_share=0.9).test) == 12  # one of each class still trains


def test_train_and_test_folders_are_the_split(pets, tmp_path):
    root = tmp_path / "parted"
    shutil.copytree(pets, root / "train")
    write_folder(root / "test", {f"{name}/x.png": picture(99) for name in class_names(pets)})
    data = load(root)
    assert data.class_names == ("cat", "dog", "pins_owl")
    assert torch.bincount(data.train.labels).tolist() == [5, 5, 5]
    assert data.test.labels.tolist() == [0, 1, 2]
    assert data.file_names[0] == "train/cat/0.png"
    assert [data.file_names[row] for row in data.test.index] == [f"test/{name}/x.png" for name in data.class_names]
    shutil.rmtree(root / "test" / "dog")
    with pytest.raises(ValueError, match="dog is in one alone"):
        load(root)


def test_names_of_files_belong_to_the_rows(pets):
    data = load(pets)
    assert data.file_names == file_names(pets)
    for row, name in enumerate(data.file_names):
        with Image.open(io.BytesIO(PETS[name])) as image:
            np.testing.assert_array_equal(data.train.storage[row], np.asarray(image.resize((8, 8), Image.BILINEAR)))


def test_the_fingerprint_is_that_of_the_files_wherever_they_lie(pets, tmp_path, monkeypatch):
    first = load(pets)
    assert first.fingerprint == fingerprint_of(pets) == fingerprint_of(shutil.copytree(pets, tmp_path / "there"))
    monkeypatch.setattr(own, "decoded", None)  # the images are decoded once
    assert torch.equal(load(pets).train.storage, first.train.storage)
    (pets / "dog" / "0.png").write_bytes(picture(999))
    assert fingerprint_of(pets) != first.fingerprint
    (pets / "dog" / "0.png").write_bytes(PETS["dog/0.png"])
    assert fingerprint_of(pets) == first.fingerprint
    (pets / "dog").rename(pets / "hound")
    assert fingerprint_of(pets) != first.fingerprint


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cat/bad.png": b"<html>", "dog/cut.png": PETS["dog/0.png"][:99]}, r"cat/bad\.png to be an .*dog/cut\.png"),
        ({"empty/notes.txt": b""}, "empty, but it holds none"),
        ({"once/1.png": PETS["cat/0.png"]}, "at least 2 images of 'once'"),
    ],
)
def test_a_bad_file_is_named(files, expected, pets):
    write_folder(pets, files)
    with pytest.raises(ValueError, match=expected) as error:
        load(pets)
    assert "\n" not in str(error.value)


def test_what_is_refused(pets, tmp_path):
    write_folder(tmp_path / "one", {"cat/1.png": PETS["cat/0.png"]})
    for options, expected in (
        ({"folder": tmp_path / "none"}, r"dataset\.root to be a folder"),
        ({"folder": tmp_path / "one"}, "at least two class folders, but .* has 1"),
        ({"test_share": 1}, "share of test images"),
    ):
        with pytest.raises(ValueError, match=expected):
            load(pets, **options)


@pytest.mark.parametrize("other", ["val", "", "dogs"])
def test_a_training_folder_without_a_test_folder_is_no_class(other, tmp_path):
    write_folder(tmp_path / "pets" / "train", PETS)
    (tmp_path / "pets" / other).mkdir(exist_ok=True)
    with pytest.raises(
        ValueError, match=r"to hold train/ and test/, .* but got train(, val)?; .* dataset\.root=.*train,"
    ):
        load(tmp_path / "pets")


def test_a_subset_keeps_the_names(pets):
    assert replace(load(pets), train=load(pets).train.subset(torch.arange(3))).file_names == file_names(pets)
