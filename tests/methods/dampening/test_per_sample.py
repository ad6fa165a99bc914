"""Squared per-sample gradients from layers equal those of a literal loop, or the general way is taken."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from benchmark.models import resnet18
from methods.dampening.layer_squares import KEPT, PRODUCTS, add_by_positions, add_by_products
from methods.dampening.per_sample import SquaredGradients, zero_sums

TARGETS = torch.tensor([0, 2, 1, 2, 0])


def all_classes(logits, labels):
    """Directions (B, K + 1, K), the last one 0."""
    return F.pad(torch.eye(logits.shape[1], dtype=logits.dtype), (0, 0, 0, 1)).expand(len(logits), -1, -1)


def gradient(logits, labels):
    """Of the cross-entropy at the logits."""
    return (logits.softmax(dim=1) - F.one_hot(labels, logits.shape[1])).unsqueeze(1)


def images(size=8, n=5):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def disturbed(model):
    """The model in eval mode, normalisation layers no longer the labels."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]:
            tensor.add_(0.1 * torch.rand(tensor.shape, generator=random))
    return model.eval()


class Net(nn.Module):
    """Layers given by name, then the mean over positions and a linear head."""

    def __init__(self, *layers, width):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.layers(x).mean(dim=(2, 3)))


class Twice(Net):
    def forward(self, x):
        return self.head(self.layers(self.layers(x)).mean(dim=(2, 3)))


class Tokens(nn.Module):
    """A sequence with a class token, layer norm on tokens and on vectors, a scale that broadcasts."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.embed = nn.Conv2d(3, 6, 4, stride=4)
        self.norm, self.mix, self.last = nn.LayerNorm(6), nn.Linear(6, 6, bias=False), nn.LayerNorm(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        tokens = self.embed(x).flatten(2).mT
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], dim=1)
        return self.head(self.last(torch.relu(self.mix(self.norm(tokens))).mean(dim=1)))


class CutUp(nn.Module):
    """Each sample becomes four for its first layer."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(48, 5), nn.Linear(5, 3)

    def forward(self, x):
        parts = F.unfold(x, 4, stride=4).mT.flatten(0, 1)
        return self.head(torch.relu(self.first(parts)).unflatten(0, (len(x), -1)).mean(dim=1))


class Scaled(Net):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), width=4)
        self.gamma = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.gamma * super().forward(x)


BY_LAYERS = {
    "inplace": lambda: Net(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), width=4),
    "strided": lambda: Net(nn.Conv2d(3, 4, (3, 2), stride=2, padding=(1, 0), dilation=(1, 2), bias=False), width=4),
    "tokens": Tokens,
    "resnet18": lambda: resnet18(num_classes=3, width=1),
    "vit": lambda: timm.create_model("test_vit", num_classes=3, img_size=32, depth=2, embed_dim=12, num_heads=3),
}
BY_SAMPLES = {
    "used twice": lambda: Twice(nn.Conv2d(3, 3, 3, padding=1), width=3),
    "grouped": lambda: Net(nn.Conv2d(3, 6, 3, groups=3), width=6),
    "reflecting": lambda: Net(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), width=4),
    "same": lambda: Net(nn.Conv2d(3, 4, 3, padding="same"), width=4),
    "group norm": lambda: Net(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), width=4),
    "cut up": CutUp,
    "scaled": Scaled,
}


def test_the_formulas_hold_in_channels_last():
    model = disturbed(BY_LAYERS["resnet18"]()).double().to(memory_format=torch.channels_last)
    inputs = images().double().contiguous(memory_format=torch.channels_last)
    squares = SquaredGradients(model, gradient)
    assert squares._layers_agree(inputs, TARGETS)
    torch.testing.assert_close(
        squares.by_layers(inputs, TARGETS), literal(model, inputs, TARGETS, gradient), rtol=1e-9, atol=1e-15
    )


def literal(model, inputs, targets, directions):
    """The squares of one backward pass for every sample and direction."""
    named = dict(model.named_parameters())
    sums = {name: torch.zeros_like(p) for name, p in named.items()}
    for x, y in zip(inputs, targets, strict=True):
        logits = model(x[None])
        for direction in directions(logits.detach(), y[None])[0]:
            gradients = torch.autograd.grad(logits, list(named.values()), direction[None], retain_graph=True)
            for name, value in zip(named, gradients, strict=True):
                sums[name] += value.square()
    return sums


@pytest.mark.parametrize("name", [*BY_LAYERS, *BY_SAMPLES])
def test_equal_to_the_literal_loop(monkeypatch, name):
    """In whole and cut chunks, with one gradient per sample and with several, kept for a product or not."""
    model = disturbed((BY_LAYERS | BY_SAMPLES)[name]()).double()
    inputs = images(32 if name == "vit" else 8).double()
    for directions in (gradient, all_classes):
        expected = literal(model, inputs, TARGETS, directions)
        for chunk_size, kept in ((2, KEPT["cpu"]), (5, 1)):
            monkeypatch.setitem(KEPT, "cpu", kept)
            squares, sums = SquaredGradients(model, directions), zero_sums(model)
            squares.add_to(sums, inputs, TARGETS, chunk_size)
            assert squares._by_layers is (name in BY_LAYERS)
            for part, value in expected.items():
                torch.testing.assert_close(sums[part], value, rtol=1e-9, atol=1e-12 * float(value.norm() + 1))
                assert value.norm() > 0


def test_products_by_positions_equal_those_by_products():
    n, m, random = 6, 3, torch.Generator().manual_seed(0)
    left, right = torch.randn(5, n, 7, m, generator=random), torch.randn(5, n, 6, generator=random)
    literal = torch.einsum("btrm,btn->brmn", left, right).square().sum(dim=(0, 1))
    by_products, by_positions = torch.zeros(m, 6), torch.zeros(m, 6)
    add_by_products(by_products, left, right.__getitem__)
    add_by_positions(by_positions, left, right.__getitem__)
    torch.testing.assert_close(by_products, literal)
    torch.testing.assert_close(by_positions, literal)


def test_the_check_notices_a_wrong_formula(monkeypatch):
    model = disturbed(BY_LAYERS["inplace"]())
    wrong = SquaredGradients(model, gradient)
    right = SquaredGradients(model, gradient).by_samples(images(), TARGETS)
    monkeypatch.setattr(wrong, "by_layers", lambda x, y: {name: 1.01 * v for name, v in right.items()})
    sums = zero_sums(model)
    wrong.add_to(sums, images(), TARGETS, 5)
    for name, value in right.items():
        torch.testing.assert_close(sums[name], value)


def test_small_pieces_give_the_same(monkeypatch):
    model = disturbed(BY_LAYERS["strided"]()).double()
    squares = SquaredGradients(model, gradient)
    whole = squares.by_layers(images().double(), TARGETS)
    monkeypatch.setitem(PRODUCTS, "cpu", 100)
    for name, value in squares.by_layers(images().double(), TARGETS).items():
        torch.testing.assert_close(value, whole[name])


def test_fixed_and_unused_parameters_get_0_and_nothing_is_left_behind():
    model = disturbed(BY_LAYERS["resnet18"]())
    model.unused = nn.Linear(2, 2)
    model.conv1.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    squares = SquaredGradients(model, gradient)
    sums = zero_sums(model)
    squares.add_to(sums, images(), TARGETS, 5)
    assert squares._by_layers
    assert not sums["conv1.weight"].any()
    assert not sums["unused.weight"].any()
    assert sums["bn1.weight"].any()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["conv1.weight"]
