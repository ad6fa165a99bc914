import torch
from sklearn.datasets import load_digits as sklearn_digits

from datasets.base import check_fingerprint
from datasets.digits import PAIRS, load_digits

DECLARED = "c8fe007cd4396c489e2070f489055449e04196aab4fabc9da9404ee233fe977b"


def test_sizes_stratification_and_fingerprint():
    data = load_digits("fine")
    assert data.train.storage.shape == (1437, 16, 16, 3)
    assert data.test.storage.shape == (360, 16, 16, 3)
    train, test = (torch.bincount(part.labels) for part in (data.train, data.test))
    assert torch.equal(train + test, torch.bincount(torch.from_numpy(sklearn_digits().target).long()))
    assert ((test / (train + test) - 0.2).abs() < 0.01).all()
    check_fingerprint(data, DECLARED)  # it fixes every pixel


def test_coarse_labels_are_the_pairs():
    fine, coarse = load_digits("fine"), load_digits("coarse")
    assert PAIRS == ((0, 6), (1, 7), (2, 3), (4, 9), (5, 8))
    for part, digits in ((coarse.train, fine.train), (coarse.test, fine.test)):
        assert torch.equal(part.fine_labels, digits.labels)
        assert torch.equal(part.storage, digits.storage)
        assert all(d in PAIRS[c] for c, d in zip(part.labels.tolist(), part.fine_labels.tolist(), strict=True))
    assert coarse.class_names == ("0-6", "1-7", "2-3", "4-9", "5-8")
    assert fine.fine_class_names == coarse.fine_class_names == tuple("0123456789")
    assert fine.fingerprint == coarse.fingerprint
