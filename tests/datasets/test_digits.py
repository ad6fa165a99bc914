import torch

from datasets.digits import load_digits
from datasets.digits_classes import CLASSES, SUPERCLASS_OF


def test_coarse_labels_are_five_superclasses_of_four():
    fine, coarse = load_digits("fine"), load_digits("coarse")
    for part, digits in ((coarse.train, fine.train), (coarse.test, fine.test)):
        assert torch.equal(part.fine_labels, digits.labels)
        assert torch.equal(part.storage, digits.storage)
        assert torch.equal(part.labels, torch.tensor(SUPERCLASS_OF)[part.fine_labels])
    assert sorted(SUPERCLASS_OF) == sorted([0, 1, 2, 3, 4] * 4)
    assert fine.class_names == fine.fine_class_names == coarse.fine_class_names == CLASSES
    assert fine.fingerprint == coarse.fingerprint
