import copy
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch import nn

from datasets.splits import random_split
from methods.dampening import Importance, dampen
from methods.ssd import SSD


class OneTensor(nn.Module):
    def __init__(self, values):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(values))
        self.register_buffer("b", torch.tensor(values))


def dampened(values, full, forget, *, alpha, lam):
    model = OneTensor(values)
    change = dampen(model, {"w": torch.tensor(full)}, {"w": torch.tensor(forget)}, alpha=alpha, lam=lam)
    assert model.b.tolist() == values
    return change.selected, model.w.tolist()


def method(**changes):
    return replace(SSD(alpha=1.5, lam=1.0, reduction="per_sample", order="class_sorted", batch_size=16), **changes)


@pytest.mark.parametrize(
    ("full", "forget", "alpha", "lam", "selected", "beta"),
    [
        ([1.0, 1.0, 1.0, 2.0], [1.5, 2.0, 4.0, 8.0], 2, 1, 2, [1.0, 1.0, 0.25, 0.25]),  # below, equal, above, above
        ([3.0, 1.0], [6.0001, 3.0], 2, 2, 2, [6 / 6.0001, 2 / 3]),  # β = λ·1/3
        ([1.0], [3.0], 2, 5, 1, [1.0]),  # and clamped at 1
        ([0.0, 0.0], [0.0, 1.0], 10, 1, 1, [1.0, 0.0]),  # only the forget set needs the second
    ],
)
def test_cases_by_hand(full, forget, alpha, lam, selected, beta):
    values = [1.0, 2.0, 4.0, -4.0][-len(full) :]  # a negative weight is dampened as well
    expected = [value * b for value, b in zip(values, beta, strict=True)]
    assert dampened(values, full, forget, alpha=alpha, lam=lam) == (selected, pytest.approx(expected))


def test_the_bound_is_reached_by_what_only_the_forget_set_uses():
    model = nn.Linear(4, 3)
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 4, generator=random), torch.arange(20) % 3
    x[5:, 0] = 0  # the first feature is there in the first five samples alone
    full = Importance.of(model, [(x, y)], reduction="per_sample")
    forget = Importance.of(model, [(x[:5], y[:5])], reduction="per_sample")
    with pytest.warns(UserWarning, match="Nothing is selected"):
        assert not dampen(copy.deepcopy(model), full, forget, alpha=4 * (1 + 1e-5), lam=1).selected
    assert dampen(copy.deepcopy(model), full, forget, alpha=4 * (1 - 1e-5), lam=1).selected == 3


def test_per_sample_importances_are_the_same_to_the_last_bit_for_all_targets(cnn, dataset, context):
    def of_all(seed, batch_size):
        kept = {}

        def keep(phase, options, make):
            return kept.setdefault(phase, make())

        ssd, forget = method(batch_size=batch_size, order="shuffled"), random_split(dataset, n=6, seed=seed)
        ssd(copy.deepcopy(cnn), forget, replace(context, cache=keep))
        return kept["importance_full"]

    one, other = of_all(seed=0, batch_size=16), of_all(seed=1, batch_size=5)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_importances_are_remembered_under_what_they_depend_on(cnn, split, dataset, context):
    def keys(split=split, seed=0, **changes):
        asked = {}

        def cache(phase, options, make):
            asked[phase] = dict(options)
            return make()

        method(**changes)(copy.deepcopy(cnn), split, replace(context, cache=cache, seed=seed))
        return asked["importance_full"], asked["importance_forget"]

    other, paper = random_split(dataset, n=6, seed=0), {"reduction": "batch_mean"}
    per_sample, by_batch, of_other = keys(), keys(**paper), keys(other, **paper)
    seven, shuffled = keys(**paper, batch_size=7), keys(**paper, order="shuffled")
    assert per_sample[0] == keys(other, alpha=9.0, order="shuffled", batch_size=7, seed=5)[0]  # Eq. 1 needs none of it
    assert by_batch == keys(**paper, alpha=9.0, lam=0.1, seed=5)
    later = [keys(**paper, order=order, seed=5)[0] for order in ("shuffled", "retain_shuffled")]
    full = [per_sample[0], by_batch[0], of_other[0], seven[0], shuffled[0], *later]
    forget = [per_sample[1], by_batch[1], of_other[1], seven[1]]
    for different in (full, forget):
        assert all(a != b for a, b in combinations(different, 2))
    assert shuffled[1] == by_batch[1]  # the order of D says nothing about D_f
    assert "batch_size" not in per_sample[1]
