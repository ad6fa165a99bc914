"""A batch is a tensor, a tuple, list or mapping of batches, or an object that the user's loss alone understands."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def size_of(batch: Any) -> int | None:
    """Return the length of the first tensor of the batch, which is the number of its samples; None without one."""
    return next((len(tensor) for tensor in leaves(batch) if tensor.ndim), None)


def tensors_of(batch: Any) -> list[Tensor]:
    """Return the tensors of a batch that hold one entry per sample: those as long as the first one."""
    n = size_of(batch)
    return [tensor for tensor in leaves(batch) if tensor.ndim and len(tensor) == n]


def rebuilt(batch: Any, tensors: Iterable[Tensor]) -> Any:
    """Return the batch with others in the place of `tensors_of(batch)`; all else belongs to every sample and stays."""
    n, others = size_of(batch), iter(tensors)
    return converted(batch, lambda tensor: next(others) if tensor.ndim and len(tensor) == n else tensor)


def cut(batch: Any, part: slice | Tensor) -> Any:
    """Return some of the samples."""
    return rebuilt(batch, [tensor[part] for tensor in tensors_of(batch)])


def parts_of(batch: Any, size: int) -> Iterator[Any]:
    """Yield parts of at most `size` samples, or the batch itself if it is not larger or cannot be cut."""
    n = size_of(batch)
    if n is None or n <= size:
        yield batch
    else:
        yield from (cut(batch, slice(start, start + size)) for start in range(0, n, size))


def moved(batch: Any, device: torch.device | str) -> Any:
    """Return the batch on the device, with tensors that autograd may use; call it outside of inference mode."""

    def ready(tensor: Tensor) -> Tensor:
        tensor = tensor.to(device, non_blocking=True)
        return tensor.clone() if tensor.is_inference() else tensor

    return converted(batch, ready)


def leaves(batch: Any) -> Iterator[Tensor]:
    """Yield all tensors of a batch in their order."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping | tuple | list):
        for part in batch.values() if isinstance(batch, Mapping) else batch:
            yield from leaves(part)


def converted(batch: Any, convert: Callable[[Tensor], Tensor]) -> Any:
    """Return a copy of the batch, of the same types, with `convert` applied to its tensors."""
    if isinstance(batch, Tensor):
        return convert(batch)
    if isinstance(batch, Mapping):
        new: Any = copy.copy(batch)  # Hugging Face's type allows batch.labels too
        for name, part in batch.items():
            new[name] = converted(part, convert)
        return new
    if isinstance(batch, tuple | list):
        parts = [converted(part, convert) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch
