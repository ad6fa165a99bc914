"""Microbatches: as many samples share a forward and backward pass as memory holds, if they do not see each other."""

import sys

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

CPU_BYTES = 3 * 2**27  # for autograd; a ViT-B/16, its importances and torch itself then stay below 4 GB
GPU_SHARE = 0.25  # of all memory, not of the free part: the same GPU gives the same numbers


def microbatch_size(model: nn.Module, inputs: Tensor) -> int:
    """Return how many samples like the first of `inputs` (B, …) may share a forward and backward pass of `model`.

    There is no limit, `sys.maxsize`, if they must share it: under batch normalisation in train mode the output for
    one sample depends on the others.
    """
    if any(isinstance(module, _BatchNorm) and module.training for module in model.modules()):
        return sys.maxsize
    one = inputs[:1].clone()  # a slice would count as all of `inputs`
    of_a_sample = kept_bytes(model, torch.cat([one, one])) - kept_bytes(model, one)  # weights are kept once
    return max(1, budget(inputs.device) // max(1, of_a_sample))


def kept_bytes(model: nn.Module, inputs: Tensor) -> int:
    """Return the bytes that autograd keeps of a forward pass for the backward pass."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would be held by the graph that it holds, for good

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        _ = model(inputs)  # named, so that nothing is freed and its address used again
    return sum(kept.values())


def budget(device: torch.device) -> int:
    """Return the bytes that autograd may keep on the device."""
    if device.type == "cuda":
        return int(GPU_SHARE * torch.cuda.get_device_properties(device).total_memory)
    return CPU_BYTES
