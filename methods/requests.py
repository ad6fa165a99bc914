"""Several forget requests: each is an ordinary call on the model that the previous one left."""

from dataclasses import replace

from torch import nn

from datasets.base import ForgetSplit
from datasets.seeding import derive_seed
from methods.base import Call, MethodContext, UnlearningMethod


def answer(
    method: UnlearningMethod, model: nn.Module, split: ForgetSplit, context: MethodContext, original: nn.Module
) -> nn.Module:
    """Return the model after the newest of `split.requests`; without requests, after the one call on `split`.

    The first request is the ordinary call. Later ones draw from random streams of their own and cache nothing, because
    a cache belongs to the original model.

    Args:
        model: after the earlier requests; the call may change it.
        context: of the first request, the same for all of them.
        original: before all requests; it is not changed.
    """
    first, *later = split.requests or (split,)
    if not later:
        return method(model, first, context)
    own = replace(
        context,
        seed=derive_seed(context.seed, "request", len(split.requests)),
        first=Call(original, first, context),
        cache=None,
        training_state=None,
    )
    return method(model, later[-1], own)
