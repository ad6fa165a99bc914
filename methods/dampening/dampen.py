"""Selection and dampening: Eq. 3 and 4 of Foster, Schoepf and Brintrup, AAAI 2024."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn


@torch.no_grad()
def dampen(
    model: nn.Module, importance: Mapping[str, Tensor], forget_importance: Mapping[str, Tensor], *,
    alpha: float, lam: float,
) -> int:  # fmt: skip
    """Dampen in place the parameters that matter more for the forget set; return how many were selected.

    Selection (Eq. 3): I_Df > α·I_D, strictly. Dampening (Eq. 4): θ ← βθ with β = min(λ·I_D / I_Df, 1). Algorithm 1
    would skip negative weights; as in the released code the clamp is on β. Buffers are not touched.

    Args:
        importance: I_D, the importance of each named parameter over the whole training set.
        forget_importance: I_Df, over the forget set.
        alpha: selection threshold, > 0; a larger one selects a subset.
        lam: dampening constant λ, > 0; with λ ≤ α every selected parameter has β < λ/α and the clamp is inactive.
    """
    check_positive(alpha=alpha, lam=lam)
    selected = 0
    for name, parameter in model.named_parameters():
        full, forget = importance[name], forget_importance[name]
        chosen = forget > alpha * full
        beta = (lam * full / forget).clamp_(max=1)  # 0/0 only if it is not chosen
        parameter.mul_(torch.where(chosen, beta, 1.0).to(parameter.dtype))
        selected += int(chosen.sum())
    return selected


def check_positive(**values: float) -> None:
    """Raise ValueError unless every value is a finite number above 0."""
    for name, value in values.items():
        if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
            raise ValueError(f"Expected {name} to be a finite number above 0, but got {value!r}.")
