"""Diagonal of the true Fisher information of a softmax classifier, without a gradient for every class."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.importance import Batch, eval_mode
from methods.per_sample import SquaredGradients


def fisher_diagonal(
    model: nn.Module, batches: Iterable[Batch], *, estimated: float, random: torch.Generator, chunk_size: int = 64
) -> dict[str, Tensor]:
    """Return I = (1/N) Σ_x Σ_y p(y|x)·(∂CE(x, y)/∂θ)² for every named parameter, ≥ 0, shaped like the parameter.

    For one sample the sum over classes is the diagonal of Jᵀ(diag(p) − ppᵀ)J, J being the Jacobian of the logits.
    With LLᵀ = diag(p) − ppᵀ it is Σ_r (∂(L_r·logits)/∂θ)²: one gradient a column, not one a class, and the columns of
    a confident prediction almost vanish. The smallest columns of a batch, which together hold at most the share
    `estimated` of its Σ_x trace(diag(p) − ppᵀ), are replaced by one column a sample: their sum with random signs. The
    square of its gradient has the right expectation, and at most twice the square of that as variance; so the relative
    error of I falls with `estimated`/sqrt(N). With 0 the result is exact; 1 takes one gradient a sample.

    The model is used in eval mode and left as it was. Parameters that do not require a gradient, or that the logits do
    not depend on, have information 0. The labels in `batches` play no role.

    Args:
        model: any classifier that maps (B, …) to logits (B, K).
        batches: pairs of inputs (B, …) and labels (B,) on the model's device.
        estimated: in [0, 1].
        random: draws the signs; on the model's device.
        chunk_size: gradients that are taken at once.
    """
    if not 0 <= estimated <= 1:
        raise ValueError(f"Expected estimated to lie in [0, 1], but got {estimated}.")
    squares = SquaredGradients(model, lambda logits, columns: (logits * columns).sum(dim=1))
    sums, count = squares.zeros(), 0
    with eval_mode(model):
        for inputs, _ in batches:
            with torch.no_grad():
                logits = model(inputs)
            samples, columns = select_columns(torch.softmax(logits.double(), dim=1), estimated, random)
            for part in torch.arange(len(samples), device=samples.device).split(chunk_size):
                squares.add_to(sums, inputs[samples[part]], columns[part].to(logits.dtype), chunk_size)
            count += len(inputs)
    if count == 0:
        raise ValueError("Expected at least one batch to take the Fisher information over, but got none.")
    return {name: value.div_(count) for name, value in sums.items()}


def select_columns(probabilities: Tensor, estimated: float, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the columns that the gradients of a batch are taken along; see `fisher_diagonal`.

    Args:
        probabilities: (B, K) float64.

    Returns:
        The sample that each column belongs to, (R,) int64, and the columns, (R, K).
    """
    factors = covariance_factor(probabilities)
    traces = factors.square().sum(dim=1)  # (B, K), of each column
    falling, order = traces.flatten().sort(descending=True)
    rest = falling.flip(0).cumsum(0).flip(0)  # what this column and all smaller ones hold
    exact = torch.zeros_like(order, dtype=torch.bool)
    exact[order[rest > estimated * rest[0]]] = True
    exact = exact.view_as(traces)
    signs = torch.randint(0, 2, traces.shape, generator=random, device=traces.device) * 2 - 1
    mixed = (factors * (signs * ~exact).unsqueeze(1)).sum(dim=2)  # (B, K)
    is_mixed = (mixed != 0).any(dim=1)
    samples = torch.cat([exact.nonzero()[:, 0], is_mixed.nonzero()[:, 0]])
    return samples, torch.cat([factors.mT[exact], mixed[is_mixed]])


def covariance_factor(probabilities: Tensor) -> Tensor:
    """Return L (B, K, K) with LLᵀ = diag(p) − ppᵀ for each p of `probabilities` (B, K), at most K − 1 columns not 0.

    The Cholesky factor in closed form (Tanabe and Sagae, 1992), pivoted: the classes are taken in the order of
    falling probability, so that the first columns hold as much of the trace as they can.

    >>> p = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64)
    >>> factor = covariance_factor(p)
    >>> torch.allclose(factor @ factor.mT, torch.diag_embed(p) - p.mT @ p)
    True
    """
    p, order = probabilities.sort(dim=1, descending=True)
    tail = p.flip(1).cumsum(1).flip(1)  # Σ_{i ≥ j} p_i
    rest = F.pad(tail[:, 1:], (0, 1))  # Σ_{i > j} p_i
    scale = (p / (tail * rest)).sqrt().nan_to_num(nan=0.0, posinf=0.0)  # 0 once nothing is left
    below = torch.tril(-p.unsqueeze(2) * scale.unsqueeze(1), diagonal=-1)
    factor = below + torch.diag_embed(rest * scale)  # rows in the order of `p`
    return torch.zeros_like(factor).scatter_(1, order.unsqueeze(2).expand_as(factor), factor)
