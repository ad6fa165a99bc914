"""Two deletion requests, an importance of D that was stored once, an undo: python examples/requests_in_turn.py"""

import tempfile
from pathlib import Path

import torch
from torch import nn

from dampening import Change, Importance, unlearn

torch.manual_seed(0)
labels = torch.arange(400) % 4  # points around four centres
inputs = 4 * torch.eye(4)[labels] @ torch.randn(4, 16) + torch.randn(400, 16)
model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))  # any model will do
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(8):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(inputs), labels).backward()
    optimizer.step()


def accuracies() -> str:
    correct = model(inputs).argmax(dim=1) == labels
    return ", ".join(f"{name}: {correct[labels == name].float().mean():.2f}" for name in range(4))


folder = Path(tempfile.mkdtemp())
Importance.of(model, [(inputs, labels)]).save(folder / "importance.pt")  # D is not needed again
print("accuracy of each class", accuracies())
for name in (0, 1):
    forget = [(inputs[labels == name], labels[labels == name])]
    change = unlearn(
        model, forget, Importance.load(folder / "importance.pt"), alpha=2.5, lam=0.1
    )  # α below N / N_f = 4
    change.save(folder / f"request{name}.pt")
    print(f"request {name}: {change.selected} parameters dampened; {accuracies()}")
Change.load(folder / "request1.pt").undo(model)  # bit for bit; the latest first
print("request 1 undone", accuracies())
