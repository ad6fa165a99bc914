"""The true Fisher information against literal loops, and how columns are chosen."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.fisher import sample_error
from methods.fisher_information import ROTATED, fisher_diagonal, select_columns
from tests.methods.helpers import left_alone, literal_information, make_context, seeded, tiny_net, tiny_split, tiny_vit


def images(n: int, size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn((n, 3, size, size), generator=seeded(), dtype=torch.float64).to(dtype)


def in_batches(inputs: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    return [(x, torch.zeros(len(x), dtype=torch.int64)) for x in inputs.split(size)]


def relative_error(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    a, b = (torch.cat([x[name].flatten().double() for name in expected]) for x in (ours, expected))
    return float((a - b).norm() / b.norm())


def trained(model: nn.Module, inputs: Tensor, labels: Tensor, steps: int) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    model.zero_grad()
    return model


@pytest.mark.parametrize(
    ("build", "size", "dtype", "bound"),
    [(tiny_net, 16, torch.float64, 1e-12), (tiny_vit, 8, torch.float32, 1e-6)],
)
def test_exact_information_equals_the_literal_loop(build, size, dtype, bound):
    model, inputs = build(1).to(dtype), images(5, size, dtype)
    ours = fisher_diagonal(model, in_batches(inputs, 3), error=0.0, random=seeded(), chunk_size=4)
    expected = literal_information(model, inputs)
    assert ours.keys() == expected.keys()
    assert relative_error(ours, expected) < bound
    for name, value in expected.items():  # no tensor hides behind a larger one; a key's bias has none at all
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-6 * float(value.max()) + 1e-12)


def test_a_trained_network_keeps_the_default_tolerance_within_a_factor_of_three():
    """The error of the signs is predicted from the logits alone."""
    default = 1e-3  # of configs/method/fisher.yaml
    split = tiny_split("class", 600)
    n = len(split.retain_train)
    context = make_context(tiny_net)
    batches = list(context.batches(split.retain_train, 64))
    inputs, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    model = trained(tiny_net(1), inputs, labels, 60)

    def information(error: float) -> dict[str, Tensor]:
        return fisher_diagonal(model, batches, error=error, random=seeded(), chunk_size=64)

    exact = information(0.0)
    assert relative_error(information(sample_error(default, n)), exact) < 3 * default
    for tolerance in (0.01, 0.03):
        assert relative_error(information(sample_error(tolerance, n)), exact) < 1.5 * tolerance


def test_confident_predictions_need_few_columns():
    logits = torch.randn((8, 50), generator=seeded(), dtype=torch.float64) + 20 * torch.eye(50)[:8]
    p = logits.softmax(dim=1)
    columns, numbers = select_columns(p, 0.2, seeded())
    assert 8 < numbers.sum() < 8 * 12
    assert columns.shape == (8, numbers.max(), 50)
    assert torch.equal((columns != 0).any(dim=2).sum(dim=1), numbers)
    assert select_columns(p, 0.0, seeded())[1].tolist() == 8 * [49]
    assert select_columns(p, math.inf, seeded())[1].tolist() == 8 * [1]


def test_rotated_columns_are_a_factor_of_the_same_covariance():
    weight = torch.randn((ROTATED + 9, 60), generator=seeded(), dtype=torch.float64)
    p = (2 * torch.randn((5, ROTATED + 9), generator=seeded(), dtype=torch.float64)).softmax(dim=1)
    columns, _ = select_columns(p, 1e-12, seeded(), weight @ weight.mT)
    torch.testing.assert_close(columns.mT @ columns, torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1))
    assert not torch.allclose(columns.abs(), select_columns(p, 1e-12, seeded())[0].abs())
    energies = (columns @ weight).square().sum(dim=2)
    assert (energies.diff(dim=1) < 1e-12).all()


def test_the_error_is_predicted_and_falls_with_the_columns():
    """For a model whose classes have independent gradients of one size: logits = parameters, one row a sample."""
    p = (2 * torch.randn((64, 30), generator=seeded(), dtype=torch.float64)).softmax(dim=1)
    exact = (p * (1 - p)).sum(dim=0)  # Σ_x diagonal of diag(p) − ppᵀ
    numbers_before = 64 * 29
    for wanted in (0.02, 0.1, 0.5):
        errors = []
        for seed in range(50):
            columns, numbers = select_columns(p, wanted, seeded(seed))
            errors.append(float((columns.square().sum(dim=(0, 1)) - exact).norm() / exact.norm()))
        assert numbers.sum() < numbers_before
        numbers_before = numbers.sum()
        predicted = wanted / 64**0.5
        assert predicted / 3 < sum(errors) / 50 < 3 * predicted


def test_predictions_without_doubt_carry_no_information():
    model = nn.Linear(2, 3)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1e4, 0], [0, 0], [0, 0]]))
    ours = fisher_diagonal(model, in_batches(torch.ones(4, 2), 2), error=0.0, random=seeded())
    assert all((value == 0).all() for value in ours.values())


def test_the_model_is_left_as_it_was():
    model = tiny_net(0).train()
    model.norm.eval()
    model.conv.weight.requires_grad_(False)
    with left_alone(model):
        ours = fisher_diagonal(model, in_batches(images(4, 16, torch.float32), 2), error=0.5, random=seeded())
    assert (ours["conv.weight"] == 0).all()
    assert (ours["fc.weight"] > 0).any()


def test_an_empty_set_and_a_wrong_error_are_refused():
    with pytest.raises(ValueError, match="at least one batch"):
        fisher_diagonal(tiny_net(0), [], error=0.0, random=seeded())
    with pytest.raises(ValueError, match="error to be at least 0"):
        fisher_diagonal(tiny_net(0), [], error=math.nan, random=seeded())
