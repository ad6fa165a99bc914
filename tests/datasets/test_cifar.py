import numpy as np
import pytest
import torch

from datasets.cifar import fine_to_coarse, load_cifar10, load_cifar100
from datasets.cifar_classes import CIFAR10, CIFAR20, CIFAR100, SUPERCLASS_OF


def fake_release(classes, per_class=2):
    """A stand-in for torchvision's class: deterministic pixels, every label `per_class` times."""

    class Release:
        calls, base_folder, roots = 0, "release", []

        def __init__(self, root, *, train, download):
            assert download
            self.roots.append(root)
            type(self).calls += 1
            rng = np.random.default_rng(train)
            self.targets = [label for label in range(classes) for _ in range(per_class)]
            self.data = rng.integers(0, 256, (len(self.targets), 4, 4, 3), dtype=np.uint8)

    return Release


def test_names_of_the_classes_and_indices_of_the_papers_targets():
    assert np.bincount(fine_to_coarse()).tolist() == [5] * 20
    assert (len(set(CIFAR10)), len(set(CIFAR20)), len(set(CIFAR100))) == (10, 20, 100)
    fine = {"rocket": 69, "mushroom": 51, "baby": 2, "lamp": 40, "sea": 71}
    coarse = {"vehicle2": 19, "veg": 4, "people": 14, "electrical_devices": 5, "natural_scenes": 10}
    assert {name: CIFAR100.index(name) for name in fine} == fine
    assert {name: CIFAR20.index(name) for name in coarse} == coarse
    assert [SUPERCLASS_OF[name] for name in fine] == list(coarse)
    assert fine_to_coarse()[list(fine.values())].tolist() == list(coarse.values())


def test_a_missing_file_is_written_from_torchvision_and_read_again(tmp_path, monkeypatch):
    release = fake_release(10)
    monkeypatch.setattr("torchvision.datasets.CIFAR10", release)
    first, again = load_cifar10(tmp_path), load_cifar10(tmp_path)
    assert (tmp_path / "cifar10.npz").is_file()
    assert release.calls == 2  # training and test
    assert again.fingerprint == first.fingerprint
    for data, train in ((again.train, True), (again.test, False)):
        assert torch.equal(data.storage, torch.from_numpy(release("", train=train, download=True).data))
        assert data.labels.tolist() == data.fine_labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert again.fine_class_names == again.class_names == CIFAR10


def test_torchvisions_own_folder_beside_the_array_files_is_used(tmp_path, monkeypatch):
    release = fake_release(10)
    monkeypatch.setattr("torchvision.datasets.CIFAR10", release)
    (tmp_path / "release").mkdir()
    load_cifar10(tmp_path)
    assert release.roots == [tmp_path] * 2
    (tmp_path / "other").mkdir()
    load_cifar10(tmp_path / "other")
    assert release.roots[2:] == [tmp_path / "other" / "download"] * 2


def test_cifar20_is_cifar100_under_other_labels(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR100", fake_release(100))
    fine, coarse = load_cifar100(tmp_path, "fine"), load_cifar100(tmp_path, "coarse")
    assert (fine.name, coarse.name) == ("cifar100", "cifar20")
    assert (fine.class_names, coarse.class_names, coarse.fine_class_names) == (CIFAR100, CIFAR20, CIFAR100)
    assert torch.equal(fine.train.storage, coarse.train.storage)
    assert torch.equal(fine.train.labels, coarse.train.fine_labels)
    assert torch.equal(coarse.train.labels, torch.from_numpy(fine_to_coarse())[fine.train.labels])
    assert fine.fingerprint == coarse.fingerprint


@pytest.mark.data
def test_real_cifar_has_its_official_sizes(array_dir):
    cifar10, cifar20 = load_cifar10(array_dir), load_cifar100(array_dir, "coarse")
    assert torch.bincount(cifar10.train.labels).tolist() == [5_000] * 10
    assert torch.bincount(cifar10.test.labels).tolist() == [1_000] * 10
    assert torch.bincount(cifar20.train.labels).tolist() == [2_500] * 20
    assert torch.bincount(cifar20.test.fine_labels).tolist() == [100] * 100
