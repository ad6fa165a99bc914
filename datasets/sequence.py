"""Several forget requests, one after the other, as one split."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, reduce

from datasets.base import ForgetSplit, ImageDataset, LabelledImages


def sequence_split(
    dataset: ImageDataset, make_split: Callable[..., ForgetSplit], targets: Sequence[str | int]
) -> ForgetSplit:
    """Return the split after the last of several requests, with the requests themselves.

    Its forget part is everything forgotten so far, in the order of the requests; its retain part what is left. Each
    request is an ordinary split of what the earlier ones left: it forgets the newest target alone, and what was
    forgotten before is in none of its parts.

    Args:
        make_split: `make_split(dataset, target=…)`, as the configuration of the class and subclass tasks gives it.
        targets: names or indices, oldest request first.

    Raises:
        ValueError: for a task without targets, no target, an unknown one, one that is named twice, and where nothing
            would be left.
    """
    if not isinstance(make_split, partial) or "target" not in make_split.keywords:
        raise ValueError("Expected a task with a target for a sequence of requests; use task=class or task=subclass.")
    requests: list[ForgetSplit] = []
    left = dataset
    for target in targets:
        name = make_split(dataset, target=target).forget_target
        if name in [request.forget_target for request in requests]:
            raise ValueError(f"Expected every target of requests.targets once, but got {name!r} twice; remove one.")
        request = make_split(left, target=target)
        requests.append(request)
        left = replace(left, train=request.retain_train, test=request.retain_test)
    if not requests:
        raise ValueError("Expected requests.targets to name at least one target, but got none.")
    return replace(
        requests[-1],
        forget_train=reduce(LabelledImages.join, (request.forget_train for request in requests)),
        forget_test=reduce(LabelledImages.join, (request.forget_test for request in requests)),
        forget_target="+".join(request.forget_target for request in requests),
        requests=tuple(requests),
    )


def first_targets(targets: Sequence[str | int], n: int | None) -> list[str | int]:
    """Return the first `n` targets, all of them for None; ValueError where there are not so many."""
    if n is not None and not 1 <= n <= len(targets):
        raise ValueError(
            f"Expected requests.n to be in 1 … {len(targets)}, the number of requests.targets, but got {n}."
        )
    return list(targets[:n])
