"""Microbatches: as many samples share a forward and backward pass as memory holds, if they do not see each other."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .batches import cut, leaves, size_of

CPU_BYTES = 3 * 2**27  # for autograd; a ViT-B/16, its importances and torch itself then stay below 4 GB
GPU_SHARE = 0.25  # of all memory, not of the free part: the same GPU gives the same numbers

Forward = Callable[[nn.Module, Any], Any]


def call(model: nn.Module, batch: Any) -> Any:
    return model(batch)


def mixing_layer(model: nn.Module) -> str | None:
    """Return the name of a layer under which the output for one sample depends on the others, or None."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            return name or type(module).__name__
    return None


def microbatch_size(model: nn.Module, batch: Any, forward: Forward = call) -> int:
    """Return how many samples like the first of `batch` may share a forward and backward pass of `model`.

    There is no limit, `sys.maxsize`, if they must share it: under batch normalisation in train mode, or without
    running statistics, the output for one sample depends on the others, and a batch of an unknown type cannot be cut.

    Args:
        batch: inputs (B, …), or anything that `forward` takes.
        forward: (model, batch) -> what is to be differentiated; by default the model's outputs for a tensor.
    """
    if mixing_layer(model) is not None or not size_of(batch):
        return sys.maxsize
    one, two = (
        cut(batch, torch.zeros(n, dtype=torch.long)) for n in (1, 2)
    )  # copies: a slice would count as the whole
    of_a_sample = kept_bytes(model, two, forward) - kept_bytes(model, one, forward)  # weights are kept once
    return max(1, budget(next(leaves(batch)).device) // max(1, of_a_sample))


def kept_bytes(model: nn.Module, batch: Any, forward: Forward = call) -> int:
    """Return the bytes that autograd keeps of a forward pass for the backward pass."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would be held by the graph that it holds, for good

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        _ = forward(model, batch)  # named, so that nothing is freed and its address used again
    return sum(kept.values())


def budget(device: torch.device) -> int:
    """Return the bytes that autograd may keep on the device."""
    if device.type == "cuda":
        return int(GPU_SHARE * torch.cuda.get_device_properties(device).total_memory)
    return CPU_BYTES
