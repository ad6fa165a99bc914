"""What a model knows of the forget set: accuracies, and whether an attack takes the samples for training data."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .batches import moved
from .importance import eval_mode
from .loss import check_range, predicted

Z = 1.959964  # of a 95 % interval
STEPS, HALVINGS = 100, 30  # at most, of Newton's method, which needs about ten steps
CONVERGED = 1e-12  # largest gradient of the attack's loss per sample


class Share(NamedTuple):
    """`k` of `n` samples, with Wilson's 95 % interval (1927) for the draw of the samples."""

    k: int
    n: int

    @property
    def value(self) -> float:
        """A fraction in [0, 1]."""
        return self.k / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """The bounds of the interval, fractions in [0, 1].

        >>> [round(bound, 4) for bound in Share(4, 83).interval]
        [0.0189, 0.1175]
        """
        center = (self.k + Z**2 / 2) / (self.n + Z**2)
        half = Z * math.sqrt(self.k * (self.n - self.k) / self.n + Z**2 / 4) / (self.n + Z**2)
        return max(0.0, center - half), min(1.0, center + half)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:7.2%} [{low:.2%}, {high:.2%}], {self.k} of {self.n}"


@dataclass(frozen=True)
class Check:
    """Accuracy, and share that the attack takes for training data, on `forget`, `retain` and `unseen`.

    Compare with a model that never saw the forget set: its accuracy on it is about that on unseen samples of the same
    kind, and so is its share. Lower is not better. The attack says little if its shares on `retain` and `unseen` are
    about equal.
    """

    accuracy: dict[str, Share]
    attack: dict[str, Share]

    def __str__(self) -> str:
        kinds = {"accuracy": self.accuracy, "taken for training data": self.attack}
        return "\n".join(f"{kind}, {name}: {share}" for kind, of in kinds.items() for name, share in of.items())


def check(
    model: nn.Module, forget: Iterable[Any], retain: Iterable[Any], unseen: Iterable[Any], *, c: float = 2.0,
    device: torch.device | str | None = None,
) -> Check:  # fmt: skip
    """Return accuracies and the entropy attack of a classifier, with 95 % intervals.

    The attack is that of the paper: a logistic regression tells members (`retain`) from non-members (`unseen`) by the
    entropy of the prediction. Its share on `forget` is the paper's MIA. The intervals are those of the draw of
    the samples; the fit of the attack is taken as given.

    Args:
        forget: batches of D_f as `cross_entropy` takes them.
        retain: of training data that stays.
        unseen: of data that the model was not trained on.
        c: inverse regularisation strength of the attack.
        device: where batches are moved to; None: where the model is.
    """
    parts = {name: _seen(model, x, device) for name, x in (("forget", forget), ("retain", retain), ("unseen", unseen))}
    intercept, slope = fit_attack(parts["retain"][0], parts["unseen"][0], c=c)
    return Check(
        {name: Share(int(correct.sum()), len(correct)) for name, (_, correct) in parts.items()},
        {name: Share(int((intercept + slope * h > 0).sum()), len(h)) for name, (h, _) in parts.items()},
    )


def _seen(model: nn.Module, batches: Iterable[Any], device: torch.device | str | None) -> tuple[Tensor, Tensor]:
    """Return the entropy of the prediction for each sample and whether it is correct, both (N,)."""
    entropies, correct = [], []
    place = next(model.parameters(), torch.empty(0)).device if device is None else device
    with torch.no_grad(), eval_mode(model):
        for batch in batches:
            logits, labels = predicted(model, moved(batch, place))
            check_range(labels, logits.shape[1])
            log_p = torch.log_softmax(logits.double(), dim=1)
            entropies.append(-(log_p.exp() * log_p.clamp(min=-1e4)).sum(dim=1).cpu())  # 0·log 0 is 0
            correct.append((logits.argmax(dim=1) == labels).cpu())
    if not sum(map(len, correct)):
        raise ValueError("Expected at least one sample of each part, but got none.")
    return torch.cat(entropies), torch.cat(correct)


def fit_attack(members: Tensor, non_members: Tensor, *, c: float) -> tuple[float, float]:
    """Return intercept and slope of a class-balanced logistic regression (L2 on the slope) on one feature.

    Newton's method in float64; a step that does not lower the loss is halved.

    Args:
        members: feature of class 1, (N,) float64.
        non_members: feature of class 0, (M,) float64.
        c: inverse regularisation strength.
    """
    x = torch.stack([torch.ones(len(members) + len(non_members)).double(), torch.cat([members, non_members])], dim=1)
    y = torch.cat([torch.ones_like(members), torch.zeros_like(non_members)])
    weight = y / (2 * len(members)) + (1 - y) / (2 * len(non_members))  # sums to 1
    penalty = torch.tensor([0, 1 / (c * len(y))]).double()

    def loss(w: Tensor) -> Tensor:
        z = x @ w
        return (weight * (nn.functional.softplus(z) - y * z)).sum() + (penalty * w**2).sum() / 2

    w = torch.zeros(2).double()
    for _ in range(STEPS):
        p = torch.sigmoid(x @ w)
        gradient = x.T @ (weight * (p - y)) + penalty * w
        if gradient.abs().max() <= CONVERGED:
            break
        hessian = x.T @ ((weight * p * (1 - p)).unsqueeze(1) * x) + torch.diag(penalty)
        step = torch.linalg.lstsq(hessian, gradient).solution
        lower = (w - step / 2**halvings for halvings in range(HALVINGS) if loss(w - step / 2**halvings) < loss(w))
        if (found := next(lower, None)) is None:
            break  # as low as rounding allows
        w = found
    return float(w[0]), float(w[1])
