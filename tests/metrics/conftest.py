"""Outputs of simulated models."""

from dataclasses import replace
from typing import get_args

import pytest
import torch

from metrics.base import EvalOutputs, SplitName


def simulate(seed, *, sizes, boosts=(0.0, 2.0, 0.0, 0.0), random=False):
    """Logits of 5 classes per split; `boosts` raise the true label's."""
    noise = torch.Generator().manual_seed(seed)
    labels = {name: torch.arange(n) % 5 for name, n in zip(get_args(SplitName), sizes, strict=True)}
    logits = {}
    for (name, y), boost in zip(labels.items(), boosts, strict=True):
        logits[name] = torch.randn(len(y), 5, generator=noise) * 1.5
        logits[name][torch.arange(len(y)), y] += 1 + boost
    return EvalOutputs(logits, labels, random)


@pytest.fixture
def simulated():
    return simulate


@pytest.fixture
def compared():
    """A model that still knows D_f, to compare with one that does not."""
    ours = simulate(0, sizes=(40, 200, 30, 100), boosts=(1.5, 2.0, 0.0, 0.0))
    return replace(ours, others={"retrained": simulate(1, sizes=(40, 200, 30, 100))})


@pytest.fixture
def metric():
    """(number, number) -> a metric with the first on a model that is compared, the second on the retrained one."""
    return lambda ours, retrained: lambda outputs: ours if outputs.others else retrained
