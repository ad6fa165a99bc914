"""Squared per-sample gradients from layers equal those of a literal loop, or the general way is taken."""

import functools
import time
import warnings
from dataclasses import dataclass

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, GroupNormAct, LayerNorm2d, LayerScale
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from benchmark.models import resnet18
from methods.dampening import layer_squares
from methods.dampening.layer_squares import KEPT, PRODUCTS, add_by_positions, add_by_products
from methods.dampening.per_sample import SquaredGradients, zero_sums
from tests.methods.helpers import left_alone

TARGETS = torch.tensor([0, 2, 1, 2, 0])


def all_classes(model, batch):
    """The logits and a 0, (B, K + 1)."""
    return F.pad(model(batch[0]), (0, 1))


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


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


class Centred(nn.Module):
    """A normalisation that no type gives away."""

    def forward(self, x):
        return x - x.mean(dim=0, keepdim=True)


class Attention(nn.Module):
    """With a key's bias of its own."""

    def __init__(self, width):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x, **_):
        return F.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x))


class Weighted(nn.Module):
    """Attention by weights that every sample shares."""

    def __init__(self, tokens):
        super().__init__()
        self.scores = nn.Parameter(torch.randn(tokens))

    def forward(self, x, mask):
        return (x * self.scores.view(-1, 1) * mask[0].view(-1, 1)).sum(dim=1)


class Masked(nn.Module):
    def __init__(self, tokens):
        super().__init__()
        self.tokens, self.embed, self.position = tokens, nn.Embedding(6, 4, padding_idx=0), nn.Embedding(tokens, 4)
        self.mix, self.head = Weighted(tokens), nn.Linear(4, 1)

    def forward(self, ids):
        mask = torch.ones(self.tokens, self.tokens, dtype=torch.double).tril() + 1
        x = self.embed(ids) + self.position(torch.arange(self.tokens))
        return self.head(self.mix(x.tanh(), mask)).square().flatten()


class LayerNorm(nn.Module):
    """Has the name and the parameters of another layer, and does something else."""

    def __init__(self, width):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.normalized_shape, self.eps = (6,), 1e-5

    def forward(self, x):
        return x * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)


class Scaled(Net):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), width=4)
        self.gamma = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.gamma * super().forward(x)


class Odd(nn.Module):
    """A forward pass in another way than by layers on whole samples, each of its own."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.first, self.head = kind, nn.Linear(192, 6), nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(1))
        if kind == "numpy":
            self.first.register_forward_hook(lambda module, args, out: out * float(out.detach().numpy().max() > -1e9))
        if kind == "gru":
            self.gru = nn.GRU(3, 6)
        if kind == "tied":
            self.head, self.back = nn.Linear(6, 3, bias=False), nn.Linear(6, 3, bias=False)
            self.back.weight = self.head.weight

    def forward(self, x):
        if self.kind == "buffer":
            self.calls += 1
        x = self.first(x.flatten(1))
        match self.kind:
            case "branch":
                x = x.tanh() if float(x.max()) > -1e9 else -x
            case "gru":
                x = self.gru(x.unflatten(1, (2, 3)).transpose(0, 1))[0][-1]
            case "tied":
                return self.head(x) + self.back(x.tanh())
            case "reentrant" | "checkpoint":
                return checkpoint(self.head, x, use_reentrant=self.kind == "reentrant")
        return self.head(x)


FORMULAS = {
    "inplace": lambda: Net(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), width=4),
    "strided": lambda: Net(nn.Conv2d(3, 4, (3, 2), stride=2, padding=(1, 0), dilation=(1, 2), bias=False), width=4),
    "grouped": lambda: Net(nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(6, 4, 3, groups=2, stride=2), width=4),
    "depthwise": lambda: Net(nn.Conv2d(3, 3, 3, groups=3, padding=1, bias=False), nn.Conv2d(3, 4, 1), width=4),
    "reflecting": lambda: Net(nn.Conv2d(3, 4, 3, padding=(0, 1), padding_mode="reflect"), width=4),
    "same": lambda: Net(nn.Conv2d(3, 4, (2, 3), padding="same"), nn.Conv2d(4, 4, 3, padding="valid"), width=4),
    "group norm": lambda: Net(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), width=4),
    "timm": lambda: Net(nn.Conv2d(3, 4, 3), BatchNormAct2d(4), LayerNorm2d(4), GroupNormAct(4, 2), width=4),
    "layer scale": lambda: nn.Sequential(
        nn.Flatten(2), nn.Linear(64, 5), LayerScale(5, 0.5), nn.Flatten(), nn.Linear(15, 3)
    ),
    "vectors": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)),
    "signals": lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 4, 3, stride=2), nn.Flatten(), nn.Linear(124, 3)),
    "tokens": Tokens,
    "cut up": CutUp,
    "resnet18": lambda: resnet18(num_classes=3, width=1),
    "vit": lambda: timm.create_model("test_vit", num_classes=3, img_size=32, depth=2, embed_dim=12, num_heads=3),
}
REPLAYED = {
    "checkpoint": lambda: Odd("checkpoint"),
    "branch": lambda: Odd("branch"),
    "numpy": lambda: Odd("numpy"),
    "buffer": lambda: Odd("buffer"),
    "scaled": Scaled,
    "transposed": lambda: Net(nn.ConvTranspose2d(3, 4, 3), nn.PReLU(4), width=4),
    "weight norm": lambda: Net(parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), width=4),
    "another formula": lambda: Net(nn.Conv2d(3, 4, 3), LayerNorm(4), width=4),
}
BY_LAYERS = FORMULAS | REPLAYED
BY_SAMPLES = {
    "used twice": lambda: Twice(nn.Conv2d(3, 3, 3, padding=1), width=3),
    "tied": lambda: Odd("tied"),
    "time first": lambda: Odd("gru"),
    "reentrant": lambda: Odd("reentrant"),
}


def literal(model, batch, objectives):
    """The squares of one backward pass for every sample and objective."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sums = zero_sums(model)
    for x, y in zip(*batch, strict=True):
        for value in objectives(model, (x[None], y[None])).flatten():
            model.zero_grad()
            value.backward(retain_graph=True)
            for name, p in named.items():
                if p.grad is not None:
                    gradient = p.grad.to_dense() if p.grad.is_sparse else p.grad
                    sums[name] += gradient.to(sums[name].dtype).square()
    model.zero_grad()
    return sums


def added(squares, batch, chunk_size=None):
    sums = zero_sums(squares.model)
    squares.add_to(sums, batch, chunk_size)
    return sums


def assert_equal(found, expected, rtol=1e-9):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=rtol, atol=1e-3 * rtol * float(value.norm() + 1), msg=lambda m, n=name: f"{n}: {m}"
        )


def test_the_formulas_hold_in_channels_last():
    model = disturbed(BY_LAYERS["resnet18"]()).double().to(memory_format=torch.channels_last)
    batch = images().double().contiguous(memory_format=torch.channels_last), TARGETS
    squares = SquaredGradients(model, loss)
    assert_equal(added(squares, batch), literal(model, batch, loss))
    assert squares.way == squares.by_layers


@pytest.mark.parametrize("name", [*BY_LAYERS, *BY_SAMPLES])
def test_equal_to_the_literal_loop(monkeypatch, name):
    """In whole and cut chunks, with one gradient per sample and with several, kept for a product or not."""
    model = disturbed((BY_LAYERS | BY_SAMPLES)[name]()).double()
    batch = images(32 if name == "vit" else 8).double(), TARGETS
    for objectives in (loss, all_classes):
        expected = literal(model, batch, objectives)
        assert all(value.any() for value in expected.values())
        for chunk_size, kept in ((2, KEPT["cpu"]), (5, 1)):
            monkeypatch.setitem(KEPT, "cpu", kept)
            squares = SquaredGradients(model, objectives)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore" if name in BY_SAMPLES else "error")
                assert_equal(added(squares, batch, chunk_size), expected)
            assert (squares.way == squares.by_layers) is (name in BY_LAYERS)
            assert not squares.replayed or name not in FORMULAS


def test_products_by_positions_equal_those_by_products():
    n, m, random = 6, 3, torch.Generator().manual_seed(0)
    left, right = torch.randn(5, 2, n, 7, m, generator=random), torch.randn(5, 2, n, 6, generator=random)
    literal = torch.einsum("bgtrm,bgtn->brgmn", left, right).square().sum(dim=(0, 1))
    by_products, by_positions = torch.zeros(2, m, 6), torch.zeros(2, m, 6)
    add_by_products(by_products, left, right.__getitem__)
    add_by_positions(by_positions, left, right.__getitem__)
    torch.testing.assert_close(by_products, literal)
    torch.testing.assert_close(by_positions, literal)


def test_small_pieces_give_the_same(monkeypatch):
    model = disturbed(BY_LAYERS["strided"]()).double()
    squares = SquaredGradients(model, loss)
    whole = added(squares, (images().double(), TARGETS))
    monkeypatch.setitem(PRODUCTS, "cpu", 100)
    assert_equal(squares.by_layers((images().double(), TARGETS)), whole)


def test_fixed_and_unused_parameters_get_0_and_nothing_is_left_behind():
    model = disturbed(BY_LAYERS["resnet18"]())
    model.unused = nn.Linear(2, 2)
    model.conv1.weight.requires_grad_(False)
    squares = SquaredGradients(model, loss)
    with left_alone(model):
        sums = added(squares, (images(), TARGETS))
    assert squares.way == squares.by_layers
    assert not sums["conv1.weight"].any()
    assert not sums["unused.weight"].any()
    assert sums["bn1.weight"].any()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_linear_layer_on_vectors_takes_no_product(monkeypatch):
    monkeypatch.setattr(layer_squares, "add_by_products", None)
    model, batch = BY_LAYERS["vectors"]().double().eval(), (images().double(), TARGETS)
    assert_equal(added(SquaredGradients(model, loss), batch), literal(model, batch, loss))


@pytest.mark.parametrize("norm", [lambda: nn.BatchNorm2d(4, track_running_stats=False), Centred])
def test_samples_that_see_each_other_are_refused(norm):
    model = Net(nn.Conv2d(3, 4, 3), norm(), nn.ReLU(), width=4).eval()
    with pytest.raises(ValueError, match=r"do not see each other, but got .*reduction='batch_mean'"):
        added(SquaredGradients(model, loss), (images(), TARGETS))


def test_gradients_that_almost_vanish_keep_the_formulas():
    """A key's bias has none but for rounding, and all are small if the model is sure of its samples."""
    model = timm.create_model("test_vit", num_classes=3, img_size=32, depth=1, embed_dim=12, num_heads=3).eval()
    model.blocks[0].attn = Attention(12)
    with torch.no_grad():
        model.head.bias[0] = 14.0
    batch = images(32), torch.zeros(5, dtype=torch.long)
    assert float(loss(model, batch).detach().max()) < 1e-4
    squares = SquaredGradients(model, loss)
    added(squares, batch)
    assert squares.way == squares.by_layers
    assert not squares.replayed


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    model = disturbed(FORMULAS["timm"]()).to(dtype)
    batch = images().to(dtype), TARGETS
    squares = SquaredGradients(model, lambda model, batch: 300 * loss(model, batch))  # squares beyond float16
    found, expected = added(squares, batch), literal(model, batch, squares.objectives)
    assert squares.way == squares.by_layers
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        assert float((found[name] - value).norm()) <= 0.05 * float(value.norm())
    assert max(float(value.max()) for value in found.values()) > torch.finfo(torch.float16).max


def test_shapes_that_agree_by_chance_do_not_mix_samples():
    """A square mask of as many tokens as samples, positions as many as samples."""
    model, ids = Masked(tokens=5).double().eval(), torch.arange(35).view(7, 5) % 6
    squares = SquaredGradients(model, lambda model, ids: model(ids))
    sums = zero_sums(model)
    squares.add_to(sums, ids[:2])
    squares.add_to(sums, ids[2:])
    assert squares.way == squares.by_layers
    one_by_one = squares.one_by_one(ids)
    assert_equal(sums, zero_sums(model) | one_by_one)


def test_a_loop_says_so_once_if_gradients_do_not_fit(monkeypatch):
    monkeypatch.setitem(layer_squares.GRADIENTS, "cpu", 1)
    model, batch = disturbed(Odd("tied")).double(), (images().double(), TARGETS)
    squares = SquaredGradients(model, loss)
    with pytest.warns(RuntimeWarning, match=r"one sample at a time.*too much memory"):
        added(squares, batch)
    with warnings.catch_warnings(action="error"):
        assert_equal(added(squares, batch), literal(model, batch, loss))


@pytest.mark.parametrize("slow", ["by_samples", "one_by_one"])
@pytest.mark.filterwarnings("ignore:The gradients of Odd")
def test_the_faster_of_the_slow_ways_stays(monkeypatch, slow):
    squares = SquaredGradients(disturbed(Odd("tied")), loss)
    way = getattr(squares, slow)

    @functools.wraps(way)
    def later(batch):
        time.sleep(0.1)
        return way(batch)

    monkeypatch.setattr(squares, slow, later)
    added(squares, (images(), TARGETS), chunk_size=2)
    assert squares.way is not None
    assert squares.way.__name__ == {"by_samples": "one_by_one", "one_by_one": "by_samples"}[slow]


@dataclass
class Pair:
    """A batch that the loss alone understands."""

    inputs: torch.Tensor
    labels: torch.Tensor


@pytest.mark.parametrize("kind", ["plain", "gru"])
@pytest.mark.filterwarnings("ignore:The gradients of Odd")
def test_a_batch_of_any_type_is_taken_whole(kind):
    model, batch = disturbed(Odd(kind)).double(), (images().double(), TARGETS)
    squares, sums = (
        SquaredGradients(model, lambda model, pair: loss(model, (pair.inputs, pair.labels))),
        zero_sums(model),
    )
    assert squares.add_to(sums, Pair(*batch)) == 5
    assert_equal(sums, literal(model, batch, loss))
