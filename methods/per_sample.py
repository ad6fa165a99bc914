"""Sums over samples of squared per-sample gradients: what Eq. 1's importance and the Fisher information are made of."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

Objective = Callable[[Tensor, Tensor], Tensor]  # (logits (B, K), targets (B, …)) -> (B,)
Sums = dict[str, Tensor]

LARGEST = 2**25  # numbers in the per-sample gradients of one layer that are held at once: 128 MiB
CHECKED = 2  # samples on which the layer formulas must agree with the general way
AGREEMENT = 1e-3  # relative, in the Euclidean norm of each parameter's sum; a wrong formula is off by much more


class SquaredGradients:
    """Σ_b (∂ objective_b / ∂θ)² for every named parameter θ of a model in which no sample sees another (eval mode).

    One ordinary backward pass gives the gradient at the output of every layer for a whole batch. A layer's squares
    follow from it and the layer's input: for a linear layer on vectors as (δ²)ᵀ·a², without any per-sample gradient;
    for convolutions, and for linear layers on sequences, by one small matrix product a sample. This is checked on the
    first two samples against `torch.func`; where it does not hold (unknown layers with parameters, a layer that is
    used twice, samples that are cut up) every gradient is taken by `torch.func`.

    Parameters that do not require a gradient, or that the objective does not depend on, get 0.

    Args:
        model: maps (B, …) to logits (B, K); in eval mode.
        objective: one number a sample from its logits and its target.
    """

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        self.model = model
        self.objective = objective
        self.parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        self.fixed = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
        self.fixed |= dict(model.named_buffers())
        self._by_layers: bool | None = None

    def zeros(self) -> Sums:
        """Return a sum to add to, in float32 or more."""
        return {
            name: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32), requires_grad=False)
            for name, p in self.model.named_parameters()
        }

    def add_to(self, sums: Sums, inputs: Tensor, targets: Tensor, chunk_size: int) -> None:
        """Add the squares of `inputs` (B, …) to `sums`, `chunk_size` samples at a time."""
        if self._by_layers is None and len(inputs):
            self._by_layers = self._layers_agree(inputs[:CHECKED], targets[:CHECKED])
        compute = self.by_layers if self._by_layers else self.by_samples
        for x, y in zip(inputs.split(chunk_size), targets.split(chunk_size), strict=True):
            for name, value in compute(x, y).items():
                sums[name] += value

    def _layers_agree(self, inputs: Tensor, targets: Tensor) -> bool:
        try:
            found = self.by_layers(inputs, targets)
        except (UnknownLayerError, RuntimeError):
            return False
        expected = self.by_samples(inputs, targets)
        return all(
            (found.get(name, torch.zeros_like(value)) - value).norm() <= AGREEMENT * value.norm()
            for name, value in expected.items()
        )

    def by_samples(self, inputs: Tensor, targets: Tensor) -> Sums:
        """Return the sums by one vectorised gradient a sample; for any model."""

        def value(parameters: dict[str, Tensor], sample: Tensor, target: Tensor) -> Tensor:
            logits = functional_call(self.model, {**parameters, **self.fixed}, (sample.unsqueeze(0),))
            return self.objective(logits, target.unsqueeze(0)).sum()

        with sdpa_kernel(SDPBackend.MATH):  # vmap would loop over the fused kernels
            gradients = vmap(grad(value), in_dims=(None, 0, 0))(self.parameters, inputs, targets)
        # Not in place: gradients may share memory, as those of a ViT's class token and positions do.
        return {name: gradient.square().sum(dim=0) for name, gradient in gradients.items()}

    def by_layers(self, inputs: Tensor, targets: Tensor) -> Sums:
        """Return the sums from the inputs and output gradients of the layers, one backward pass for all samples.

        Raises:
            UnknownLayerError: there is no formula for a layer, or it is not used once on whole samples.
        """
        n = len(inputs)
        broadcast = {
            name: self.parameters[name].expand(n, *self.parameters[name].shape[1:]).clone().requires_grad_()
            for name in self._broadcast_names()
        }
        with torch.enable_grad(), recorded_layers(self.model, self.parameters.keys() - broadcast.keys()) as layers:
            given = {**self.parameters, **self.fixed, **broadcast}
            logits = functional_call(self.model, given, (inputs.detach().clone().requires_grad_(),))
            total = self.objective(logits, targets).sum()
            sources: list[Any] = [*(edge for _, _, _, edge in layers), *broadcast.values()]
            gradients: Sequence[Tensor | None] = torch.autograd.grad(total, sources, allow_unused=True)
        sums: Sums = {}
        for (prefix, layer, activation, _), gradient in zip(layers, gradients, strict=False):
            if gradient is None:
                continue
            if len(activation) != n or len(gradient) != n:
                raise UnknownLayerError(prefix)
            for name, value in layer_squares(layer, activation, gradient).items():
                if f"{prefix}{name}" in self.parameters:
                    sums[f"{prefix}{name}"] = value
        for name, gradient in zip(broadcast, gradients[len(layers) :], strict=True):
            if gradient is not None:
                sums[name] = gradient.square().sum(dim=0, keepdim=True)
        return sums

    def _broadcast_names(self) -> list[str]:
        """Return the parameters that stand beside layers and are the same for all samples, as class tokens are."""
        owners = {name: self.model.get_submodule(name.rpartition(".")[0]) for name in self.parameters}
        return [
            name
            for name, owner in owners.items()
            if not isinstance(owner, KNOWN) and self.parameters[name].ndim > 1 and len(self.parameters[name]) == 1
        ]


class UnknownLayerError(Exception):
    """A layer whose squared gradients have no formula here."""


Recorded = tuple[str, nn.Module, Tensor, GradientEdge]  # prefix of its parameters, layer, input, edge of its output
KNOWN = (nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.LayerNorm)


@contextmanager
def recorded_layers(model: nn.Module, names: set[str]) -> Iterator[list[Recorded]]:
    """Record the layers that own the parameters `names` when the model is called in the body."""
    layers: list[Recorded] = []
    handles = []

    def record(prefix: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if any(prefix == other for other, _, _, _ in layers):
                raise UnknownLayerError(f"{prefix} is used twice")
            layers.append((prefix, module, inputs[0].detach(), get_gradient_edge(output)))

        return hook

    try:
        for prefix in dict.fromkeys(name.rpartition(".")[0] for name in names):
            layer = model.get_submodule(prefix)
            if not isinstance(layer, KNOWN):
                raise UnknownLayerError(prefix)
            handles.append(layer.register_forward_hook(record(f"{prefix}." if prefix else "")))
        yield layers
    finally:
        for handle in handles:
            handle.remove()


def layer_squares(layer: nn.Module, activation: Tensor, gradient: Tensor) -> Sums:
    """Return Σ_b of the squared gradients of a layer's weight and bias.

    Args:
        activation: the layer's input, (B, …).
        gradient: of the objective at the layer's output, (B, …).
    """
    match layer:
        case nn.Linear() if activation.ndim == 2:
            return {"weight": gradient.square().T @ activation.square(), "bias": gradient.square().sum(dim=0)}
        case nn.Linear():
            a, d = activation.flatten(1, -2), gradient.flatten(1, -2)  # (B, T, features)
            return {"weight": product_squares(d.mT, a), "bias": d.sum(dim=1).square().sum(dim=0)}
        case nn.Conv2d(groups=1, padding_mode="zeros", padding=tuple(padding)):
            d = gradient.flatten(2)  # (B, C_out, positions)
            weight = conv_squares(layer, padding, activation, d)
            return {"weight": weight, "bias": d.sum(dim=2).square().sum(dim=0)}
        case nn.BatchNorm2d():
            normalised = F.batch_norm(activation, layer.running_mean, layer.running_var, eps=layer.eps)
            weight = (gradient * normalised).sum(dim=(2, 3))
            return {"weight": weight.square().sum(dim=0), "bias": gradient.sum(dim=(2, 3)).square().sum(dim=0)}
        case nn.LayerNorm():
            normalised = F.layer_norm(activation, layer.normalized_shape, eps=layer.eps)
            over = tuple(range(1, activation.ndim - len(layer.normalized_shape)))
            parts = {"weight": gradient * normalised, "bias": gradient}
            return {name: (p.sum(dim=over) if over else p).square().sum(dim=0) for name, p in parts.items()}
    raise UnknownLayerError(type(layer).__name__)


def conv_squares(layer: nn.Conv2d, padding: tuple[int, ...], activation: Tensor, gradient: Tensor) -> Tensor:
    """Return Σ_b of the squared weight gradients of a convolution; `gradient` is (B, C_out, positions)."""
    total = torch.zeros_like(layer.weight)
    for part in parts_of(len(activation), activation[0].numel() * layer.kernel_size[0] * layer.kernel_size[1]):
        patches = F.unfold(activation[part], layer.kernel_size, layer.dilation, padding, layer.stride)
        total += product_squares(gradient[part], patches.mT).view_as(total)
    return total


def product_squares(left: Tensor, right: Tensor) -> Tensor:
    """Return Σ_b (left_b @ right_b)², (M, N), for (B, M, T) and (B, T, N)."""
    total = left.new_zeros(left.shape[1], right.shape[2])
    for part in parts_of(len(left), total.numel()):
        total += torch.bmm(left[part], right[part]).square_().sum(dim=0)
    return total


def parts_of(n: int, size: int) -> Iterator[slice]:
    """Yield slices of `n` samples of `size` numbers each, no slice above LARGEST numbers but for a single sample."""
    bounds = [*range(0, n, max(1, LARGEST // size)), n]
    return (slice(start, stop) for start, stop in pairwise(bounds))
