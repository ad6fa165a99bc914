"""ASSD: SSD with the threshold that the sizes of the forget set and the data give."""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from datasets.base import ForgetSplit
from methods.base import Call, MethodContext
from methods.dampening import Importance, dampen, percentile_alpha
from methods.ssd import SSD


@dataclass(frozen=True)
class ASSD(SSD):
    """Dampen as SSD does with λ = 1 and the α above which ln(1 + 100·N_f/N) percent of all I_Df/I_D lie.

    Schoepf, Foster and Brintrup, arXiv 2402.10098. Ratios that are not finite do not count; with many equal ones fewer
    are selected. I_D and I_Df are those of SSD, and shared with it.

    Attributes:
        over: I_D is of D, or of D_r as in the released code.
    """

    alpha: float = field(init=False, default=1.0)  # follows from the importances
    lam: float = field(init=False, default=1.0)
    over: Literal["all", "retain"] = field(kw_only=True)

    def __call__(self, model: nn.Module, split: ForgetSplit, context: MethodContext) -> nn.Module:
        first = context.first if self.importance == "kept" else None
        importance = self._importance_of_all(first or Call(model, split, context))

        def make() -> dict[str, Tensor]:
            return self._importance(model, split.forget_train, context)

        make.__module__ = SSD.__module__  # the code behind it is SSD's, so that the artefact is too
        forget_importance = context.remember("importance_forget", self._forget_key(split), make)
        dampen(model, importance, forget_importance, alpha=alpha_of(importance, forget_importance, split), lam=self.lam)
        return model.eval()

    def _importance_of_all(self, call: Call) -> dict[str, Tensor]:
        if self.over == "all":
            return super()._importance_of_all(call)
        retain, forget_set = call.split.retain_train, call.split.forget_fingerprint
        key = self._importance_key(call.split, call.context) | {"over": self.over, "forget_set": forget_set}
        return call.context.remember("importance_full", key, lambda: self._importance(call.model, retain, call.context))


def alpha_of(importance: dict[str, Tensor], forget_importance: dict[str, Tensor], split: ForgetSplit) -> float:
    """Return the α of ASSD; ValueError if D_f reaches too few parameters."""
    n_forget = len(split.forget_train)
    sizes = n_forget + len(split.retain_train), n_forget
    full, forget = (  # as means over batches, which are not checked to be of a set and its part: they need not be
        Importance(values, n=n, batches=1, reduction="batch_mean")
        for values, n in zip((importance, forget_importance), sizes, strict=True)
    )
    return percentile_alpha(full, forget)
