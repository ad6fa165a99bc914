import torch
from torch import nn

from metrics.weights import share_changed


def test_share_changed_counts_values():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))  # 12 + 3 + 3 + 3 parameters
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert share_changed(before, model) == 0
    with torch.no_grad():
        model[0].weight[1, 2] *= 0.5
        model[0].weight[0, 0] += 1e-3
        model[1].bias[0] = 1
        model[1].running_mean += 1  # a buffer
    assert share_changed(before, model) == 3 / 21
