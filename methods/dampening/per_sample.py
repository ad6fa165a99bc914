"""Sums over samples of squared per-sample gradients: the core of Eq. 1's importance and of the Fisher information."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from .layer_squares import KNOWN, PRODUCT_LAYERS, Sums, UnknownLayerError, squares_of
from .microbatch import microbatch_size

Directions = Callable[[Tensor, Tensor], Tensor]  # (logits (B, K), targets (B, …)) -> (B, R, K)

LARGEST_CHUNK = 256  # samples that share a pass on a GPU
CHECKED = 2  # samples on which the layer formulas must agree with the general computation
AGREEMENT = 1e-3  # relative, in the Euclidean norm of each parameter's sum; a wrong formula is off by much more


def default_chunk_size(model: nn.Module, inputs: Tensor) -> int:
    """Return how many samples should share a pass: as many as a CPU's caches hold or as fill a GPU, or fewer."""
    return min(32 if inputs.device.type == "cpu" else LARGEST_CHUNK, microbatch_size(model, inputs))


def zero_sums(model: nn.Module) -> Sums:
    """Return a 0 for every entry of every named parameter, in float32 or more: sums to add squares to."""
    return {
        name: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32), requires_grad=False)
        for name, p in model.named_parameters()
    }


class SquaredGradients:
    """Σ_b Σ_r (∂⟨v_br, logits_b⟩ / ∂θ)² for every named parameter θ of a model whose samples do not see each other.

    The directions v (B, R, K) follow from the logits: the gradient of an objective at the logits gives that of the
    objective, R of them share a forward pass. One ordinary backward pass for each r gives the gradient at the output of
    every layer for a whole batch, and a layer's squares follow from it and the layer's input (`layer_squares`)
    without a gradient for each sample. This is checked on the first two samples, taken one by one; if it does
    not hold (unknown layers with parameters, a layer that is used twice, samples that are cut up) every gradient is
    taken by `torch.func`.

    Parameters that do not require a gradient, or that the logits do not depend on, get 0.

    Args:
        model: maps (B, …) to logits (B, K); in eval mode.
        directions: of each sample, from its logits and its target.
    """

    def __init__(self, model: nn.Module, directions: Directions) -> None:
        self.model = model
        self.directions = directions
        self.parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        self.fixed = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
        self.fixed |= dict(model.named_buffers())
        self._by_layers: bool | None = None

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
            left = self.by_layers(inputs, targets)
        except torch.OutOfMemoryError:
            raise
        except (UnknownLayerError, RuntimeError):
            return False
        tolerances = {name: AGREEMENT * float(value.norm()) for name, value in left.items()}
        for gradients in self._one_by_one(inputs, targets):  # subtracted as they come: all at once are too large
            for name, gradient in zip(self.parameters, gradients, strict=True):
                left[name] = left.get(name, 0) - gradient.square()
        return all(float(value.norm()) <= tolerances.get(name, 0.0) for name, value in left.items())

    def _one_by_one(self, inputs: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Yield the gradients of every sample along each of its directions, as autograd takes them."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        for sample, target in zip(inputs.split(1), targets.split(1), strict=True):
            with torch.enable_grad():
                logits = self.model(sample)
            for direction in self.directions(logits.detach(), target).unbind(dim=1):
                yield torch.autograd.grad(
                    logits, parameters, direction, retain_graph=True, allow_unused=True, materialize_grads=True
                )

    def by_samples(self, inputs: Tensor, targets: Tensor) -> Sums:
        """Return the sums by one vectorised gradient per sample and direction; for any model."""

        def value(parameters: dict[str, Tensor], sample: Tensor, direction: Tensor) -> Tensor:
            logits = functional_call(self.model, {**parameters, **self.fixed}, (sample.unsqueeze(0),))
            total: Tensor = (logits[0] * direction).sum()
            return total

        with torch.no_grad():
            directions = self.directions(self.model(inputs), targets)
        sums: Sums = {}
        with sdpa_kernel(SDPBackend.MATH):  # vmap would loop over the fused kernels
            gradients = vmap(grad(value), in_dims=(None, 0, 0))
            for direction in directions.unbind(dim=1):
                # Not in place: gradients may share memory, as those of a ViT's class token and positions do.
                for name, gradient in gradients(self.parameters, inputs, direction).items():
                    sums[name] = sums.get(name, 0) + gradient.square().sum(dim=0)
        return sums

    def by_layers(self, inputs: Tensor, targets: Tensor) -> Sums:
        """Return the sums from the inputs and output gradients of the layers, a backward pass for each direction.

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
        with torch.no_grad():
            directions = self.directions(logits.detach(), targets).unbind(dim=1)
            for prefix, _, activation, _ in layers:
                if len(activation) != n:
                    raise UnknownLayerError(prefix)
            sharing = sum(isinstance(layer, PRODUCT_LAYERS) for _, layer, _, _ in layers)
            squares = [squares_of(layer, a, len(directions), sharing) for _, layer, a, _ in layers]
        sources: list[Any] = [*(edge for _, _, _, edge in layers), *broadcast.values()]
        sums: Sums = {}
        for r, direction in enumerate(directions, start=1):
            gradients = torch.autograd.grad(
                logits, sources, direction, retain_graph=r < len(directions), allow_unused=True
            )
            for square, gradient in zip(squares, gradients, strict=False):
                if gradient is not None:
                    if len(gradient) != n:
                        raise UnknownLayerError("samples are cut up")
                    square.add(gradient)
            for name, gradient in zip(broadcast, gradients[len(layers) :], strict=True):
                if gradient is not None:
                    sums[name] = sums.get(name, 0) + gradient.square().sum(dim=0, keepdim=True)
        for (prefix, _, _, _), square in zip(layers, squares, strict=True):
            for name, value in square.sums().items():
                if f"{prefix}{name}" in self.parameters:
                    sums[f"{prefix}{name}"] = value
        return sums

    def _broadcast_names(self) -> list[str]:
        """Return the parameters that stand beside layers and are the same for all samples, as class tokens are."""
        owners = {name: self.model.get_submodule(name.rpartition(".")[0]) for name in self.parameters}
        return [
            name
            for name, owner in owners.items()
            if not isinstance(owner, KNOWN) and self.parameters[name].ndim > 1 and len(self.parameters[name]) == 1
        ]


Recorded = tuple[str, nn.Module, Tensor, GradientEdge]  # prefix of its parameters, layer, input, edge of its output


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
