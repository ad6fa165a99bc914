"""The textbook ways compute what the suite computes."""

import copy
from dataclasses import replace

import pytest
import torch

from benchmark.evaluate import evaluate, predict
from datasets.batches import Batches
from methods.dampening.dampen import dampen
from methods.dampening.importance import parameter_importance
from methods.training import train
from metrics.accuracy import accuracy
from metrics.membership import entropy, membership_inference
from scripts import speed_textbook
from scripts.speed_measure import largest_difference
from scripts.speed_textbook import Textbook

CPU = torch.device("cpu")
BATCH = 16


@pytest.fixture
def textbook(preprocessing):
    return Textbook(CPU, preprocessing, BATCH, workers=0)


@pytest.mark.parametrize(("reduction", "size"), [("batch_mean", BATCH), ("per_sample", 1)])
def test_importances(cnn, dataset, preprocessing, textbook, reduction, size):
    expected = parameter_importance(cnn, Batches(dataset.train, BATCH, preprocessing), reduction=reduction)
    found = textbook.importance(cnn, dataset.train, size)
    assert found.keys() == expected.keys()
    assert largest_difference(found, expected) < 1e-4
    wrong = textbook.importance(cnn, dataset.train, size + 1)
    assert largest_difference(wrong, expected) > 1e-2


def test_dampening(cnn, split, textbook):
    full, forget = (textbook.importance(cnn, data) for data in (split.retain_train, split.forget_train))
    ours, plain = copy.deepcopy(cnn), copy.deepcopy(cnn)
    changed = dampen(ours, full, forget, alpha=2.0, lam=1.0)
    speed_textbook.dampen(plain, full, forget, alpha=2.0, lam=1.0)
    assert 0 < changed < sum(p.numel() for p in cnn.parameters())
    assert largest_difference(dict(plain.named_parameters()), dict(ours.named_parameters())) < 1e-6


def test_entropies(cnn, dataset, preprocessing, textbook):
    expected = entropy(predict(cnn, dataset.test, preprocessing, BATCH))
    torch.testing.assert_close(textbook.entropies(cnn, dataset.test), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("averaging", ["per_sample", "per_batch"])
def test_metrics(cnn, split, preprocessing, textbook, averaging):
    outputs = evaluate(cnn, split, preprocessing, batch_size=BATCH, changed_fraction=0.0)
    expected = {
        f"{name}_accuracy": accuracy(outputs, split=f"{name}_test", averaging=averaging, batch_size=BATCH)
        for name in ("retain", "forget")
    }
    expected["mia"] = membership_inference(outputs, c=2.0)
    found = textbook.evaluate(cnn, split, per_batch=averaging == "per_batch", c=2.0)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected)


def test_training(cnn, dataset, preprocessing, compute, recipe, textbook):
    """One step on the same images."""
    data = dataset.train.subset(torch.arange(recipe.batch_size))
    one_epoch, ours, plain = replace(recipe, epochs=1), copy.deepcopy(cnn), copy.deepcopy(cnn)
    train(ours, data, one_epoch, preprocessing=preprocessing, random=torch.Generator(), compute=compute)
    textbook.train(plain, data, one_epoch)
    before, after = dict(cnn.named_parameters()), dict(ours.named_parameters())
    assert largest_difference(dict(plain.named_parameters()), after) < 1e-4
    assert largest_difference(before, after) > 1e-2
