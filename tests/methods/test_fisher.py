"""Fisher forgetting: the rules for variance and rows, and the whole method."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from methods.fisher import Fisher
from tests.methods.helpers import literal_information, make_context, seeded, tiny_net, tiny_split

METHOD = Fisher(
    scale=1e-6, max_inverse=1e3, max_inverse_head=1e2, boost=10.0, forget_rows=True, forgotten_variance=1e-4,
    tolerance=0.0, batch_size=16,
)  # fmt: skip
WEIGHT = torch.arange(12.0).view(4, 3)
# information -> 1/(I + 1e-8): far below the bounds, between them, above both
INFORMATION = torch.tensor([[1.0, 0.1, 1e-12], [1e-12, 1.0, 1.0], [0.005, 0.005, 0.005], [1.0, 1.0, 1.0]])


@pytest.mark.parametrize(
    ("num_classes", "forgotten", "rows", "vector"),
    [
        (4, [1], [(10 + 100 + 1000) / 3, 1000, 1000, 10], [10, 1000, 1000, 10]),  # bound 100, boosted; row 1 is reset
        (4, [1, 3], [(10 + 100 + 1000) / 3, 1000, 1000, 1000], [10, 1000, 1000, 1000]),
        (4, None, [(1 + 10 + 100) / 3, (100 + 1 + 1) / 3, 100, 1], [10, 1000, 1000, 10]),  # no row, vectors boosted
        (10, [1], [(1 + 10 + 1000) / 3, (1000 + 1 + 1) / 3, 200, 1], [10, 10000, 2000, 10]),  # bound 1000
    ],
    ids=["last layer, a class", "last layer, two classes", "last layer, samples", "other layers"],
)
def test_rows_share_a_bounded_variance_and_forgotten_ones_are_reset(num_classes, forgotten, rows, vector):
    classes = None if forgotten is None else torch.tensor(forgotten)
    for values, information, expected in (
        (WEIGHT, INFORMATION, torch.tensor(rows).view(4, 1).expand(4, 3)),
        (WEIGHT[:, 0], INFORMATION[:, 0], torch.tensor(vector).float()),
    ):
        mean, variance = METHOD.distribution(values, information, num_classes, classes)
        torch.testing.assert_close(1e6 * variance, expected, rtol=1e-5, atol=0)
        resets = num_classes == len(WEIGHT) and classes is not None
        assert torch.equal(mean, values.index_fill(0, classes, 0) if resets else values)


def test_variance_of_a_kernel_is_that_of_its_output_channel():
    kernel = torch.rand((2, 3, 3, 3), generator=seeded()) + 0.1
    _, variance = METHOD.distribution(torch.zeros(2, 3, 3, 3), kernel, 10, 1)
    expected = (1 / kernel).mean(dim=1, keepdim=True).expand_as(kernel)
    torch.testing.assert_close(1e6 * variance, expected, rtol=1e-5, atol=0)


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
