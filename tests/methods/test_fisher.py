"""Fisher forgetting: the true Fisher information against literal loops, the rules for variance and rows."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.fisher import Fisher, sample_error
from methods.fisher_information import covariance_factor, fisher_diagonal, select_columns
from tests.methods.helpers import compose_method, make_context, tiny_net, tiny_split, tiny_vit

METHOD = Fisher(
    scale=1e-6, max_inverse=1e3, max_inverse_head=1e2, boost=10.0, forget_rows=True, forgotten_variance=1e-4,
    tolerance=0.0, batch_size=16,
)  # fmt: skip


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int, size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn((n, 3, size, size), generator=seeded(), dtype=torch.float64).to(dtype)


def in_batches(inputs: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    return [(x, torch.zeros(len(x), dtype=torch.int64)) for x in inputs.split(size)]


def literal(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """One backward pass for every sample and every class, as in the released code."""
    named = dict(model.named_parameters())
    result = {name: torch.zeros_like(p) for name, p in named.items()}
    for sample in inputs:
        logits = model(sample.unsqueeze(0))
        probabilities = logits.softmax(dim=1)[0].detach()
        for label, p in enumerate(probabilities):
            loss = F.cross_entropy(logits, torch.tensor([label]))
            gradients = torch.autograd.grad(loss, list(named.values()), retain_graph=True)
            for name, gradient in zip(named, gradients, strict=True):
                result[name] += p * gradient.square() / len(inputs)
    return result


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


@pytest.mark.parametrize(("build", "size"), [(tiny_net, 16), (tiny_vit, 8)])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_exact_information_equals_the_literal_loop(build, size, dtype, bound):
    model, inputs = build(1).to(dtype), images(5, size, dtype)
    ours = fisher_diagonal(model, in_batches(inputs, 3), error=0.0, random=seeded(), chunk_size=4)
    expected = literal(model, inputs)
    assert ours.keys() == expected.keys()
    assert relative_error(ours, expected) < bound
    for name, value in expected.items():  # no tensor hides behind a larger one; a key's bias has none at all
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-6 * float(value.max()) + 1e-12)


def test_linear_softmax_has_its_closed_form():
    model = nn.Linear(4, 3, bias=False).double()
    inputs = torch.randn((7, 4), generator=seeded(), dtype=torch.float64)
    p = model(inputs).softmax(dim=1)
    expected = (p * (1 - p)).T @ inputs.square() / 7
    ours = fisher_diagonal(model, in_batches(inputs, 7), error=0.0, random=seeded())
    torch.testing.assert_close(ours["weight"], expected.detach())


def test_the_default_tolerance_is_kept_on_a_trained_network():
    method = compose_method("method=fisher")
    split = tiny_split("class", 600)
    n = len(split.retain_train)
    context = make_context(tiny_net)
    batches = list(context.batches(split.retain_train, 64))
    inputs, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    model = trained(tiny_net(1), inputs, labels, 60)

    def information(error: float) -> dict[str, Tensor]:
        return fisher_diagonal(model, batches, error=error, random=seeded(), chunk_size=64)

    exact = information(0.0)
    assert relative_error(information(sample_error(method.tolerance, n)), exact) < method.tolerance == 1e-3
    for tolerance in (0.01, 0.03):
        assert relative_error(information(sample_error(tolerance, n)), exact) < 1.5 * tolerance


def test_the_estimate_has_the_right_mean():
    model, inputs = tiny_net(1, 4).double(), images(3, 16)
    random = seeded()
    mean = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for _ in range(120):
        one = fisher_diagonal(model, in_batches(inputs, 3), error=math.inf, random=random)
        mean = {name: value + one[name] / 120 for name, value in mean.items()}
    assert relative_error(mean, literal(model, inputs)) < 0.2


def test_the_factor_is_that_of_the_covariance():
    logits = 3 * torch.randn((6, 9), generator=seeded(), dtype=torch.float64)
    logits[0] = 0
    logits[1] = torch.eye(9)[4] * 800  # the other probabilities underflow
    p = logits.softmax(dim=1)
    factor = covariance_factor(p)
    torch.testing.assert_close(factor @ factor.mT, torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1))
    assert (factor.abs().sum(dim=1) > 0).sum(dim=1).max() <= 8


def test_confident_predictions_need_few_columns():
    logits = torch.randn((8, 50), generator=seeded(), dtype=torch.float64) + 20 * torch.eye(50)[:8]
    p = logits.softmax(dim=1)
    columns, numbers = select_columns(p, 0.2, seeded())
    assert 8 < numbers.sum() < 8 * 12
    assert columns.shape == (8, numbers.max(), 50)
    assert torch.equal((columns != 0).any(dim=2).sum(dim=1), numbers)
    assert select_columns(p, 0.0, seeded())[1].tolist() == 8 * [49]
    assert select_columns(p, math.inf, seeded())[1].tolist() == 8 * [1]


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
    before = copy.deepcopy(model.state_dict())
    ours = fisher_diagonal(model, in_batches(images(4, 16, torch.float32), 2), error=0.5, random=seeded())
    assert (ours["conv.weight"] == 0).all()
    assert (ours["fc.weight"] > 0).any()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not model.norm.training
    assert all(p.grad is None for p in model.parameters())


def test_an_empty_set_and_a_wrong_share_are_refused():
    with pytest.raises(ValueError, match="at least one batch"):
        fisher_diagonal(tiny_net(0), [], error=0.0, random=seeded())
    with pytest.raises(ValueError, match="error to be at least 0"):
        fisher_diagonal(tiny_net(0), [], error=math.nan, random=seeded())
    with pytest.raises(ValueError, match="tolerance"):
        replace(METHOD, tolerance=-1.0)


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


def test_variance_of_the_last_layer_where_samples_are_forgotten():
    mean, variance = METHOD.distribution(WEIGHT, INFORMATION, 4, None)
    rows = torch.tensor([(1 + 10 + 100) / 3, (100 + 1 + 1) / 3, 100, 1]) * 1e-6  # no boost, no row
    torch.testing.assert_close(variance, rows.view(4, 1).expand(4, 3))
    assert torch.equal(mean, WEIGHT)
    _, bias = METHOD.distribution(WEIGHT[:, 0], INFORMATION[:, 0], 4, None)
    torch.testing.assert_close(bias, torch.tensor([1.0, 100, 100, 1]) * 1e-5)


@pytest.mark.parametrize("forgotten", [1, None])
def test_variance_of_other_layers(forgotten):
    mean, variance = METHOD.distribution(WEIGHT, INFORMATION, 10, forgotten)
    rows = torch.tensor([(1 + 10 + 1000) / 3, (1000 + 1 + 1) / 3, 200, 1]) * 1e-6
    torch.testing.assert_close(variance, rows.view(4, 1).expand(4, 3))
    assert torch.equal(mean, WEIGHT)
    _, vector = METHOD.distribution(WEIGHT[:, 0], INFORMATION[:, 0], 10, forgotten)
    torch.testing.assert_close(vector, torch.tensor([1.0, 1000, 200, 1]) * 1e-5)


def test_a_kernel_takes_the_mean_over_its_input_channels():
    information = torch.rand((2, 3, 3, 3), generator=seeded()) + 0.1
    _, variance = METHOD.distribution(torch.zeros(2, 3, 3, 3), information, 10, None)
    torch.testing.assert_close(variance[:, 0], (1e-6 / information).mean(dim=1))
    assert torch.equal(variance[:, 0], variance[:, 2])


@pytest.mark.parametrize(("task", "forget_rows"), [("class", True), ("subclass", False), ("random", False)])
def test_configuration(task, forget_rows):
    for protocol in ("paper", "strict"):
        method = compose_method("method=fisher", f"task={task}", f"protocol={protocol}")
        same = replace(METHOD, forget_rows=forget_rows, tolerance=1e-3, batch_size=method.batch_size)
        assert method == same


def test_the_whole_method_on_a_linear_model_equals_the_rules_on_the_literal_information():
    """θ = mean + sqrt(variance)·N(0, 1) with the stream of the method seed, tensor by tensor."""
    split = tiny_split("class")

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 10)

        def forward(self, images):
            return self.fc(images.mean(dim=(2, 3)))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        original = Linear().eval()
    context = make_context(tiny_net)
    inputs = context.preprocessing(split.retain_train.storage[split.retain_train.index])
    information, label = literal(original, inputs), int(split.forget_train.labels[0])
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

    def memo(phase, options, compute):
        keys.append((phase, options))
        return compute()

    for task, seed in (("class", 0), ("class", 1), ("random", 0)):
        context = replace(make_context(tiny_net, seed=seed), memo=memo)
        METHOD(tiny_net(1), tiny_split(task), context)
    assert keys[0] == keys[1] != keys[2]
    assert keys[0][0] == "importance_full"


def test_buffers_stay():
    original = tiny_net(1)
    result = METHOD(copy.deepcopy(original), tiny_split("class"), make_context(tiny_net))
    buffers = dict(original.named_buffers())
    assert all(torch.equal(value, buffers[name]) for name, value in result.named_buffers())
    assert not torch.equal(result.conv.weight, original.conv.weight)
