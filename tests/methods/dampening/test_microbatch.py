import sys
import weakref

import pytest
import timm
import torch
from torch import nn

from methods.dampening import importance, microbatch
from methods.dampening.microbatch import kept_bytes, microbatch_size

CPU = torch.device("cpu")


@pytest.fixture
def vit() -> nn.Module:
    return timm.create_model("test_vit", img_size=32, num_classes=3, depth=2).eval()


def images(n=6):
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_kept_bytes_of_a_linear_layer_are_its_input_and_its_weight():
    layer = nn.Linear(10, 7)
    inputs = torch.zeros(5, 10, requires_grad=True)
    assert kept_bytes(layer, inputs) == 4 * (5 * 10 + 7 * 10)


def test_as_many_samples_as_the_budget_holds(vit, monkeypatch):
    each = kept_bytes(vit, images(3)) - kept_bytes(vit, images(2))
    monkeypatch.setattr(microbatch, "CPU_BYTES", 3 * each)
    assert microbatch_size(vit, images()) == microbatch_size(vit, images(1)) == 3
    monkeypatch.setattr(microbatch, "CPU_BYTES", 1)
    assert microbatch_size(vit, images()) == 1


def test_measuring_holds_nothing(vit):
    gone = []
    vit.norm.register_forward_hook(lambda module, inputs, output: gone.append(weakref.ref(output)))
    microbatch_size(vit, images())
    assert len(gone) == 2
    assert not any(output() is not None for output in gone)


def test_batch_normalisation_in_train_mode_needs_the_whole_batch(cnn):
    x = torch.randn(2, 3, 8, 8)
    assert microbatch_size(cnn.eval(), x) < sys.maxsize
    statistics = cnn.norm.running_mean.clone()
    assert microbatch_size(cnn.train(), x) == sys.maxsize
    assert torch.equal(cnn.norm.running_mean, statistics)


class Counting(nn.Module):
    """A model without batch normalisation; remembers how many samples shared a pass."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 8 * 8, 3)
        self.used, self.unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        return self.fc(x.flatten(1)).tanh() * self.used


def test_importance_in_parts_is_that_of_the_batch(monkeypatch):
    torch.manual_seed(0)
    model = Counting()
    batches = [(torch.randn(n, 3, 8, 8), torch.arange(n) % 3) for n in (8, 5)]
    whole = importance.Importance.of(model, batches, reduction="batch_mean")
    assert 8 in model.sizes
    monkeypatch.setattr(importance, "microbatch_size", lambda *_: 3)
    model.sizes.clear()
    parts = importance.Importance.of(model, batches, reduction="batch_mean")
    assert model.sizes == [1, 3, 3, 2, 3, 2]  # the first tells the number of classes
    torch.testing.assert_close(dict(parts), dict(whole))
    assert not parts["unused"].any()
