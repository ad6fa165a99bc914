import torch
from sklearn.datasets import load_digits as sklearn_digits

from datasets.base import check_fingerprint
from datasets.digits import load_digits
from datasets.digits_classes import CLASSES, SUPERCLASS_OF

DECLARED = "6233fb1f43f3d95d81de28606aa91a5de7acf00b5da7bf6af4790f9ebccd8e2c"


def test_sizes_stratification_and_fingerprint():
    data = load_digits("fine")
    assert data.train.storage.shape == (2874, 16, 16, 3)
    assert data.test.storage.shape == (720, 16, 16, 3)
    train, test = (torch.bincount(part.labels) for part in (data.train, data.test))
    assert torch.equal(train + test, torch.bincount(torch.from_numpy(sklearn_digits().target).long()).repeat(2))
    assert ((test / (train + test) - 0.2).abs() < 0.01).all()
    check_fingerprint(data, DECLARED)  # it fixes every pixel


def test_each_digit_is_there_upright_and_lying_in_the_same_part():
    data = load_digits("fine")
    for part in (data.train, data.test):
        upright, lying = part.storage.chunk(2)
        assert torch.equal(lying, upright.rot90(dims=(1, 2)))
        assert torch.equal(part.labels, torch.cat([part.labels[: len(upright)], part.labels[: len(upright)] + 10]))
    assert [data.class_names[label] for label in (6, 16)] == ["upright_6", "lying_6"]


def test_coarse_labels_are_five_superclasses_of_four():
    fine, coarse = load_digits("fine"), load_digits("coarse")
    for part, digits in ((coarse.train, fine.train), (coarse.test, fine.test)):
        assert torch.equal(part.fine_labels, digits.labels)
        assert torch.equal(part.storage, digits.storage)
        assert torch.equal(part.labels, torch.tensor(SUPERCLASS_OF)[part.fine_labels])
    assert sorted(SUPERCLASS_OF) == sorted([0, 1, 2, 3, 4] * 4)
    assert fine.class_names == fine.fine_class_names == coarse.fine_class_names == CLASSES
    assert fine.fingerprint == coarse.fingerprint
