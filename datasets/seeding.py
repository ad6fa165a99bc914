"""Seeds derived from names, so that no two uses of randomness share a stream by accident."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(*parts: object) -> int:
    """Return a seed in [0, 2^63) that depends on every part and on their order.

    >>> derive_seed("forget", "cifar10", 0) == derive_seed("forget", "cifar10", 0)
    True
    >>> derive_seed("forget", 1) == derive_seed("forget", "1")
    False
    """
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*parts: object, device: "torch.device | str" = "cpu") -> "torch.Generator":
    """Return a generator on `device`, seeded by `derive_seed(*parts)`; the global state is not touched."""
    import torch  # late: names of runs need seeds, but no torch

    return torch.Generator(device=device).manual_seed(derive_seed(*parts))
