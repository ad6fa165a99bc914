"""All of SSD in one call, and a rule for α that needs no retrained model."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from .dampen import Change, dampen
from .importance import Importance, Reduction, check_part
from .loss import Loss, cross_entropy


def unlearn(
    model: nn.Module, forget: Iterable[Any], full: Importance | Iterable[Any], *, alpha: float | None = None,
    lam: float = 1.0, loss: Loss = cross_entropy, reduction: Reduction = "per_sample",
    device: torch.device | str | None = None,
) -> Change:  # fmt: skip
    """Make the model forget by SSD, in place; return what was changed.

    Args:
        forget: batches of D_f, as `Importance.of` takes them.
        full: batches of D, of which D_f is a part, or the importance that was taken of them.
        alpha: selection threshold; None: `percentile_alpha`.
        lam: dampening constant λ.
        loss: (model, batch) -> the loss of each sample, (B,).
        reduction: of both importances; that of `full` if it is one.
        device: where batches are moved to; None: where the model is.
    """
    if not isinstance(full, Importance):
        full = Importance.of(model, full, loss=loss, reduction=reduction, device=device)
    forget_importance = Importance.of(model, forget, loss=loss, reduction=full.reduction, device=device)
    if alpha is None:
        alpha = percentile_alpha(full, forget_importance)
    return dampen(model, full, forget_importance, alpha=alpha, lam=lam)


def percentile_alpha(importance: Importance, forget_importance: Importance) -> float:
    """Return the α that selects ln(1 + 100·N_f/N) percent of the parameters, the rule of ASSD; use it with λ = 1.

    It is the percentile of the finite ratios I_Df/I_D of all parameters together, interpolated linearly. Schoepf,
    Foster and Brintrup, arXiv 2402.10098; their released code takes I_D over D_r.

    Raises:
        ValueError: D_f cannot be a part of D, or the percentile is 0 since the forget set reaches too few parameters.
    """
    check_part(importance, forget_importance)
    ratios = torch.cat([(f / importance[name].to(f)).flatten() for name, f in forget_importance.items()])
    ratios = ratios[ratios.isfinite()]
    share = math.log1p(100 * forget_importance.n / importance.n) / 100
    alpha = percentile(ratios, 1 - share) if len(ratios) else 0.0
    if not alpha > 0:
        raise ValueError(
            f"Expected I_Df above 0 for more than {share:.2%} of the parameters, but got "
            f"{int((ratios > 0).sum())} of {len(ratios)}; choose alpha yourself."
        )
    return alpha


def percentile(values: torch.Tensor, share: float) -> float:
    """Return the value below which `share` of `values` (N,) lies, interpolated linearly, for any N.

    >>> percentile(torch.tensor([3.0, 1.0, 2.0]), 0.75)
    2.5
    """
    position = share * (len(values) - 1)
    below, above = math.floor(position), math.ceil(position)
    low, high = (float(values.kthvalue(k + 1).values) for k in (below, above))
    return low + (high - low) * (position - below)
