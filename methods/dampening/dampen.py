"""Selection and dampening: Eq. 3 and 4 of Foster, Schoepf and Brintrup, AAAI 2024."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from .importance import Importance, check_part, check_values, raw_names


class Part(NamedTuple):
    """What happened to one parameter: flat indices of its selected entries, their values before and after."""

    size: int
    indices: Tensor
    before: Tensor
    after: Tensor
    mean_beta: float | None  # None if nothing of it is selected

    @property
    def selected(self) -> int:
        """How many entries were selected."""
        return len(self.indices)


@dataclass(frozen=True)
class Change:
    """What `dampen` did to each parameter, and how to take it back; print it for a table.

    Attributes:
        parts: by the name of the parameter in the raw model.
    """

    alpha: float
    lam: float
    parts: dict[str, Part]

    @property
    def selected(self) -> int:
        """How many entries of all parameters were selected."""
        return sum(part.selected for part in self.parts.values())

    def __str__(self) -> str:
        width = max(map(len, (*self.parts, "parameter")))
        rows = [(name, part) for name, part in self.parts.items() if part.selected]
        lines = [f"{name:{width}} {p.selected:11,} {p.size:13,} {p.mean_beta:10.4f}" for name, p in rows]
        size = sum(part.size for part in self.parts.values())
        head = f"{'parameter':{width}} {'selected':>11} {'of':>13} {'mean beta':>10}"
        return "\n".join([head, *lines, f"{'all':{width}} {self.selected:11,} {size:13,}"])

    @torch.no_grad()
    def undo(self, model: nn.Module) -> None:
        """Give the model the values from before, bit for bit.

        Raises:
            ValueError: it is not the model that was dampened, or was changed since; nothing is written then.
        """
        parameters = raw_names(dict(model.named_parameters()))
        for name, part in self.parts.items():
            parameter = parameters.get(name)
            if (
                parameter is None
                or (parameter.numel(), parameter.dtype) != (part.size, part.after.dtype)
                or not torch.equal(parameter.take(part.indices.to(parameter.device)).cpu(), part.after.cpu())
            ):
                raise ValueError(
                    f"Expected the model as this change left it, but got another {name}; undo later changes first."
                )
        for name, part in self.parts.items():
            _write(parameters[name], part.indices, part.before)

    def save(self, path: str | Path) -> None:
        """Write it into a file, which `load` reads. Who has the file can undo the unlearning: delete it in time."""
        parts = {
            name: (p.size, *(t.cpu() for t in (p.indices, p.before, p.after)), p.mean_beta)
            for name, p in self.parts.items()
        }
        torch.save({"alpha": self.alpha, "lam": self.lam, "parts": parts}, path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Return what `save` wrote, on the CPU; nothing in the file is executed."""
        saved = torch.load(path, map_location="cpu", weights_only=True)
        parts = {name: Part(*part) for name, part in saved["parts"].items()}
        return cls(saved["alpha"], saved["lam"], parts)


def dampen(
    model: nn.Module, importance: Mapping[str, Tensor], forget_importance: Mapping[str, Tensor], *,
    alpha: float, lam: float = 1.0,
) -> Change:  # fmt: skip
    """Dampen in place the parameters that matter more for the forget set; return what was changed.

    Selection (Eq. 3): I_Df > α·I_D, strictly. Dampening (Eq. 4): θ ← βθ with β = min(λ·I_D / I_Df, 1). Algorithm 1
    would skip negative weights; as in the released code the clamp is on β. Buffers are not touched. All is checked
    before anything is changed. A warning says so if nothing is selected.

    Args:
        importance: I_D, the importance of each named parameter over the whole training set D, not D_r. Plain tensors
            by name will do; from an `Importance` it is checked that it may be of D.
        forget_importance: I_Df, over the forget set.
        alpha: selection threshold, > 0; a larger one selects a subset.
        lam: dampening constant λ, > 0; with λ ≤ α every selected parameter has β < λ/α and the clamp is inactive.

    Raises:
        ValueError: α or λ is not above 0, an importance is missing, of no parameter, of another shape, negative,
            infinite or not a number, or I_D cannot be of a set that contains D_f.
    """
    alpha, lam = positive("alpha", alpha), positive("lam", lam)
    parameters = raw_names(dict(model.named_parameters()))
    full, forget = (_ready(i, parameters) for i in (importance, forget_importance))
    if isinstance(importance, Importance) and isinstance(forget_importance, Importance):
        check_part(importance, forget_importance)
    with torch.no_grad():
        parts = {name: _part(p, full[name], forget[name], alpha, lam) for name, p in parameters.items()}
        for name, part in parts.items():
            _write(parameters[name], part.indices, part.after)
    change = Change(alpha, lam, parts)
    if not change.selected:
        warnings.warn(_nothing(importance, forget_importance, full, forget, alpha), stacklevel=2)
    return change


def _ready(importance: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the importances on the parameters' devices, after a check of their names, shapes and values."""
    importance = raw_names(importance)
    wrong = [f"{name} is missing" for name in parameters if name not in importance]
    wrong += [f"the model has no parameter {name}" for name in importance if name not in parameters]
    wrong += [
        f"{name} is {tuple(importance[name].shape)}, not {tuple(p.shape)}"
        for name, p in parameters.items()
        if name in importance and importance[name].shape != p.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(f"Expected an importance of every named parameter, but {'; '.join(wrong[:5])}{more}.")
    check_values(importance)
    dtypes = {name: torch.promote_types(value.dtype, torch.float32) for name, value in importance.items()}
    return {name: importance[name].to(p.device, dtypes[name]) for name, p in parameters.items()}


def _part(parameter: Tensor, full: Tensor, forget: Tensor, alpha: float, lam: float) -> Part:
    index = (forget > alpha * full).flatten().nonzero().squeeze(1)
    before = parameter.take(index)
    beta = (lam * full.take(index) / forget.take(index)).clamp_(max=1)
    after = (before * beta).to(before.dtype)
    return Part(parameter.numel(), index, before, after, float(beta.mean()) if len(index) else None)


def _write(parameter: Tensor, indices: Tensor, values: Tensor) -> None:
    """Write values at flat indices; `put_` does the same, but torch does not call it deterministic."""
    indices, values = indices.to(parameter.device), values.to(parameter.device)
    parameter.copy_(parameter.flatten().index_copy(0, indices, values).view(parameter.shape))


def _nothing(
    importance: Mapping[str, Tensor], forget_importance: Mapping[str, Tensor],
    full: Mapping[str, Tensor], forget: Mapping[str, Tensor], alpha: float,
) -> str:  # fmt: skip
    """Return why nothing may have been selected, and below which α something is."""
    ratios = (torch.nan_to_num(forget[name] / full[name], nan=0.0) for name in full if full[name].numel())
    largest = max((float(ratio.max()) for ratio in ratios), default=0.0)
    text = f"Nothing is selected: α = {alpha:.4g}, and the largest I_Df/I_D is {largest:.4g}"
    if isinstance(importance, Importance) and isinstance(forget_importance, Importance):
        share = importance.n / forget_importance.n
        if importance.reduction == "per_sample":
            text += f"; D contains D_f, so it is at most N/N_f = {share:.4g}, which α has to stay below"
    return f"{text}."


def positive(name: str, value: Any) -> float:
    """Return a number of Python, NumPy or torch as a float; ValueError unless it is finite and above 0."""
    number = value.item() if getattr(value, "ndim", None) == 0 else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not (math.isfinite(number) and number > 0):
        raise ValueError(f"Expected {name} to be a finite number above 0, but got {value!r}.")
    return float(number)
