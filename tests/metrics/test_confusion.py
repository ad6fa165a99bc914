from dataclasses import replace

import pytest
import torch
from sklearn.metrics import confusion_matrix

from metrics.base import EvalOutputs
from metrics.confusion import interclass_error, true_label_error


def saying(classes):
    return torch.nn.functional.one_hot(torch.tensor(classes), 4).float()


def outputs(forget, test):
    """Of a model that says `forget` and `test`; classes 1 and 3 are swapped, two images of each are forgotten."""
    labels = {"forget_train": torch.tensor([3, 3, 1, 1]), "retain_test": torch.tensor([0, 1, 1, 2, 3, 3, 3, 0])}
    return EvalOutputs({"forget_train": saying(forget), "retain_test": saying(test)}, labels, True)


def test_interclass_error_is_that_of_the_confusion_matrix():
    test = [1, 3, 1, 3, 1, 3, 0, 0]  # one of class 1 for 3, one of class 3 for 1, one of class 3 for 0
    found = outputs([1, 1, 3, 3], test)
    matrix = confusion_matrix(found.labels["retain_test"], test)
    assert interclass_error(found) == pytest.approx((matrix[1, 3] + matrix[3, 1]) / matrix[[1, 3]].sum()) == 2 / 5


def test_a_clean_model_gives_the_forget_set_its_true_labels():
    right = [0, 1, 1, 2, 3, 3, 3, 0]
    clean, confused = outputs([1, 1, 3, 3], right), outputs([3, 3, 1, 0], right)
    assert (true_label_error(clean), true_label_error(confused)) == (0, 1)
    assert interclass_error(clean) == interclass_error(confused) == 0
    assert true_label_error(outputs([1, 2, 3, 1], right)) == 0.5


def test_without_a_confusion_or_a_test_image_there_is_no_error():
    found = outputs([1, 1, 3, 3], [0] * 8)
    for labels in ([3, 3, 3, 3], [3, 3, 3, 1], [0, 1, 2, 3]):
        other = replace(found, labels={**found.labels, "forget_train": torch.tensor(labels)})
        assert interclass_error(other) is true_label_error(other) is None
    classes = replace(found, forget_test_is_train=False)  # two classes are forgotten
    assert interclass_error(classes) is true_label_error(classes) is None
    others = replace(found, labels={**found.labels, "retain_test": torch.tensor([0, 2] * 4)})
    assert interclass_error(others) is None
