"""Squared per-sample gradients of single layers, from their inputs and the gradients at their outputs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from .batches import converted, leaves

Sums = dict[str, Tensor]
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d

# Numbers held at once: in the products of samples (on a CPU, what its second cache holds), in the output gradients that
# all layers keep for products, and in the gradients of single samples. Any other device is treated as a CPU.
PRODUCTS = {"cpu": 2**18, "cuda": 2**27}
KEPT = {"cpu": 2**26, "cuda": 2**30}
GRADIENTS = {"cpu": 2**24, "cuda": 2**28}
PASSES = 8  # a product is written, squared and added: as slow as that many positions more

CONVOLUTIONS = {layer.forward for layer in (nn.Conv1d, nn.Conv2d, nn.Conv3d)}
WITH_ACTIVATION = ("BatchNormAct2d", "GroupNormAct")  # timm's; they hold their dropout and activation


class UnknownLayerError(Exception):
    """A layer whose squared gradients cannot be taken on its own."""


class Squares(Protocol):
    """Sums of squares for the parameters of one layer."""

    def add(self, gradient: Tensor) -> None:
        """Take one gradient of every sample at the layer's output, (B·k, …) if a sample was cut into k parts."""

    def sums(self) -> Sums:
        """Return the sums over samples and gradients, by the parameter's name in the layer."""


@dataclass
class Use:
    """A layer in a forward pass."""

    layer: Any  # an nn.Module, whose attributes depend on its type
    names: list[str]  # of the parameters, as the layer calls them
    n: int  # samples
    arguments: tuple[tuple[Any, ...], dict[str, Any]]  # of its call; the first tensor is (B·k, …)
    per_sample: list[bool]  # which of the tensors among the arguments are
    replayed: bool  # there is no formula that holds


def squares_of(use: Use, rounds: int, sharing: int) -> Squares:
    """Return the sums for a layer, to which `rounds` gradients will be added.

    `sharing` layers share the room for kept gradients. A layer of torch is known by the method that computes it, so
    that a subclass which leaves it alone has the same formula; those of timm and Hugging Face by their name.
    """
    layer, forward = use.layer, type(use.layer).forward
    if use.replayed or not set(use.names) <= {"weight", "bias", "gamma"}:
        return Replayed(use)
    ids = next(leaves(use.arguments))
    a = in_float32(ids)
    kept = KEPT.get(a.device.type, KEPT["cpu"]) // max(1, sharing)
    match type(layer).__name__:
        case _ if forward is nn.Linear.forward:
            return Products(use, a, vectors, vectors, rounds, kept)
        case "Conv1D" if not isinstance(layer, nn.Conv1d):  # Hugging Face's linear layer, its weight transposed
            return Products(use, a, vectors, vectors, rounds, kept)
        case _ if forward in CONVOLUTIONS:
            return Products(use, a, lambda x: patches(layer, x), lambda d: channels(layer, d), rounds, kept)
        case "BatchNorm1d" | "BatchNorm2d" | "BatchNorm3d" | "BatchNormAct2d":
            mean, variance = in_float32(layer.running_mean), in_float32(layer.running_var)
            return Scales(use, F.batch_norm(a, mean, variance, eps=layer.eps), range(2, a.ndim))
        case "GroupNorm" | "GroupNorm1" | "GroupNormAct":
            return Scales(use, F.group_norm(a, layer.num_groups, eps=layer.eps), range(2, a.ndim))
        case "LayerNorm2d":
            normalised = F.layer_norm(a.movedim(1, -1), layer.normalized_shape, eps=layer.eps).movedim(-1, 1)
            return Scales(use, normalised, range(2, a.ndim))
        case "LayerNorm":
            normalised = F.layer_norm(a, layer.normalized_shape, eps=layer.eps)
            return Scales(use, normalised, range(1, a.ndim - len(layer.normalized_shape)))
        case "LayerScale":
            return Scales(use, a, range(1, a.ndim - 1))
        case _ if forward is nn.Embedding.forward and layer.max_norm is None and not layer.scale_grad_by_freq:
            return Rows(use, ids)
    return Replayed(use)


def in_float32(tensor: Tensor) -> Tensor:
    """Return the tensor in float32 or more, in which squares neither overflow nor vanish."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class Scales:
    """Scale and shift of a normalisation: (Σ_t δ·x̂)² and (Σ_t δ)², t running over the dimensions `over`."""

    def __init__(self, use: Use, normalised: Tensor, over: Sequence[int]) -> None:
        self.names, self.n, self.normalised, self.over = use.names, use.n, normalised, tuple(over)
        self.totals: Sums = {}

    def add(self, gradient: Tensor) -> None:
        gradient = in_float32(gradient)
        for name in self.names:
            part = gradient if name == "bias" else gradient * self.normalised
            sums = part.sum(dim=self.over) if self.over else part
            square = sums.unflatten(0, (self.n, -1)).sum(dim=1).square().sum(dim=0)
            self.totals[name] = self.totals.get(name, 0) + square

    def sums(self) -> Sums:
        return self.totals


class Rows:
    """Weight of an embedding: the gradients of a sample's equal tokens are summed, then squared."""

    def __init__(self, use: Use, ids: Tensor) -> None:
        self.layer = use.layer
        tokens = self.layer.weight.shape[0]
        first = torch.arange(use.n, device=ids.device) * tokens
        keys = ids.reshape(use.n, -1) + first.unsqueeze(1)
        keys, self.place = keys.flatten().unique(return_inverse=True)
        self.rows = keys % tokens
        self.total = torch.zeros_like(in_float32(self.layer.weight.detach()))

    def add(self, gradient: Tensor) -> None:
        gradient = in_float32(gradient).reshape(-1, gradient.shape[-1])
        sums = gradient.new_zeros(len(self.rows), gradient.shape[1]).index_add_(0, self.place, gradient)
        self.total.index_add_(0, self.rows, sums.square_())

    def sums(self) -> Sums:
        if self.layer.padding_idx is not None:
            self.total[self.layer.padding_idx] = 0
        return {"weight": self.total}


class Replayed:
    """Any layer: it is computed again for each sample, and its gradient is taken there."""

    def __init__(self, use: Use) -> None:
        self.use = use
        self.parameters = {name: use.layer.get_parameter(name).detach() for name in use.names}
        self.totals: Sums = {}

    @torch.no_grad()
    def add(self, gradient: Tensor) -> None:
        tensors = [t for t, chosen in zip(leaves(self.use.arguments), self.use.per_sample, strict=True) if chosen]
        tensors = [t.unflatten(0, (self.use.n, -1)) for t in (gradient, *tensors)]
        room = GRADIENTS.get(gradient.device.type, GRADIENTS["cpu"])
        for part in parts_of(tensors[0], sum(p.numel() for p in self.parameters.values()), room):
            for name, gradients in self._gradients(*(t[part] for t in tensors)).items():
                square = in_float32(gradients).square().sum(dim=0)
                self.totals[name] = self.totals.get(name, 0) + square

    def sums(self) -> Sums:
        return self.totals

    def _gradients(self, *tensors: Tensor) -> Sums:
        try:
            with sdpa_kernel(SDPBackend.MATH):  # vmap would loop over the fused kernels
                gradients: Sums = vmap(grad(self._value), (None, *(0 for _ in tensors)))(self.parameters, *tensors)
                return gradients
        except torch.OutOfMemoryError:
            raise
        except Exception:  # whatever the layer's code meets in the tensors of vmap
            return self._one_by_one(*tensors)

    def _one_by_one(self, *tensors: Tensor) -> Sums:
        parameters = {name: p.clone().requires_grad_() for name, p in self.parameters.items()}
        gradients = []
        for sample in zip(*tensors, strict=True):
            with torch.enable_grad():
                value = self._value(parameters, *sample)
            gradients.append(torch.autograd.grad(value, list(parameters.values()), materialize_grads=True))
        return {
            name: torch.stack(values) for name, values in zip(parameters, zip(*gradients, strict=True), strict=True)
        }

    def _value(self, parameters: Sums, gradient: Tensor, *sample: Tensor) -> Tensor:
        """Return ⟨gradient, output⟩ of one sample."""
        given, chosen = iter(sample), iter(self.use.per_sample)
        args, kwargs = converted(self.use.arguments, lambda tensor: next(given) if next(chosen) else tensor)
        output: Tensor = next(leaves(functional_call(self.use.layer, parameters, args, kwargs)))
        return (output * gradient).sum()


class Products:
    """Weight and bias of a linear map applied to T positions: (Σ_t δ_t a_tᵀ)² and (Σ_t δ_t)².

    The gradients of several rounds are kept until a product pays. If it is cheaper, the products themselves are
    not formed: Σ_r (Σ_t δ_rt a_t)² = Σ_ts (Σ_r δ_rt δ_rs)·a_t a_s. One position is the case Σ_b (δ²)ᵀ a² of a linear
    layer on vectors.

    Args:
        use: its layer has a `weight`; that of a convolution has G groups.
        activation: (B·k, …).
        right: some of it -> the inputs of the map, (B·k, G, T, N).
        left: gradient at the output -> (B·k, G, T, M).
        rounds: how many gradients will be added.
        kept: how many numbers of them may be held for a product.
    """

    def __init__(
        self, use: Use, activation: Tensor, right: Callable[[Tensor], Tensor], left: Callable[[Tensor], Tensor],
        rounds: int, kept: int,
    ) -> None:  # fmt: skip
        self.use, self.left, self.rounds, self.limit = use, left, rounds, kept
        samples = activation.unflatten(0, (use.n, -1))
        self.right = lambda part: of_samples(right(samples[part].flatten(0, 1)), len(samples[part]))
        self.weight: Tensor | None = None  # (G, M, N)
        self.bias: Tensor | None = None
        self.kept = activation.new_empty(0)  # (B, G, T, R, M)
        self.n_kept = 0

    def add(self, gradient: Tensor) -> None:
        left = of_samples(self.left(in_float32(gradient)), self.use.n)
        if "bias" in self.use.names:
            square = left.sum(dim=2).flatten(1).square_().sum(dim=0)
            self.bias = square if self.bias is None else self.bias.add_(square)
        if "weight" not in self.use.names:
            return
        fitting = min(self.rounds, self.limit // left.numel())
        if fitting <= 1:
            self._add(left.unsqueeze(3))
            return
        if not len(self.kept):
            self.kept = left.new_empty(*left.shape[:3], fitting, left.shape[3])
        self.kept[:, :, :, self.n_kept] = left
        self.n_kept += 1
        if self.n_kept == fitting:
            self._flush()

    def sums(self) -> Sums:
        if self.n_kept:
            self._flush()
        weight = None if self.weight is None else self.weight.clamp_(min=0)  # terms of either sign may leave rounding
        sums = {"weight": as_weight(self.use.layer, weight), "bias": self.bias}
        return {name: value for name, value in sums.items() if value is not None}

    def _flush(self) -> None:
        self._add(self.kept[:, :, :, : self.n_kept])
        self.n_kept = 0

    def _add(self, left: Tensor) -> None:
        _, groups, positions, rounds, outputs = left.shape
        if self.weight is None:
            self.weight = left.new_zeros(groups, outputs, self.use.layer.weight.numel() // (groups * outputs))
        pairs = positions * (positions + 1) // 2
        add = add_by_positions if pairs <= rounds * (positions + PASSES) else add_by_products
        add(self.weight, left, self.right)


def vectors(tensor: Tensor) -> Tensor:
    """Return (B, …, N) as (B, 1, T, N)."""
    return tensor.reshape(len(tensor), 1, -1, tensor.shape[-1])


def channels(layer: Convolution, tensor: Tensor) -> Tensor:
    """Return (B, C, …) as (B, G, T, C/G)."""
    split: Tensor = tensor.flatten(2).unflatten(1, (layer.groups, -1))
    return split.mT


def patches(layer: Convolution, inputs: Tensor) -> Tensor:
    """Return what each position of a convolution sees of its inputs (B, C, …): (B, G, T, kernel·C/G)."""
    sides = [(size, step, by) for size, step, by in zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)]
    padding = padding_of(layer)
    if not any(padding) and all(size == step == 1 for size, step, _ in sides):
        return channels(layer, inputs)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    # Channels last: a row of the kernel is copied as one piece.
    seen: Tensor = F.pad(inputs, padding, mode).movedim(1, -1).contiguous().unflatten(-1, (layer.groups, -1))
    for side, (size, step, by) in enumerate(sides, start=1):
        seen = seen.unfold(side, by * (size - 1) + 1, step)[..., ::by]
    d = len(sides)  # now (B, *positions, G, C/G, *kernel)
    order = (0, d + 1, *range(1, d + 1), *range(d + 3, 2 * d + 3), d + 2)
    return seen.permute(order).flatten(d + 2).flatten(2, d + 1)


def padding_of(layer: Convolution) -> list[int]:
    """Return the padding as `torch.nn.functional.pad` takes it: before and after, the last side first."""
    if layer.padding == "same":
        widths = [by * (size - 1) for size, by in zip(layer.kernel_size, layer.dilation, strict=True)]
        pairs = [(width // 2, width - width // 2) for width in widths]
    elif layer.padding == "valid":
        return []
    else:
        pairs = [(int(width), int(width)) for width in layer.padding]
    return [width for pair in reversed(pairs) for width in pair]


def as_weight(layer: Any, total: Tensor | None) -> Tensor | None:
    """Return sums (G, M, N) in the shape of the layer's weight."""
    if total is None:
        return None
    shape = layer.weight.shape
    if type(layer).forward in CONVOLUTIONS:
        return total.view(shape[0], *shape[2:], shape[1]).movedim(-1, 1)
    return total[0].mT if type(layer).__name__ == "Conv1D" else total[0]


def of_samples(positions: Tensor, n: int) -> Tensor:
    """Return (B·k, G, T, N) as (B, G, k·T, N)."""
    if len(positions) == n:
        return positions
    parts: Tensor = positions.unflatten(0, (n, -1))
    return parts.transpose(1, 2).flatten(2, 3)


def add_by_products(total: Tensor, left: Tensor, right: Callable[[slice], Tensor]) -> None:
    """Add Σ_br (left_brᵀ @ right_b)² to `total` (G, M, N), for left (B, G, T, R, M) and right (B, G, T, N)."""
    _, groups, positions, rounds, outputs = left.shape
    inputs, room = total.shape[2], PRODUCTS.get(left.device.type, PRODUCTS["cpu"])
    rows = max(1, room // (groups * rounds * inputs))
    for part in parts_of(left, groups * inputs * max(rounds * outputs, positions), room):
        a, d = right(part), left[part]
        for start in range(0, outputs, rows):
            some = slice(start, start + rows)
            product = d[..., some].flatten(3).mT @ a  # (B, G, R·rows, N)
            if len(product) == rounds == 1:
                total[:, some].addcmul_(product[0], product[0])
            else:
                total[:, some] += product.square_().unflatten(2, (rounds, -1)).sum(dim=(0, 2))


def add_by_positions(total: Tensor, left: Tensor, right: Callable[[slice], Tensor]) -> None:
    """Add Σ_br (left_brᵀ @ right_b)² to `total` (G, M, N), for left (B, G, T, R, M) and right (B, G, T, N)."""
    first, second = torch.tril_indices(left.shape[2], left.shape[2], device=left.device)
    twice = 2.0 - (first == second).to(left.dtype)  # pairs of two positions stand for both orders
    room = PRODUCTS.get(left.device.type, PRODUCTS["cpu"])
    for part in parts_of(left, total.shape[0] * len(first) * total.shape[2], room):
        a, d = right(part), left[part].permute(1, 4, 0, 2, 3)  # (B, G, T, N), (G, M, B, T, R)
        gram = d.square().sum(dim=4) if len(first) == 1 else (d @ d.mT)[..., first, second]  # (G, M, B, pairs)
        pairs = (a[:, :, first] * a[:, :, second] * twice.unsqueeze(1)).transpose(0, 1)  # (G, B, pairs, N)
        total.baddbmm_(gram.flatten(2), pairs.flatten(1, 2))


def parts_of(samples: Tensor, size: int, room: int) -> Iterator[slice]:
    """Yield slices of the samples, as many as fit if `size` numbers are held for each, at least one."""
    n, step = len(samples), max(1, room // max(1, size))
    return (slice(start, start + step) for start in range(0, n, step))
