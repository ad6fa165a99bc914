"""Sums over samples of squared per-sample gradients: the core of Eq. 1's importance and of the Fisher information."""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from .batches import converted, cut, leaves, parts_of, rebuilt, size_of, tensors_of
from .layer_squares import GRADIENTS, WITH_ACTIVATION, Sums, UnknownLayerError, Use, in_float32, squares_of
from .microbatch import Forward, call, microbatch_size, mixing_layer

Objectives = Callable[[nn.Module, Any], Tensor]  # (model, batch) -> (B,) or (B, R)
Way = Callable[[Any], Sums]  # a batch -> sums of squares; a name that is missing stands for zeros
Call = tuple[str, Any, list[bool], GradientEdge]  # layer, (args, kwargs), which tensors in them are per sample, output

LARGEST_CHUNK = 256  # samples that share a pass on a GPU
CHECKED = 2  # samples on which the layer formulas must agree with autograd
AGREEMENT = 1e-3  # relative, in the Euclidean norm of each parameter's sum; a wrong formula is off by much more
NOISE = 1e-8  # of the mean square in the same layer: gradients that vanish but for rounding agree with anything
ALONE = 1e-2  # relative; other kernels may serve a sample alone, but a sample that sees others is off by more


def default_chunk_size(model: nn.Module, batch: Any, forward: Forward = call) -> int:
    """Return how many samples should share a pass: as many as a CPU's caches hold or as fill a GPU, or fewer."""
    on_cpu = all(tensor.device.type == "cpu" for tensor in leaves(batch))
    return min(32 if on_cpu else LARGEST_CHUNK, microbatch_size(model, batch, forward))


def zero_sums(model: nn.Module) -> Sums:
    """Return a 0 for every entry of every named parameter, in float32 or more: sums to add squares to."""
    return {
        name: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32), requires_grad=False)
        for name, p in model.named_parameters()
    }


class SquaredGradients:
    """Σ_b Σ_r (∂objective_br / ∂θ)² for every named parameter θ of a model whose samples do not see each other.

    One ordinary backward pass for each r gives the gradient at the output of every layer for a whole batch, each
    sample's own, and a layer's squares follow from it and the layer's input (`layer_squares`) without a gradient for
    each sample. This is checked on the first two samples, whose gradients autograd takes one by one. If it does not
    hold (a layer that is used twice or not by its `forward`, tied weights, time before samples), every gradient is
    taken by `torch.func`, or, if that fails, is slower or would hold too much, by one backward pass after the other.

    Parameters that do not require a gradient, or that the objectives do not depend on, get 0. The gradients that
    parameters hold are left alone.

    Args:
        model: in eval mode; neither compiled nor wrapped for several devices.
        objectives: (model, batch) -> the losses (B,) of the samples, or R objectives (B, R) of each.
    """

    def __init__(self, model: nn.Module, objectives: Objectives) -> None:
        self.model = model
        self.objectives = objectives
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.whole = Whole(model, self._values)
        self.units = units_of(model, self.parameters)
        self.replayed: set[str] = set()  # layers whose formula does not hold
        self.per_sample: dict[str, list[bool]] = {}  # layer -> which tensors of its call are, as the check saw it
        self.shared: set[str] = set()  # embeddings of positions, the same for all samples
        self.way: Way | None = None
        self.chunk_size: int | None = None
        self.seconds: dict[str, float] = {}  # of a sample, by each of the slow ways

    def add_to(self, sums: Sums, batch: Any, chunk_size: int | None = None) -> int:
        """Add the squares of all samples to `sums` and return how many they are.

        Args:
            sums: as `zero_sums` makes them.
            batch: tensors (B, …) in any containers; an object of another type is given to the objectives as it is.
            chunk_size: samples that share a pass; None: as many as suit the device and its memory, the same for
                all batches. It changes nothing but the rounding.

        Raises:
            ValueError: samples see each other, or there is not one row of objectives for each sample.
        """
        if (name := mixing_layer(self.model)) is not None:
            raise ValueError(
                f"Expected samples that do not see each other, but got the layer {name}, which normalises a batch by "
                "its own statistics; take importances of batches (reduction='batch_mean')."
            )
        if chunk_size is None:
            self.chunk_size = self.chunk_size or default_chunk_size(self.model, batch, self.objectives)
        n = 0
        for part in parts_of(batch, chunk_size or self.chunk_size or 1):
            for name, value in self._squares(part).items():
                sums[name] += value
            n += size_of(part) or self.count
        return n

    def _squares(self, batch: Any) -> Sums:
        if self.way is None and size_of(batch) == 1:  # too few for the check, and nothing to share
            return self.one_by_one(batch)
        if self.way is None:
            self.way = self._chosen(batch)
        try:
            return self.way(batch)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # a batch of another kind than the first one; if the model itself fails, it does so again
            return self.one_by_one(batch)

    def _chosen(self, batch: Any) -> Way:
        """Return the way for this and all later batches."""
        two = cut(batch, slice(0, CHECKED))
        self._refuse_samples_that_interact(two)
        if not self.parameters:
            return self.one_by_one
        for _ in range(2):  # the second time without the formulas that do not hold
            wrong = self._disagreeing(self.by_layers, two)
            if not wrong:
                return self.by_layers
            self.replayed |= {prefix for prefix, names in self.units.items() if not wrong.isdisjoint(names.values())}
        if self._vectorised_room(two) < CHECKED:
            self._warn("the gradients of two samples would take too much memory")
        elif self._disagreeing(self.by_samples, two):
            self._warn("neither layer formulas nor torch.func take it")
        else:
            return self._raced
        return self.one_by_one

    def _refuse_samples_that_interact(self, batch: Any) -> None:
        with torch.no_grad():
            together = self._values(batch)
            alone = torch.cat([self._values(sample) for sample in parts_of(batch, 1)])
        rounding = 1e3 * torch.finfo(together.dtype).eps
        if (together - alone).abs().max() > ALONE * alone.abs().max() + rounding:
            raise ValueError(
                f"Expected samples that do not see each other, but got losses {together.flatten().tolist()} for two "
                f"samples together and {alone.flatten().tolist()} for each alone; take importances of batches "
                "(reduction='batch_mean')."
            )

    def _disagreeing(self, way: Way, batch: Any) -> set[str]:
        """Return the parameters whose squares differ from those of autograd; all of them if the way fails."""
        try:
            left = way(batch)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # whatever the model's code meets in hooks or under vmap
            return set(self.parameters)
        if wrong := {name for name, value in left.items() if value.shape != self.parameters[name].shape}:
            return wrong
        norms = {name: float(value.norm()) for name, value in left.items()}
        for gradients in self._gradients(batch):  # subtracted as they come: all at once are too large
            for name, gradient in zip(self.parameters, gradients, strict=True):
                if gradient is not None:
                    left[name] = left.get(name, 0) - squared(gradient)
        accuracy = max(AGREEMENT, 16 * max(torch.finfo(p.dtype).eps for p in self.parameters.values()))
        for names in self.units.values():
            found = {name: left[name] for name in names.values() if name in left}
            level = max((norms.get(name, 0.0) / value.numel() ** 0.5 for name, value in found.items()), default=0.0)
            for name, value in found.items():
                bound = accuracy * norms.get(name, 0.0) + NOISE * level * value.numel() ** 0.5
                if not float(value.norm()) <= bound:
                    wrong.add(name)
        return wrong

    def _values(self, batch: Any) -> Tensor:
        """Return the objectives as (B, R)."""
        values = self.objectives(self.model, batch)
        expected = size_of(batch)
        if not isinstance(values, Tensor) or values.ndim not in (1, 2) or len(values) != (expected or len(values)):
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"Expected one loss for each of the {expected} samples of a batch, but got {got}.")
        self.count = len(values)
        return values.unsqueeze(1) if values.ndim == 1 else values

    def _gradients(self, batch: Any) -> Iterator[Sequence[Tensor | None]]:
        """Yield the gradients of every objective of every sample, as autograd takes them."""
        with torch.enable_grad():
            values = self._values(batch).flatten()
        if values.requires_grad:
            for value in values:
                yield gradients_of(value, list(self.parameters.values()))

    def one_by_one(self, batch: Any) -> Sums:
        """Return the sums by one backward pass for each sample and objective; for any model."""
        sums: Sums = {}
        for sample in parts_of(batch, 1):
            for gradients in self._gradients(sample):
                for name, gradient in zip(self.parameters, gradients, strict=True):
                    if gradient is not None:
                        sums[name] = sums[name].add_(squared(gradient)) if name in sums else squared(gradient)
        return sums

    @torch.no_grad()
    def by_samples(self, batch: Any) -> Sums:
        """Return the sums by one vectorised gradient per sample and objective; for most models."""

        def value(parameters: Sums, r: int, *sample: Tensor) -> Tensor:
            one = rebuilt(batch, [tensor.unsqueeze(0) for tensor in sample])
            values: Tensor = functional_call(self.whole, parameters, (one,))
            return values[0, r]

        parameters = {f"model.{name}": p.detach() for name, p in self.parameters.items()}
        rounds = self._values(cut(batch, slice(0, 1))).shape[1]
        sums: Sums = {}
        with sdpa_kernel(SDPBackend.MATH):  # vmap would loop over the fused kernels
            for part in parts_of(batch, self._vectorised_room(batch)):
                tensors = tensors_of(part)
                gradients = vmap(grad(value), in_dims=(None, None, *(0 for _ in tensors)))
                for r in range(rounds):
                    # Not in place: gradients may share memory, as those of a ViT's class token and positions do.
                    for name, gradient in zip(
                        self.parameters, gradients(parameters, r, *tensors).values(), strict=True
                    ):
                        sums[name] = sums.get(name, 0) + squared(gradient).sum(dim=0)
        return sums

    def _vectorised_room(self, batch: Any) -> int:
        """Return of how many samples the gradients may be held at once."""
        device = next((tensor.device.type for tensor in leaves(batch)), "cpu")
        numbers = sum(p.numel() for p in self.parameters.values())
        return max(1, GRADIENTS.get(device, GRADIENTS["cpu"]) // max(1, numbers))

    def _raced(self, batch: Any) -> Sums:
        """Take the first batch by one of the slow ways, the second by the other, and stay with the faster one."""
        way = self.one_by_one if self.seconds else self.by_samples
        start = time.perf_counter()
        sums = way(batch)
        self.seconds[way.__name__] = (time.perf_counter() - start) / (size_of(batch) or 1)
        if len(self.seconds) == 2:
            self.way = min((self.by_samples, self.one_by_one), key=lambda way: self.seconds[way.__name__])
            if self.way == self.one_by_one:
                self._warn("layer formulas do not take it and torch.func is slower")
        return sums

    def _warn(self, reason: str) -> None:
        warnings.warn(
            f"The gradients of {type(self.model).__name__} are taken one sample at a time, by one backward pass for "
            f"each, since {reason}. The numbers are the same; it takes as long as training on batches of one sample.",
            RuntimeWarning, stacklevel=2,
        )  # fmt: skip

    def by_layers(self, batch: Any) -> Sums:
        """Return the sums from the inputs and output gradients of the layers, one backward pass for each objective.

        Raises:
            UnknownLayerError: a layer with parameters is used twice, or not on whole samples.
        """
        n = size_of(batch)
        broadcast = {} if n is None else {
            name: self.parameters[name].detach().expand(n, *self.parameters[name].shape[1:]).clone().requires_grad_()
            for prefix, names in self.units.items() if prefix not in self.replayed
            for local, name in names.items() if is_broadcast(local, self.parameters[name])
        }  # fmt: skip
        units = {
            prefix: {local: name for local, name in names.items() if name not in broadcast}
            for prefix, names in self.units.items()
        }
        with torch.enable_grad(), self._recorded([prefix for prefix, names in units.items() if names], n) as calls:
            values = functional_call(self.whole, {f"model.{name}": p for name, p in broadcast.items()}, (batch,))
        uses = [
            Use(self.model.get_submodule(name), list(units[name]), len(values), arguments, flags, name in self.replayed)
            for name, arguments, flags, _ in calls
        ]
        for use in uses:
            if len(next(leaves(use.arguments))) % use.n:
                raise UnknownLayerError(f"{type(use.layer).__name__} is not used on whole samples")
        squares = [squares_of(use, values.shape[1], len(uses)) for use in uses]
        sources: list[Any] = [*(edge for _, _, _, edge in calls), *broadcast.values()]
        sums: Sums = {}
        for r, direction in enumerate(torch.eye(values.shape[1], dtype=values.dtype, device=values.device)):
            if not (sources and values.requires_grad):
                break
            gradients = torch.autograd.grad(
                values, sources, direction.expand_as(values), retain_graph=r + 1 < values.shape[1], allow_unused=True
            )
            for square, gradient in zip(squares, gradients, strict=False):
                if gradient is not None:
                    if len(gradient) % len(values):
                        raise UnknownLayerError("samples are cut up")
                    square.add(gradient)
            for name, gradient in zip(broadcast, gradients[len(uses) :], strict=True):
                if gradient is not None:
                    sums[name] = sums.get(name, 0) + squared(gradient).sum(dim=0, keepdim=True)
        for (prefix, _, _, _), square in zip(calls, squares, strict=True):
            sums |= {units[prefix][local]: value for local, value in square.sums().items()}
        return sums

    @contextmanager
    def _recorded(self, prefixes: list[str], n: int | None) -> Iterator[list[Call]]:
        """Record how these layers are called in the body.

        The length of a tensor may be the number of samples by chance; what belongs to samples is decided in the check.
        """
        calls: dict[str, Call] = {}
        inner: dict[str, GradientEdge] = {}

        def expand(prefix: str, args: Any, kwargs: Any) -> Any:
            ids = next(leaves((args, kwargs)))
            if self.way is None and n != 1:
                alike = len(ids) == 1 or (ids.ndim == 1 and len(ids) != n)
                self.shared = self.shared | {prefix} if alike else self.shared - {prefix}
            if n is None or prefix not in self.shared:
                return None
            ids = ids.unsqueeze(0) if ids.ndim == 1 else ids
            return (ids.expand(n, *ids.shape[1:]),), {}

        def record(prefix: str, args: Any, kwargs: Any, output: Any) -> None:
            outputs = [tensor for tensor in leaves(output) if tensor.requires_grad]
            if not outputs:
                return
            if prefix in calls or len(outputs) > 1 or outputs[0] is not next(leaves(output)):
                raise UnknownLayerError(f"{prefix} is used twice or has several outputs")
            arguments = converted((args, kwargs), Tensor.detach)
            tensors = list(leaves(arguments))
            if self.way is None:
                self.per_sample[prefix] = [t.ndim > 0 and len(t) == len(tensors[0]) for t in tensors]
            flags = self.per_sample[prefix]
            if not tensors or len(flags) != len(tensors):
                raise UnknownLayerError(f"{prefix} is called in several ways")
            calls[prefix] = prefix, arguments, flags, inner.get(prefix) or get_gradient_edge(outputs[0])

        def note(prefix: str, args: Any) -> None:
            if args[0].requires_grad:
                inner[prefix] = get_gradient_edge(args[0])

        handles = []
        for prefix in prefixes:
            layer: Any = self.model.get_submodule(prefix)
            hook = partial(record, prefix)
            handles.append(layer.register_forward_hook(lambda _, *given, hook=hook: hook(*given), with_kwargs=True))
            if isinstance(layer, nn.Embedding):
                hook = partial(expand, prefix)
                pre = layer.register_forward_pre_hook(lambda _, *given, hook=hook: hook(*given), with_kwargs=True)
                handles.append(pre)
            if type(layer).__name__ in WITH_ACTIVATION and prefix not in self.replayed:
                hook = partial(note, prefix)
                handles.append(layer.drop.register_forward_pre_hook(lambda _, args, hook=hook: hook(args)))
        listed: list[Call] = []
        try:
            yield listed
            listed += calls.values()
        finally:
            for handle in handles:
                handle.remove()


class Whole(nn.Module):
    """The objectives as a module, so that parameters can be given to the model inside."""

    def __init__(self, model: nn.Module, values: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.model, self.values = model, values

    def forward(self, batch: Any) -> Tensor:
        return self.values(batch)


def squared(gradient: Tensor) -> Tensor:
    """Return the squares in float32 or more; entries of a sparse gradient are summed before."""
    dense = gradient.coalesce().to_dense() if gradient.is_sparse else gradient
    return in_float32(dense).square()


def gradients_of(value: Tensor, parameters: list[nn.Parameter]) -> Sequence[Tensor | None]:
    """Return the gradients of a number, which keeps its graph; those held by the parameters stay as they are.

    `torch.autograd.grad` would find none inside of a reentrant checkpoint. Hooks that act on a held gradient, as an
    optimiser's step within the backward pass does, must not see these.
    """
    if any(getattr(p, "_post_accumulate_grad_hooks", None) for p in parameters):
        return torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    held = [p.grad for p in parameters]
    try:
        for p in parameters:
            p.grad = None
        value.backward(retain_graph=True)
        return [p.grad for p in parameters]
    finally:
        for p, gradient in zip(parameters, held, strict=True):
            p.grad = gradient


Names = dict[str, str]  # of a layer's parameters: in the layer -> in the model


def units_of(model: nn.Module, names: Iterator[str] | dict[str, Any]) -> dict[str, Names]:
    """Return the layers that own the parameters `names`: the name of the layer -> its parameters.

    A parametrisation belongs to the layer that it is for, and an attention of torch uses the weights of its last layer
    itself.
    """
    units: dict[str, Names] = {}
    for name in names:
        prefix = f".{name}".rpartition(".")[0].partition(".parametrizations")[0]
        parent = prefix.rpartition(".")[0]
        if parent and isinstance(model.get_submodule(parent[1:]), nn.MultiheadAttention):
            prefix = parent
        units.setdefault(prefix[1:], {})[f".{name}"[len(prefix) + 1 :]] = name
    return units


def is_broadcast(local: str, parameter: Tensor) -> bool:
    """Return whether a parameter stands beside layers and is the same for all samples, as class tokens are."""
    return local not in ("weight", "bias") and "." not in local and parameter.ndim > 1 and len(parameter) == 1
