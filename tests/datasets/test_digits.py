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
    check_fingerprint(data, DECLARED)


def test_images_are_the_source_doubled_in_grey():
    data = load_digits("fine")
    pixels = torch.cat([data.train.storage, data.test.storage])
    assert (pixels == pixels[..., :1]).all()
    assert torch.equal(pixels[:, ::2, ::2], pixels[:, 1::2, 1::2])
    small = pixels[:, ::2, ::2, 0].double() * (16 / 255)
    source = torch.from_numpy(sklearn_digits().images)
    assert (small - small.round()).abs().max() < 0.04
    # the split permutes the samples: compare them as multisets
    assert sorted(small.round().flatten(1).tolist()) == sorted(source.flatten(1).tolist())


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
