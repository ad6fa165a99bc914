import numpy as np
import pytest
import torch

from datasets.cifar import (
    CIFAR10_CLASSES,
    CIFAR100_CLASSES,
    SUPERCLASSES,
    fine_to_coarse,
    load_cifar10,
    load_cifar100,
)


def fake_release(classes, per_class=2):
    """A stand-in for torchvision's class: deterministic pixels, every label `per_class` times."""

    class Release:
        calls = 0

        def __init__(self, root, *, train, download):
            assert download
            type(self).calls += 1
            rng = np.random.default_rng(train)
            self.targets = [label for label in range(classes) for _ in range(per_class)]
            self.data = rng.integers(0, 256, (len(self.targets), 4, 4, 3), dtype=np.uint8)

    return Release


def test_five_fine_classes_in_each_of_twenty():
    assert torch.bincount(fine_to_coarse()).tolist() == [5] * 20
    assert len(CIFAR100_CLASSES) == len(set(CIFAR100_CLASSES)) == 100
    assert len(CIFAR10_CLASSES) == 10


@pytest.mark.parametrize(("name", "index"), [("rocket", 69), ("mushroom", 51), ("baby", 2), ("lamp", 40), ("sea", 71)])
def test_fine_indices_of_the_paper(name, index):
    assert CIFAR100_CLASSES.index(name) == index


@pytest.mark.parametrize(
    ("name", "index", "member"),
    [
        ("vehicle2", 19, "rocket"),
        ("veg", 4, "mushroom"),
        ("people", 14, "baby"),
        ("electrical_devices", 5, "lamp"),
        ("natural_scenes", 10, "sea"),
    ],
)
def test_superclass_indices_of_the_paper(name, index, member):
    assert tuple(SUPERCLASSES).index(name) == index
    assert fine_to_coarse()[CIFAR100_CLASSES.index(member)] == index


def test_a_missing_file_is_written_from_torchvision_and_read_again(tmp_path, monkeypatch):
    release = fake_release(10)
    monkeypatch.setattr("torchvision.datasets.CIFAR10", release)
    first = load_cifar10(tmp_path)
    assert (tmp_path / "cifar10.npz").is_file()
    assert release.calls == 2  # training and test
    again = load_cifar10(tmp_path)
    assert release.calls == 2
    assert again.fingerprint == first.fingerprint
    assert torch.equal(again.train.storage, torch.from_numpy(release("", train=True, download=True).data))
    assert torch.equal(again.test.storage, torch.from_numpy(release("", train=False, download=True).data))
    assert again.train.labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert again.train.fine_labels is None


def test_cifar20_is_cifar100_under_other_labels(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR100", fake_release(100))
    fine, coarse = load_cifar100(tmp_path, "fine"), load_cifar100(tmp_path, "coarse")
    assert (fine.name, coarse.name) == ("cifar100", "cifar20")
    assert (len(fine.class_names), len(coarse.class_names)) == (100, 20)
    assert torch.equal(fine.train.storage, coarse.train.storage)
    assert torch.equal(fine.train.labels, coarse.train.fine_labels)
    assert torch.equal(coarse.train.labels, fine_to_coarse()[fine.train.labels])
    assert fine.fingerprint == coarse.fingerprint


@pytest.mark.data
def test_real_cifar_has_its_official_sizes(array_dir):
    cifar10, cifar20 = load_cifar10(array_dir), load_cifar100(array_dir, "coarse")
    assert torch.bincount(cifar10.train.labels).tolist() == [5_000] * 10
    assert torch.bincount(cifar10.test.labels).tolist() == [1_000] * 10
    assert torch.bincount(cifar20.train.labels).tolist() == [2_500] * 20
    assert torch.bincount(cifar20.test.fine_labels).tolist() == [100] * 100
