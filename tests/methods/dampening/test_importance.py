from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from datasets.splits import class_split, random_split, subclass_split
from methods.dampening import Importance
from methods.ssd import ordered
from tests.methods.helpers import assert_same, in_batches, left_alone, literal_importance, seeded


def samples(n=11, classes=3, shape=(3, 8, 8), seed=0):
    inputs = torch.randn((n, *shape), generator=seeded(seed))
    return inputs, torch.randint(0, classes, (n,), generator=seeded(seed + 1))


def mean_over(model, batches):
    """The mean over batches of the squared gradient of each one's mean loss."""
    return literal_importance(model, [F.cross_entropy(model(inputs), labels) for inputs, labels in batches])


def test_batch_mean_equals_the_literal_loop(cnn):
    batches = in_batches(*samples(), 4)  # the last one is short and counts as much
    assert_same(Importance.of(cnn, batches, reduction="batch_mean"), mean_over(cnn, batches))


def test_per_sample_equals_a_loop_over_samples(cnn):
    x, y = samples()
    expected = mean_over(cnn, in_batches(x, y, 1))
    for chunk_size in (None, 1, 3):
        ours = Importance.of(cnn, in_batches(x, y, 4), reduction="per_sample", chunk_size=chunk_size)
        assert_same(ours, expected)
    assert_same(Importance.of(cnn, in_batches(x, y, 1), reduction="batch_mean"), expected)


@pytest.fixture(params=["batch_mean", "per_sample"])
def reduction(request):
    return request.param


def test_every_parameter_has_one_and_it_is_0_where_the_loss_does_not_reach(cnn, reduction):
    batches = in_batches(*samples(), 4)
    free = dict(Importance.of(cnn, batches, reduction=reduction))
    assert all((value > 0).any() for value in free.values())
    cnn.unused = nn.Parameter(torch.ones(2))
    cnn.conv.weight.requires_grad_(False)
    importance = dict(Importance.of(cnn, batches, reduction=reduction))
    assert {name: v.shape for name, v in importance.items()} == {name: p.shape for name, p in cnn.named_parameters()}
    assert all(value.dtype == torch.float32 and (value >= 0).all() for value in importance.values())
    assert not any(value.requires_grad for value in importance.values())
    for name in ("unused", "conv.weight"):
        assert not importance.pop(name).any()
    free.pop("conv.weight")
    assert_same(importance, free)  # a frozen parameter changes no other
    assert not cnn.conv.weight.requires_grad


@pytest.mark.usefixtures("global_rng_untouched")
def test_the_model_is_used_in_eval_mode_and_left_as_it_was(cnn, reduction):
    batches = in_batches(*samples(), 4)
    expected = Importance.of(cnn, batches, reduction=reduction)
    cnn.train()
    cnn.fc.eval()
    with left_alone(cnn):
        again = Importance.of(cnn, batches, reduction=reduction)
    assert all(torch.equal(again[name], value) for name, value in expected.items())
    with left_alone(cnn), pytest.raises(RuntimeError):
        Importance.of(cnn, [(torch.zeros(2, 7), torch.zeros(2).long())], reduction=reduction)


def test_the_callers_gradients_come_back_even_after_an_error(cnn):
    gradients = {name: torch.full_like(p, 2.0) for name, p in cnn.named_parameters()}
    for name, p in cnn.named_parameters():
        p.grad = gradients[name]
    images, labels = samples()
    for batches in ([(images, labels)], [(images, labels), (torch.zeros(2, 7), torch.zeros(2).long())]):
        with pytest.raises(RuntimeError) if len(batches) > 1 else nullcontext():
            Importance.of(cnn, batches, reduction="batch_mean")
        assert all(p.grad is gradients[name] and bool((p.grad == 2).all()) for name, p in cnn.named_parameters())


def test_what_is_refused(cnn):
    for reduction in ("batch_mean", "per_sample"):
        with pytest.raises(ValueError, match="at least one batch"):
            Importance.of(cnn, [], reduction=reduction)
    with pytest.raises(ValueError, match="batch_mean or per_sample, but got 'sum'"):
        Importance.of(cnn, [], reduction="sum")


def test_class_sorted_ends_with_the_forget_set(dataset):
    by_class = ordered(class_split(dataset, target="pet"), "class_sorted", seeded())
    assert by_class.labels.tolist() == [0] * 20 + [2] * 20 + [1] * 20
    assert sorted(by_class.index.tolist()) == list(range(60))
    by_fine_class = ordered(subclass_split(dataset, target="dog"), "class_sorted", seeded())
    assert by_fine_class.fine_labels.tolist() == [c for c in (0, 1, 2, 4, 5, 3) for _ in range(10)]
    drawn = random_split(dataset, n=7, seed=0)
    data = ordered(drawn, "class_sorted", seeded())
    assert data.labels[:-7].tolist() == sorted(drawn.retain_train.labels.tolist())
    assert torch.equal(data.index[-7:], drawn.forget_train.index)


def test_shuffled_orders_are_permutations_of_the_generator(split):
    for order in ("shuffled", "retain_shuffled"):
        one, same, other = (ordered(split, order, seeded(seed)).index.tolist() for seed in (0, 0, 1))
        assert sorted(one) == list(range(60))
        assert one == same != other
        forget = split.forget_train.index.tolist()
        assert (one[-len(forget) :] == forget) is (order == "retain_shuffled")
