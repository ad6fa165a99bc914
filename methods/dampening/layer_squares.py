"""Squared per-sample gradients of single layers, from their inputs and the gradients at their outputs."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Sums = dict[str, Tensor]

# Numbers held at once: in the products of samples, and in the output gradients that all layers keep for products.
# Any other device is treated as a CPU.
PRODUCTS = {"cpu": 2**20, "cuda": 2**27}
KEPT = {"cpu": 2**26, "cuda": 2**30}
PRODUCT_LAYERS = (nn.Linear, nn.Conv2d)
KNOWN = (*PRODUCT_LAYERS, nn.BatchNorm2d, nn.LayerNorm)


class UnknownLayerError(Exception):
    """A layer whose squared gradients have no formula here."""


def squares_of(layer: nn.Module, activation: Tensor, rounds: int, sharing: int) -> "Scales | Products":
    """Return the sums for a layer with the input `activation` (B, …), to which `rounds` gradients will be added.

    `sharing` linear and convolutional layers share the room for kept gradients.

    Raises:
        UnknownLayerError: there is no formula for the layer.
    """
    kept = KEPT.get(activation.device.type, KEPT["cpu"]) // max(1, sharing)
    match layer:
        case nn.Linear():
            a = activation.flatten(1, -2) if activation.ndim > 2 else activation.unsqueeze(1)  # (B, T, features)
            return Products(layer, lambda part: a[part], lambda d: d.reshape(len(d), -1, d.shape[-1]), rounds, kept)
        case nn.Conv2d(groups=1, padding_mode="zeros", padding=tuple(padding)):

            def patches(part: slice) -> Tensor:  # (B, positions, C_in·k²)
                return F.unfold(activation[part], layer.kernel_size, layer.dilation, padding, layer.stride).mT

            return Products(layer, patches, lambda d: d.permute(0, 2, 3, 1).flatten(1, 2), rounds, kept)
        case nn.BatchNorm2d():
            normalised = F.batch_norm(activation, layer.running_mean, layer.running_var, eps=layer.eps)
            return Scales(normalised, (2, 3))
        case nn.LayerNorm():
            normalised = F.layer_norm(activation, layer.normalized_shape, eps=layer.eps)
            return Scales(normalised, tuple(range(1, activation.ndim - len(layer.normalized_shape))))
    raise UnknownLayerError(type(layer).__name__)


class Scales:
    """Weight and bias of a normalisation: (Σ_t δ·x̂)² and (Σ_t δ)², t running over the dimensions `over`."""

    def __init__(self, normalised: Tensor, over: tuple[int, ...]) -> None:
        self.normalised = normalised
        self.over = over
        self.totals: Sums = {}

    def add(self, gradient: Tensor) -> None:
        """Take one gradient of every sample at the layer's output, (B, …)."""
        for name, part in (("weight", gradient * self.normalised), ("bias", gradient)):
            square = (part.sum(dim=self.over) if self.over else part).square().sum(dim=0)
            self.totals[name] = self.totals.get(name, 0) + square

    def sums(self) -> Sums:
        """Return the sums over samples and gradients, by the parameter's name in the layer."""
        return self.totals


class Products:
    """Weight and bias of a linear map applied to T positions: (Σ_t δ_t a_tᵀ)² and (Σ_t δ_t)².

    The gradients of several rounds are kept until a product pays. If there are more rounds than positions, the
    products themselves are not formed: Σ_r (Σ_t δ_rt a_t)² = Σ_ts (Σ_r δ_rt δ_rs)·a_t a_s. One position is the case
    Σ_b (δ²)ᵀ a² of a linear layer on vectors.

    Args:
        layer: `weight` has M rows, one for each output.
        right: slice of the samples -> its inputs, (B, T, N), one for each position.
        left: gradient at the output -> (B, T, M).
        rounds: how many gradients will be added.
        kept: how many numbers of them may be held for a product.
    """

    def __init__(
        self, layer: nn.Linear | nn.Conv2d, right: Callable[[slice], Tensor], left: Callable[[Tensor], Tensor],
        rounds: int, kept: int,
    ) -> None:  # fmt: skip
        self.right, self.left, self.rounds, self.limit = right, left, rounds, kept
        self.weight = torch.zeros_like(layer.weight, requires_grad=False, memory_format=torch.contiguous_format)
        self.bias = None if layer.bias is None else torch.zeros_like(layer.bias, requires_grad=False)
        self.kept = self.weight.new_empty(0)  # (B, T, R, M)
        self.n_kept = 0

    def add(self, gradient: Tensor) -> None:
        """Take one gradient of every sample at the layer's output, (B, …)."""
        left = self.left(gradient)
        if self.bias is not None:
            self.bias += left.sum(dim=1).square_().sum(dim=0)
        batch, positions, outputs = left.shape
        fitting = min(self.rounds, self.limit // left.numel())
        if fitting <= 1:
            self._add(left.unsqueeze(2))
            return
        if not len(self.kept):
            self.kept = left.new_empty(batch, positions, fitting, outputs)
        self.kept[:, :, self.n_kept] = left
        self.n_kept += 1
        if self.n_kept == fitting:
            self._flush()

    def sums(self) -> Sums:
        """Return the sums over samples and gradients, by the parameter's name in the layer."""
        if self.n_kept:
            self._flush()
        return {"weight": self.weight} | ({} if self.bias is None else {"bias": self.bias})

    def _flush(self) -> None:
        self._add(self.kept[:, :, : self.n_kept])
        self.n_kept = 0

    def _add(self, left: Tensor) -> None:
        add = add_by_positions if left.shape[1] + 1 < 2 * left.shape[2] else add_by_products
        add(self.weight.flatten(1), left, self.right)


def add_by_products(total: Tensor, left: Tensor, right: Callable[[slice], Tensor]) -> None:
    """Add Σ_br (left_brᵀ @ right_b)² to `total` (M, N), for left (B, T, R, M) and right (B, T, N)."""
    _, positions, rows, _ = left.shape
    for part in parts_of(left, max(rows * total.numel(), positions * total.shape[1])):
        product = torch.bmm(left[part].flatten(2).mT, right(part))  # (B, R·M, N)
        total += product.square_().view(-1, *total.shape).sum(dim=0)


def add_by_positions(total: Tensor, left: Tensor, right: Callable[[slice], Tensor]) -> None:
    """Add Σ_br (left_brᵀ @ right_b)² to `total` (M, N), for left (B, T, R, M) and right (B, T, N)."""
    first, second = torch.tril_indices(left.shape[1], left.shape[1], device=left.device)
    twice = 2.0 - (first == second).to(left.dtype)  # pairs of two positions stand for both orders
    for part in parts_of(left, len(first) * total.shape[1]):
        a, d = right(part), left[part].permute(0, 3, 1, 2)  # (B, T, N), (B, M, T, R)
        gram = (d @ d.mT)[:, :, first, second]  # (B, M, pairs)
        pairs = a[:, first] * a[:, second] * twice.unsqueeze(1)  # (B, pairs, N)
        total += gram.transpose(0, 1).flatten(1) @ pairs.flatten(0, 1)


def parts_of(samples: Tensor, size: int) -> Iterator[slice]:
    """Yield slices of the samples, `size` numbers being held for each, as large as PRODUCTS allows but at least one."""
    n, step = len(samples), max(1, PRODUCTS.get(samples.device.type, PRODUCTS["cpu"]) // size)
    return (slice(start, start + step) for start in range(0, n, step))
