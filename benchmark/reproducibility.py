"""Device and determinism of a run, resolved once from the configuration."""

import os

import torch
from omegaconf import DictConfig


def resolve_device(config: DictConfig) -> torch.device:
    """Return where to compute; `device: auto` takes the GPU where there is one.

    Fixes the number of threads where `threads` is given and asks torch for deterministic kernels where they exist; the
    backward pass of attention on a GPU has none.
    """
    name = str(config.device)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"Expected compute.device to be auto, cpu or cuda[:i], but got {name!r}.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"Expected a CUDA device for compute.device={name}, but there is none; use compute.device=cpu."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"Expected compute.device to be one of {torch.cuda.device_count()} CUDA devices, but got {name}."
        )
    for option, smallest in (("threads", config.threads), ("eval_batch_size", config.get("eval_batch_size"))):
        if smallest is not None and not (isinstance(smallest, int) and smallest >= 1):
            raise ValueError(f"Expected compute.{option} to be a whole number from 1 on, but got {smallest!r}.")
    if config.precision not in ("float32", "bfloat16"):
        raise ValueError(f"Expected compute.precision to be float32 or bfloat16, but got {config.precision!r}.")
    for option in ("compile", "tf32", "channels_last"):
        if not isinstance(config.get(option, False), bool) and (option, config[option]) != ("compile", "auto"):
            raise ValueError(f"Expected compute.{option} to be true or false, but got {config[option]!r}.")
    torch.set_flush_denormal(True)  # memorised training sets leave subnormal gradients: slow on a CPU
    if config.threads is not None:
        torch.set_num_threads(int(config.threads))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.get("tf32", False)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a memset an operation
    torch.backends.cudnn.benchmark = False
    return device
