"""LFSSD: SSD by the gradient of the output's norm, without labels."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from datasets.base import ForgetSplit, LabelledImages
from methods.base import Call, MethodContext
from methods.dampening import dampen
from methods.dampening.microbatch import microbatch_size
from methods.dampening.per_sample import zero_sums
from methods.ssd import SSD, ordered


@dataclass(frozen=True)
class LFSSD(SSD):
    """Dampen as SSD does, with the importance |∂‖f(x)‖²/∂θ| in the place of the squared gradient of the loss.

    Foster, Schoepf and Brintrup, "Loss-Free Machine Unlearning", ICLR 2024 Tiny Papers, arXiv 2402.19308. `batch_mean`
    is the text's, the mean over batches of |∂ mean_x ‖f(x)‖²/∂θ|; `per_sample` takes the mean over samples.
    """

    def __call__(self, model: nn.Module, split: ForgetSplit, context: MethodContext) -> nn.Module:
        first = (context.first if self.importance == "kept" else None) or Call(model, split, context)
        importance = first.context.remember(
            "importance_full", self._importance_key(first.split, first.context), lambda: self._of_all(first)
        )
        forget_importance = context.remember(
            "importance_forget", self._forget_key(split), lambda: self._importance(model, split.forget_train, context)
        )
        dampen(model, importance, forget_importance, alpha=self.alpha, lam=self.lam)
        return model.eval()

    def _of_all(self, call: Call) -> dict[str, Tensor]:
        data = ordered(call.split, self.order, call.context.random("importance order"))
        return self._importance(call.model, data, call.context)

    def _importance(self, model: nn.Module, data: LabelledImages, context: MethodContext) -> dict[str, Tensor]:
        return absolute_gradients(model, self._batches(data, context), per_sample=self.reduction == "per_sample")

    def _importance_key(self, split: ForgetSplit, context: MethodContext) -> dict[str, object]:
        return super()._importance_key(split, context) | {"objective": "output_norm"}

    def _forget_key(self, split: ForgetSplit) -> dict[str, object]:
        return super()._forget_key(split) | {"objective": "output_norm"}


def absolute_gradients(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, per_sample: bool
) -> dict[str, Tensor]:
    """Return the mean over batches, or over samples, of |∂ mean_x ‖f(x)‖²/∂θ| for every named parameter θ."""
    sums, n = zero_sums(model.eval()), 0
    for images, _ in batches:
        size = microbatch_size(model, images)
        for group in images.split(1 if per_sample else len(images)):
            model.zero_grad(set_to_none=True)
            for part in group.split(size):
                (model(part).square().sum() / len(group)).backward()
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    sums[name] += parameter.grad.abs()
            n += 1
    model.zero_grad(set_to_none=True)
    return {name: value / n for name, value in sums.items()}
