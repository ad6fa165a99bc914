"""SSD on your own model and data: `python -m scripts.own_model`. Needs torch and `methods/dampening`, nothing else."""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from methods.dampening.dampen import dampen
from methods.dampening.importance import parameter_importance


def accuracy(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((model(inputs).argmax(dim=1) == labels).float().mean())


def main() -> None:
    """Train a small network on noisy points around four centres, forget one of the classes, print the accuracies."""
    torch.manual_seed(0)
    labels = torch.arange(400) % 4
    inputs = 4 * torch.eye(4)[labels] @ torch.randn(4, 16) + torch.randn(400, 16)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))  # any classifier will do
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for x, y in DataLoader(TensorDataset(inputs, labels), batch_size=50, shuffle=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    forgotten = labels == 0
    parts = {"retained": (inputs[~forgotten], labels[~forgotten]), "forgotten": (inputs[forgotten], labels[forgotten])}
    before = {name: accuracy(model, *part) for name, part in parts.items()}
    everything, forget = (DataLoader(TensorDataset(*part), 50) for part in ((inputs, labels), parts["forgotten"]))
    i_d, i_df = (parameter_importance(model, x, reduction="per_sample") for x in (everything, forget))  # Eq. 1
    n = dampen(model, i_d, i_df, alpha=2.0, lam=0.5)  # Eq. 3 and 4, in place; α has to stay below N / N_f = 4
    print(f"dampened {n} of {sum(p.numel() for p in model.parameters())} parameters")
    for name, part in parts.items():
        print(f"accuracy, {name}: {before[name]:.2f} before, {accuracy(model, *part):.2f} after")


if __name__ == "__main__":
    main()
