"""Diagonal of the true Fisher information of a softmax classifier, without a gradient for every class."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.base import get_classifier
from methods.dampening.importance import eval_mode
from methods.dampening.per_sample import SquaredGradients, default_chunk_size, zero_sums

MANY_GROUPS = -40.0  # log2 of a share so small that every column may as well stay alone
HALVINGS = 14  # of the search for a grouping
ROTATED = 32  # columns of a sample: larger symmetric eigenproblems are not batched on a GPU


def fisher_diagonal(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    error: float,
    random: torch.Generator,
    chunk_size: int | None = None,
) -> dict[str, Tensor]:
    """Return I = (1/N) Σ_x Σ_y p(y|x)·(∂CE(x, y)/∂θ)² for every named parameter, ≥ 0, shaped like the parameter.

    For one sample the sum over classes is the diagonal of Jᵀ(diag(p) − ppᵀ)J, J being the Jacobian of the logits.
    With LLᵀ = diag(p) − ppᵀ it is Σ_r (∂(L_r·logits)/∂θ)²: one gradient per column, not one per class, and the columns
    of a confident prediction almost vanish. Small columns of a sample are put together: their sum with random signs
    has one gradient, whose square has the right expectation and an error that falls with the number of samples.

    The model is used in eval mode and left as it was. Parameters that do not require a gradient, or that the logits do
    not depend on, have information 0. The labels in `batches` play no role.

    Args:
        model: any classifier that maps (B, …) to logits (B, K).
        batches: pairs of inputs (B, …) and labels (B,) on the model's device. Columns are chosen within a batch and
            samples with equally many are taken together: some hundreds of samples are a good size.
        error: relative error that the signs may cause in the information of one sample, ≥ 0; that of N samples is
            √N times smaller. As it is predicted from the logits alone, see `select_columns`, it may be off by a factor.
            0: exact; infinite: one gradient per sample.
        random: draws the signs; on the model's device.
        chunk_size: samples that share a forward and backward pass; None: as many as suit the device and its memory.
    """
    if not error >= 0:
        raise ValueError(f"Expected error to be at least 0, but got {error}.")
    squares = SquaredGradients(model, along_columns)
    sums, count, products = zero_sums(model), 0, head_products(model)
    with eval_mode(model):
        for inputs, _ in batches:
            with torch.no_grad():
                probabilities = torch.softmax(model(inputs).double(), dim=1)
            columns, numbers = select_columns(probabilities, error, random, products)
            chunk_size = chunk_size or default_chunk_size(model, inputs)
            for part in numbers.argsort().split(chunk_size):
                largest = int(numbers[part].max())
                if largest == 0:  # predictions without any doubt
                    continue
                squares.add_to(sums, (inputs[part], columns[part, :largest]), len(part))
            count += len(inputs)
    if count == 0:
        raise ValueError("Expected at least one batch to take the Fisher information over, but got none.")
    return {name: value.div_(count) for name, value in sums.items()}


def along_columns(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the logits of inputs along columns (B, R, K): (B, R)."""
    inputs, columns = batch
    logits = model(inputs)
    return torch.einsum("brk,bk->br", columns.to(logits.dtype), logits)


def head_products(model: nn.Module) -> Tensor | None:
    """Return WWᵀ (K, K), float64, of the last layer's weight W (K, d) if the model names it and it is linear."""
    try:
        layer = get_classifier(model)
    except (AttributeError, TypeError):
        return None
    if not isinstance(layer, nn.Linear):
        return None
    weight = layer.weight.detach().double()
    return weight @ weight.mT


def select_columns(
    probabilities: Tensor, error: float, random: torch.Generator, products: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the columns that the gradients of a batch are taken along; see `fisher_diagonal`.

    (Σ_k s_k g_k)² with random signs s misses Σ_k g_k² by terms s_j s_k g_j g_k, whose squares sum to
    2·((Σ g_k²)² − Σ g_k⁴). With energies e_k in the place of g_k² this predicts the variance of a grouping. The groups
    of a sample hold about equal energy, the same for the whole batch, as large as `error` allows: a column above that
    stays alone. The energy is ‖Wᵀ L_k‖², that of the gradient at the last layer's input, and the first columns of L are
    rotated so that as few as possible hold most of it; without `products` it is ‖L_k‖².

    Args:
        probabilities: (B, K) float64.
        products: WWᵀ, (K, K) float64, of the last layer's weight W.

    Returns:
        The columns of each sample, padded with zeros, (B, R, K), and how many they are, (B,) int64.
    """
    factors = covariance_factor(probabilities).mT  # (B, columns, K)
    weighted = factors if products is None else factors @ products
    energies = (weighted * factors).sum(dim=2)
    if products is not None and error > 0:
        first = factors[:, :ROTATED]
        largest, rotation = torch.linalg.eigh(weighted[:, :ROTATED] @ first.mT)
        energies[:, :ROTATED] = largest.clamp_(min=0)
        factors = torch.cat([rotation.mT @ first, factors[:, ROTATED:]], dim=1)
    energies, order = energies.sort(dim=1, descending=True)
    factors = factors.gather(1, order.unsqueeze(2).expand_as(factors))
    groups = grouped(energies, error)
    signs = torch.randint(0, 2, energies.shape, generator=random, device=energies.device) * 2 - 1
    index = groups.unsqueeze(2).expand_as(factors)
    columns = torch.zeros_like(factors).scatter_add_(1, index, factors * signs.unsqueeze(2))
    numbers = (columns != 0).any(dim=2).sum(dim=1)
    return columns[:, : int(numbers.max())], numbers


def grouped(energies: Tensor, error: float) -> Tensor:
    """Return the group of each column, (B, K) int64 from 0 on, for energies (B, K) that fall along each row."""
    columns = torch.arange(energies.shape[1], device=energies.device).expand_as(energies)
    if error == 0:
        return columns
    rest = energies.flip(1).cumsum(1).flip(1)  # held by a column and all smaller ones
    bound = len(energies) * (error * energies.sum() / len(energies)).square()
    low, high = MANY_GROUPS, 0.0  # log2 of the share of the largest sum that one group holds
    groups = torch.zeros_like(columns)
    if variance(energies, groups) <= bound:
        return groups
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        level = (rest / (rest.max() * 2**middle)).floor()
        found = F.pad((level[:, 1:] != level[:, :-1]).cumsum(dim=1), (1, 0))
        if variance(energies, found) <= bound:
            low, groups = middle, found
        else:
            high = middle
    return groups if low > MANY_GROUPS else columns


def variance(energies: Tensor, groups: Tensor) -> Tensor:
    """Return the predicted variance of a batch's information for a grouping of the columns."""
    sums = torch.zeros_like(energies).scatter_add_(1, groups, energies)
    return 2 * (sums.square().sum() - energies.square().sum())


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
