"""Fisher forgetting: the rules for variance and rows, and the whole method."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from methods.fisher import Fisher
from tests.methods.helpers import literal_information, make_context, tiny_net, tiny_split

METHOD = Fisher(
    scale=1e-6, max_inverse=1e3, max_inverse_head=1e2, boost=10.0, forget_rows=True, forgotten_variance=1e-4,
    tolerance=0.0, batch_size=16,
)  # fmt: skip
WEIGHT = torch.arange(12.0).view(4, 3)
# information -> 1/(I + 1e-8): far below the bounds, between them, above both
INFORMATION = torch.tensor([[1.0, 0.1, 1e-12], [1e-12, 1.0, 1.0], [0.005, 0.005, 0.005], [1.0, 1.0, 1.0]])


def test_variance_of_the_last_layer_where_a_class_is_forgotten():
    mean, variance = METHOD.distribution(WEIGHT, INFORMATION, 4, 1)
    rows = torch.tensor([(1 + 10 + 100) / 3, 0, 100, 1]) * 1e-6 * 10  # bound 100, mean over dim 1, boosted
    rows[1] = 1e-4 * 10
    torch.testing.assert_close(variance, rows.view(4, 1).expand(4, 3))
    expected = WEIGHT.clone()
    expected[1] = 0
    assert torch.equal(mean, expected)
    bias_mean, bias_variance = METHOD.distribution(WEIGHT[:, 0], INFORMATION[:, 0], 4, 1)
    torch.testing.assert_close(
        bias_variance, torch.tensor([1.0, 1e2, 100, 1]).mul(1e-5).index_fill(0, torch.tensor(1), 1e-3)
    )
    assert bias_mean.tolist() == [0, 0, 6, 9]


def test_the_rows_of_every_forgotten_class_are_reset():
    mean, variance = METHOD.distribution(WEIGHT, INFORMATION, 4, torch.tensor([1, 3]))
    for row in (1, 3):
        one, its = METHOD.distribution(WEIGHT, INFORMATION, 4, torch.tensor([row]))
        assert torch.equal(mean[row], one[row])
        assert torch.equal(variance[row], its[row])
    assert torch.equal(mean[[0, 2]], WEIGHT[[0, 2]])


def test_variance_of_the_last_layer_where_samples_are_forgotten():
    mean, variance = METHOD.distribution(WEIGHT, INFORMATION, 4, None)
    rows = torch.tensor([(1 + 10 + 100) / 3, (100 + 1 + 1) / 3, 100, 1]) * 1e-6  # no boost, no row
    torch.testing.assert_close(variance, rows.view(4, 1).expand(4, 3))
    assert torch.equal(mean, WEIGHT)
    _, bias = METHOD.distribution(WEIGHT[:, 0], INFORMATION[:, 0], 4, None)
    torch.testing.assert_close(bias, torch.tensor([1.0, 100, 100, 1]) * 1e-5)


def test_variance_of_other_layers():
    mean, variance = METHOD.distribution(WEIGHT, INFORMATION, 10, 1)
    rows = torch.tensor([(1 + 10 + 1000) / 3, (1000 + 1 + 1) / 3, 200, 1]) * 1e-6
    torch.testing.assert_close(variance, rows.view(4, 1).expand(4, 3))
    assert torch.equal(mean, WEIGHT)
    _, vector = METHOD.distribution(WEIGHT[:, 0], INFORMATION[:, 0], 10, 1)
    torch.testing.assert_close(vector, torch.tensor([1.0, 1000, 200, 1]) * 1e-5)
    kernel = torch.rand((2, 3, 3, 3), generator=torch.Generator().manual_seed(0)) + 0.1
    _, variance = METHOD.distribution(torch.zeros(2, 3, 3, 3), kernel, 10, 1)
    torch.testing.assert_close(variance, (1e-6 / kernel).mean(dim=1, keepdim=True).expand_as(kernel))


def test_the_whole_method_on_a_linear_model_equals_the_rules_on_the_literal_information():
    """θ = mean + sqrt(variance)·N(0, 1) with the stream of the method seed, tensor by tensor."""
    split = tiny_split("class")

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 20)

        def forward(self, images):
            return self.fc(images.mean(dim=(2, 3)))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        original = Linear().eval()
    context = make_context(tiny_net)
    inputs = context.preprocessing(split.retain_train.storage[split.retain_train.index])
    information, label = literal_information(original, inputs), int(split.forget_train.labels[0])
    result = METHOD(copy.deepcopy(original), split, context)
    random = context.random("fisher noise")
    for name, before in original.named_parameters():
        variance = (1 / (information[name] + 1e-8)).clamp(max=100) * 1e-6
        if before.ndim == 2:
            variance = variance.mean(dim=1, keepdim=True).repeat(1, 3)
        mean = before.detach().clone()
        mean[label], variance[label] = 0, 1e-4
        expected = mean + (10 * variance).sqrt() * torch.randn(before.shape, generator=random)
        torch.testing.assert_close(dict(result.named_parameters())[name], expected, rtol=1e-4, atol=1e-6)


def test_what_is_remembered_depends_on_the_forget_set_and_not_on_the_seed():
    keys = []

    def cache(phase, options, make):
        keys.append((phase, options))
        return make()

    for task, seed in (("class", 0), ("class", 1), ("random", 0)):
        context = replace(make_context(tiny_net, seed=seed), cache=cache)
        original = tiny_net(1)
        result = METHOD(copy.deepcopy(original), tiny_split(task), context)
        assert all(torch.equal(a, b) for a, b in zip(result.buffers(), original.buffers(), strict=True))
    assert keys[0] == keys[1] != keys[2]
    assert keys[0][0] == "importance_full"


def test_a_negative_tolerance_is_refused():
    with pytest.raises(ValueError, match="tolerance"):
        replace(METHOD, tolerance=-1.0)
