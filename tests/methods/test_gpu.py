"""What the same computation gives on a GPU: `make test-gpu`."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmark.device import set_up
from benchmark.models import ResNet18
from datasets.batches import Augmentation, Batches
from methods.dampening import Importance
from methods.dampening.loss import cross_entropy
from methods.dampening.per_sample import SquaredGradients, zero_sums
from methods.fisher_information import fisher_diagonal
from methods.training import Compute, train
from tests.methods.helpers import compose_config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def set_up_as_a_run() -> None:
    """Deterministic kernels, and no float32 products of 10 bits, as in every run of the suite."""
    set_up(compose_config("compute.device=cuda").compute)


def network() -> ResNet18:
    torch.manual_seed(0)
    return ResNet18(3, width=4)


@pytest.fixture
def data(dataset):
    return dataset.to(CUDA)


@pytest.fixture
def trained(data, preprocessing, recipe):
    """(precision, layout, compiled) -> the state of a network after two epochs with a short last batch."""

    def run(precision="float32", *, channels_last=True, compiled=False, seed=0):
        compute = Compute(CUDA, precision, channels_last=channels_last, compile=compiled)
        model = train(
            compute.place(network()), data.train, replace(recipe, augmentation=Augmentation(2, True, 15)),
            preprocessing=preprocessing, random=torch.Generator("cuda").manual_seed(seed), compute=compute,
        )  # fmt: skip
        return torch.cat([p.detach().flatten().cpu() for p in model.parameters()])

    return run


@pytest.mark.parametrize(("precision", "channels_last"), [("float32", False), ("bfloat16", True)])
def test_training_is_repeated_bit_for_bit(trained, precision, channels_last):
    one, same, other = (trained(precision, channels_last=channels_last, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_compiled_training_is_the_same(trained, precision):
    eager, compiled = trained(precision), trained(precision, compiled=True)
    tolerance = 1e-3 if precision == "float32" else 3e-2
    assert float((eager - compiled).norm() / eager.norm()) < tolerance


DIAGONALS = {
    "batch_mean": partial(Importance.of, reduction="batch_mean"),
    "per_sample": partial(Importance.of, reduction="per_sample"),
    "fisher": lambda model, batches: fisher_diagonal(
        model, batches, error=0.0, random=torch.Generator(model.fc.weight.device)
    ),
}


@pytest.mark.parametrize("name", DIAGONALS)
def test_importance_and_information_are_those_of_the_cpu(dataset, data, preprocessing, name):
    def diagonal(images, device):
        model = network().double().to(device).eval()
        return DIAGONALS[name](model, [(x.double(), labels) for x, labels in Batches(images, 16, preprocessing)])

    on_cpu, on_gpu = diagonal(dataset.train, "cpu"), diagonal(data.train, CUDA)
    close = {"rtol": 1e-6, "atol": 1e-12} if name == "fisher" else {"rtol": 1e-9, "atol": 1e-15}
    for part, value in on_cpu.items():
        torch.testing.assert_close(on_gpu[part].cpu(), value, **close)


def test_the_formulas_of_the_layers_serve_on_a_gpu(data, preprocessing):
    squares = SquaredGradients(network().to(CUDA).eval(), cross_entropy)
    (batch, *_) = Batches(data.train, 8, preprocessing)
    squares.add_to(zero_sums(squares.model), batch)
    assert squares.way == squares.by_layers
