"""Amnesiac: wrong labels for the forget set, once, and the right ones for the rest."""

import pytest
import torch

from methods.amnesiac import Amnesiac, wrong_labels
from methods.training import Recipe
from tests.methods.helpers import make_context, seeded, tiny_net, tiny_split


def test_wrong_labels_are_uniform_over_the_others():
    num_classes = 5
    labels = torch.arange(num_classes).repeat_interleave(2000)
    drawn = wrong_labels(labels, num_classes, seeded())
    counts = torch.zeros(num_classes, num_classes).index_put_((labels, drawn), torch.tensor(1.0), accumulate=True)
    assert counts.diagonal().sum() == 0
    expected = 2000 / (num_classes - 1)
    others = counts[~torch.eye(num_classes, dtype=torch.bool)]
    assert (others - expected).abs().max() < 6 * expected**0.5


def test_two_classes_leave_no_choice():
    labels = torch.tensor([0, 1, 1])
    assert wrong_labels(labels, 2, seeded()).tolist() == [1, 0, 0]
    with pytest.raises(ValueError, match="at least 2 classes"):
        wrong_labels(labels, 1, seeded())


def test_every_epoch_sees_the_same_wrong_labels(monkeypatch):
    split, seen, num_classes = tiny_split("subclass"), [], 5  # superclasses

    def record(model, data, recipe, **options):
        seen.append((data, recipe))
        return model

    monkeypatch.setattr("methods.base.train", record)
    method = Amnesiac(Recipe.constant("adam", lr=1e-4, epochs=3, batch_size=32))
    method(tiny_net(0, num_classes), split, make_context(tiny_net))
    ((data, recipe),) = seen  # one training over all epochs: relabelled once
    n = len(split.forget_train)
    assert recipe is method.recipe
    assert torch.equal(data.index[:n], split.forget_train.index)
    assert (data.labels[:n] != split.forget_train.labels).all()
    assert 0 <= data.labels.min() <= data.labels.max() < num_classes
    assert torch.equal(data.index[n:], split.retain_train.index)
    assert torch.equal(data.labels[n:], split.retain_train.labels)
