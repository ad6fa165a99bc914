"""Forget requests one after the other: each is an ordinary call on the model that the last one left."""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from torch import Tensor, nn

from datasets.base import ForgetSplit
from datasets.seeding import derive_seed
from methods.base import Call, MethodContext, UnlearningMethod, image_passes, skip_reason
from methods.training import Recipe


@dataclass(frozen=True)
class Sequential:
    """Apply `method` to each of `split.requests`, oldest first.

    The first call is that of a single run, seed included; the later ones draw from streams of their own. The model
    after every request is remembered, so a sequence that is one request longer costs one call more. The seconds are
    those of the newest request, and of an I_D that is kept, as first measured.
    """

    method: UnlearningMethod

    @property
    def ranked(self) -> bool:
        return bool(getattr(self.method, "ranked", True))

    def __call__(self, model: nn.Module, split: ForgetSplit, context: MethodContext) -> nn.Module:
        model = self._after(model, split.requests, context)
        context.remember("requests", self._key(split.requests, context), lambda: state_of(model))
        return model

    def _after(self, model: nn.Module, requests: Sequence[ForgetSplit], context: MethodContext) -> nn.Module:
        """Return the model after `requests`; `model` is the original and may be changed."""
        *earlier, newest = requests
        if not earlier:
            return self.method(model, newest, context)
        original = copy.deepcopy(model)

        def state_before() -> dict[str, Tensor]:
            booked = dict(context.stopwatch.seconds)
            state = state_of(self._after(copy.deepcopy(original), earlier, context))
            context.stopwatch.seconds = booked  # what the earlier requests took is not the newest one's
            return state

        model.load_state_dict(context.remember("requests", self._key(earlier, context), state_before))
        later = replace(
            context,
            seed=derive_seed(context.seed, "request", len(requests)),
            first=Call(original, requests[0], context),
            memo=None,  # what it keeps belongs to the original model
            progress=None,
        )
        return self.method(model, newest, later)

    def _key(self, requests: Sequence[ForgetSplit], context: MethodContext) -> dict[str, object]:
        """Return what the model after `requests` depends on beside the original model."""
        kind = type(self.method)
        return {
            "method": f"{kind.__module__}.{kind.__name__}",
            "options": asdict(self)["method"],
            "seed": context.seed,
            "forget_sets": [request.forget_fingerprint for request in requests],
        }

    def skip(self, split: ForgetSplit) -> str | None:
        return next((reason for request in split.requests if (reason := skip_reason(self.method, request))), None)

    def cost(self, split: ForgetSplit, recipe: Recipe) -> float:
        """Return the cost of the newest request; the earlier ones are remembered."""
        return image_passes(self.method, split.requests[-1], recipe)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
