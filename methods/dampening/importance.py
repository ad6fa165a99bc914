"""Importance of parameters: the diagonal of the empirical Fisher information over a set of samples."""

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn

from .batches import cut, moved, parts_of, size_of
from .loss import Loss, check_labels, check_range, cross_entropy, inputs_and_labels, predicted
from .microbatch import microbatch_size
from .per_sample import SquaredGradients, zero_sums

Reduction = Literal["batch_mean", "per_sample"]

WRAPPERS = ("module", "_orig_mod")  # parts of names that DataParallel, DistributedDataParallel and torch.compile add
# D contains D_f, so n_f·I_Df ≤ n·I_D but for rounding: relative, and of the largest value of the tensor and the model.
ROUNDING, OF_TENSOR, OF_MODEL = 1e-2, 1e-6, 1e-9


class Importance(Mapping[str, Tensor]):
    """The importance of every parameter by its name, ≥ 0, float32 or more, shaped like the parameter.

    Names are those of the raw model, without the parts that DataParallel and torch.compile add.

    Attributes:
        n: number of samples.
        batches: number of batches they came in; of weight for `batch_mean` alone.
        reduction: see `of`.
        weights: norm of all parameters of the model it was measured on, to tell whether two are of the same model.

    Raises:
        ValueError: a value is negative, infinite or not a number.
    """

    def __init__(
        self, values: Mapping[str, Tensor], *, n: int, batches: int, reduction: Reduction, weights: float | None = None
    ) -> None:
        self._values: dict[str, Tensor] = raw_names(values)
        self.n, self.batches, self.reduction, self.weights = n, batches, reduction, weights
        check_values(self)

    def __getitem__(self, name: str) -> Tensor:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<Importance of {len(self)} parameters, {self.reduction} over {self.n} samples>"

    @classmethod
    def of(
        cls, model: nn.Module, batches: Iterable[Any], *, loss: Loss = cross_entropy,
        reduction: Reduction = "per_sample", device: torch.device | str | None = None, chunk_size: int | None = None,
    ) -> Self:  # fmt: skip
        """Return the importance of every named parameter of `model` over the samples in `batches`.

        `per_sample` is Eq. 1 of the paper: the mean over samples of the squared gradient of the loss. No order or
        batch size can change it. `batch_mean` is the released code's: the squared gradient of each batch's *mean*
        loss, averaged over batches; it depends on the batch size and on which samples share a batch.

        The model is used in eval mode and left as it was, with its buffers. Parameters that do not require a gradient,
        or that the loss does not reach, have importance 0.

        Args:
            batches: what `loss` takes; (inputs, labels) or mappings with `labels` for the default, see `cross_entropy`.
            loss: (model, batch) -> the loss of each sample, (B,).
            device: where batches are moved to; None: where the model's first parameter is.
            chunk_size: samples that share a forward and backward pass; None: as many as suit the device and its
                memory. It changes nothing but the rounding.

        Raises:
            ValueError: there is no batch or an empty one, labels or losses have another shape, type or range, or
                gradients overflow.
        """
        if reduction not in get_args(Reduction):
            raise ValueError(f"Expected reduction to be batch_mean or per_sample, but got {reduction!r}.")
        model = unwrapped(model)
        advise_on_precision(model)
        recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
        cudnn = (
            torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext()
        )  # it has no gradient in eval mode
        with torch.inference_mode(False), torch.enable_grad(), eval_mode(model), cudnn:
            ready = checked(model, batches, loss, device)
            add = _add_batches if reduction == "batch_mean" else _add_samples
            sums, n, n_batches = add(model, ready, loss, chunk_size)
        if n == 0:
            raise ValueError("Expected at least one batch to take importances over, but got none.")
        count = n if reduction == "per_sample" else n_batches
        values = {name: value.div_(count) for name, value in sums.items()}
        return cls(values, n=n, batches=n_batches, reduction=reduction, weights=norm_of(model))

    def without(self, forget: Mapping[str, Tensor]) -> Self:
        """Return the importance of D without D_f, from that of D (this one) and of D_f, a part of D.

        Exact for `per_sample` but for rounding, if both are of the same model.

        Raises:
            ValueError: the reduction is `batch_mean`, `forget` is of no part of D, or other parameters.
        """
        if self.reduction != "per_sample" or not isinstance(forget, Importance):
            raise ValueError(
                "Expected per_sample importances of both, but got others; a mean over batches does not tell "
                "what each sample adds: take it again over the rest."
            )
        check_part(self, forget)
        rest = self.n - forget.n
        if rest == 0:
            raise ValueError(f"Expected D_f to be smaller than D, but got {forget.n} samples of both.")
        values = {
            name: ((self.n / rest) * value - (forget.n / rest) * forget[name].to(value)).clamp_(min=0)
            for name, value in self.items()
        }
        return type(self)(
            values, n=rest, batches=self.batches, reduction=self.reduction, weights=self._common_weights(forget)
        )

    def merged(self, more: "Importance") -> Self:
        """Return the importance over both sets of samples, none of which is in both.

        A sample counts as much as any other (`per_sample`), or a batch as much as any other (`batch_mean`).
        """
        check_alike(self, more)
        mine, other = (i.n if i.reduction == "per_sample" else i.batches for i in (self, more))
        share = other / (mine + other)
        return type(self)(
            {name: (1 - share) * value + share * more[name].to(value) for name, value in self.items()},
            n=self.n + more.n, batches=self.batches + more.batches, reduction=self.reduction,
            weights=self._common_weights(more),
        )  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Write it into a file, which `load` reads."""
        values = {name: value.cpu() for name, value in self.items()}
        facts = {"n": self.n, "batches": self.batches, "reduction": self.reduction, "weights": self.weights}
        torch.save({"values": values, **facts}, path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Return what `save` wrote, on the CPU; nothing in the file is executed."""
        return cls(**torch.load(path, map_location="cpu", weights_only=True))

    def _common_weights(self, other: "Importance") -> float | None:
        return self.weights if self.weights == other.weights else None


def raw_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values under the names of the raw model, as they are if two of these were equal.

    >>> raw_names({"module.conv.weight": 1, "module.conv._orig_mod.bias": 2})
    {'conv.weight': 1, 'conv.bias': 2}
    """
    names = {".".join(part for part in name.split(".") if part not in WRAPPERS): name for name in values}
    return {short: values[name] for short, name in names.items()} if len(names) == len(values) else dict(values)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the raw model inside DataParallel, DistributedDataParallel and torch.compile."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def norm_of(model: nn.Module) -> float:
    """Return the Euclidean norm of all parameters, in float64; it tells a model from itself after a change."""
    with torch.no_grad():
        norms = [torch.linalg.vector_norm(p, dtype=torch.float64).cpu() for p in model.parameters()]
    return float(torch.stack(norms).norm()) if norms else 0.0


def advise_on_precision(model: nn.Module) -> None:
    """Warn if gradients would be taken in half precision."""
    half = sorted({str(p.dtype) for p in model.parameters() if p.requires_grad and p.element_size() < 4})
    if half:
        warnings.warn(
            f"The model is in {' and '.join(half)}: its gradients are rounded to 8 or 11 bits or overflow. Take "
            "importances of copy.deepcopy(model).float(); sums are in float32 either way.", stacklevel=3,
        )  # fmt: skip


def checked(
    model: nn.Module, batches: Iterable[Any], loss: Loss, device: torch.device | str | None
) -> Iterator[Any]:  # fmt: skip
    """Yield the batches on the device, none of them empty; for the default loss, with labels in range."""
    parameter = next(model.parameters(), torch.empty(0))
    if parameter.is_inference():
        raise ValueError("Expected a model built outside of torch.inference_mode, but got one built inside of it.")
    classes = 0
    for batch in batches:
        batch = moved(batch, parameter.device if device is None else device)
        if size_of(batch) == 0:
            raise ValueError("Expected batches of at least one sample, but got an empty one; leave it out.")
        if loss is cross_entropy:
            _, labels = inputs_and_labels(batch)
            check_labels(labels, size_of(batch))
            if not classes:
                with torch.no_grad():
                    classes = predicted(model, cut(batch, slice(1)))[0].shape[1]
            check_range(labels, classes)
        yield batch


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put `model` in eval mode for the body, then every module back in its own, with the buffers that it had."""
    modes = {module: module.training for module in model.modules()}
    buffers = [
        (module._buffers, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for owner, name, buffer, value in buffers:
                if not buffer.is_inference():
                    buffer.copy_(value)
                owner[name] = buffer


@contextmanager
def own_gradients(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Give the parameters no gradient at the start of the body, and the ones they had after it."""
    before = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    try:
        yield parameters
    finally:
        for p, gradient in zip(parameters, before, strict=True):
            p.grad = gradient


Sums = tuple[dict[str, Tensor], int, int]  # of squares, number of samples and of batches


def _add_batches(model: nn.Module, batches: Iterable[Any], loss: Loss, chunk_size: int | None) -> Sums:
    sums, n, n_batches = zero_sums(model), 0, 0
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    with own_gradients([p for _, p in named]) as parameters:
        for batch in batches:
            chunk_size = chunk_size or microbatch_size(model, batch, loss)
            size = 0
            for part in parts_of(batch, chunk_size):
                losses = loss(model, part)
                check_losses(losses, part)
                share = len(losses) / (size_of(batch) or len(losses))
                if losses.requires_grad:
                    (losses.mean() * share).backward()  # adds to the other parts; inputs= would miss checkpoints
                size += len(losses)
            reached = [(sums[name], p.grad.to(sums[name].dtype)) for name, p in named if p.grad is not None]
            if reached:
                totals, gradients = zip(*reached, strict=True)
                torch._foreach_addcmul_(totals, gradients, gradients)  # on a GPU one kernel for all
            for p in parameters:
                p.grad = None
            n, n_batches = n + size, n_batches + 1
    return sums, n, n_batches


def _add_samples(model: nn.Module, batches: Iterable[Any], loss: Loss, chunk_size: int | None) -> Sums:
    squares, sums, n, n_batches = SquaredGradients(model, loss), zero_sums(model), 0, 0
    for batch in batches:
        n, n_batches = n + squares.add_to(sums, batch, chunk_size), n_batches + 1
    return sums, n, n_batches


def check_losses(losses: Any, batch: Any) -> None:
    """Raise ValueError unless there is one loss for each sample of the batch."""
    n = size_of(batch)
    if not isinstance(losses, Tensor) or losses.ndim != 1 or n not in (None, len(losses)):
        got = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise ValueError(f"Expected loss(model, batch) of shape ({n or 'B'},), a loss per sample, but got {got}.")


def check_values(importance: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless every importance is a finite number, at least 0."""
    for name, value in importance.items():
        low, high = value.aminmax() if value.numel() else (value.new_zeros(()),) * 2
        if not 0 <= float(low) <= float(high) < math.inf:
            raise ValueError(
                f"Expected importances to be finite and at least 0, but got {float(low):g} to {float(high):g} for "
                f"{name}; look for an infinite loss, or take gradients in float32."
            )


def check_alike(one: Importance, other: Importance) -> None:
    """Raise ValueError unless both are of the same reduction and of parameters with the same names and shapes."""
    if one.reduction != other.reduction:
        raise ValueError(f"Expected the same reduction, but got {one.reduction} and {other.reduction}.")
    wrong = sorted(name for name in {*one, *other} if name not in one or name not in other)
    wrong += [name for name in one if name in other and one[name].shape != other[name].shape]
    if wrong:
        raise ValueError(f"Expected importances of the same parameters, but they differ in {', '.join(wrong[:5])}.")


def check_part(full: Importance, forget: Importance) -> None:
    """Check that `forget` may be of a part of the samples of `full`.

    Under Eq. 1 and for the same model, I_Df ≤ (N/N_f)·I_D holds for every parameter. An earlier I_D need not obey it
    for a model that was changed since: then this only warns.

    Raises:
        ValueError: it is not.
    """
    check_alike(full, forget)
    if forget.n > full.n:
        raise ValueError(
            f"Expected I_D of D and then I_Df of its part D_f, but got {full.n} samples and then {forget.n}; "
            "give them in the other order."
        )
    if full.reduction != "per_sample":
        return
    ratio = forget.n / full.n
    largest = max((float(value.max()) for value in forget.values() if value.numel()), default=0.0)
    n_above = 0
    for name, value in forget.items():
        if value.numel():
            bound = full[name].to(value)
            slack = OF_TENSOR * max(float(bound.max()), ratio * float(value.max())) + OF_MODEL * ratio * largest
            n_above += int((ratio * value > (1 + ROUNDING) * bound + slack).sum())
    if not n_above:
        return
    text = (
        f"Expected I_Df ≤ (N/N_f)·I_D = {full.n / forget.n:.4g}·I_D, since D contains D_f, but got more for {n_above} "
        "parameters"
    )
    if full.weights is not None and full.weights == forget.weights:
        raise ValueError(
            f"{text}; is the first importance that of D_r, not D? Does the loader change its samples at random? "
            "dict(importance) instead of the first importance skips this check."
        )
    warnings.warn(f"{text}. That is possible for an I_D from before the model changed.", stacklevel=3)
