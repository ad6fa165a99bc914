import pytest
import torch
from sklearn.metrics import accuracy_score

from metrics.accuracy import accuracy, newest_accuracy, top1_accuracy
from metrics.base import EvalOutputs

SPLITS = ("forget_train", "retain_train", "forget_test", "retain_test")


def predictions(correct):
    """Logits and labels of which exactly the samples marked `correct` are right."""
    correct = torch.tensor(correct)
    labels = torch.arange(len(correct)) % 3
    predicted = torch.where(correct, labels, (labels + 1) % 3)
    return 5 * torch.nn.functional.one_hot(predicted, 3).float() - 2, labels


def test_the_published_80_90():
    logits, labels = predictions([True] * 52 + [False] * 12 + [True] * 29 + [False] * 7)
    by_batch = top1_accuracy(logits, labels, averaging="per_batch", batch_size=64)
    assert by_batch == pytest.approx((52 / 64 + 29 / 36) / 2, abs=1e-12)
    assert f"{100 * by_batch:.2f}" == "80.90"
    assert top1_accuracy(logits, labels, averaging="per_sample", batch_size=64) == pytest.approx(0.81, abs=1e-12)
    with pytest.raises(ValueError, match="per_sample or per_batch, but got 'mean'"):
        top1_accuracy(logits, labels, averaging="mean", batch_size=64)


def test_per_sample_equals_scikit_learn():
    random = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(57, 4, generator=random), torch.randint(0, 4, (57,), generator=random)
    expected = accuracy_score(labels, logits.argmax(1))
    for size in (1, 10, 57, 100):
        assert top1_accuracy(logits, labels, averaging="per_sample", batch_size=size) == pytest.approx(expected)
    # batches of one or of everything: both averages are the same
    for size in (1, 57, 100):
        assert top1_accuracy(logits, labels, averaging="per_batch", batch_size=size) == pytest.approx(expected)


def test_accuracy_looks_at_the_named_split():
    parts = {name: predictions([i < k for i in range(4)]) for k, name in enumerate(SPLITS)}
    outputs = EvalOutputs({n: p[0] for n, p in parts.items()}, {n: p[1] for n, p in parts.items()}, False)
    values = [accuracy(outputs, split=name, averaging="per_sample", batch_size=64) for name in SPLITS]
    assert values == [0, 0.25, 0.5, 0.75]


def test_class_by_class_the_short_last_batch_holds_the_last_class():
    correct, groups = [True, False, True, True, False], torch.tensor([2, 0, 1, 0, 1])
    logits, labels = predictions(correct)
    outputs = EvalOutputs({"retain_test": logits}, {"retain_test": labels}, False, groups={"retain_test": groups})
    options = {"split": "retain_test", "averaging": "per_batch", "batch_size": 2}
    # 0, 1 | 2, 3 | 4 as the data come; 1, 3 | 2, 4 | 0 by class, within a class as the data come
    assert accuracy(outputs, **options) == accuracy(outputs, **options, order="data") == pytest.approx(1.5 / 3)
    assert accuracy(outputs, **options, order="by_class") == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="data or by_class, but got 'label'"):
        accuracy(outputs, **options, order="label")


def test_newest_accuracy_looks_at_the_end_of_the_forget_set():
    whole = dict.fromkeys(SPLITS, predictions([True, True, False, True, False]))
    logits, labels = ({name: part[i] for name, part in whole.items()} for i in (0, 1))
    values = [
        newest_accuracy(EvalOutputs(logits, labels, False, newest_test=n), averaging="per_sample", batch_size=64)
        for n in (None, 1, 2, 3)
    ]
    assert values == [None, 0, 0.5, pytest.approx(1 / 3)]
