"""JiT: make the model flat around the forget set, without labels and without the retain set."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from datasets.base import ForgetSplit
from datasets.values import check_fields
from methods.base import MethodContext
from methods.dampening.microbatch import microbatch_size

SMALLEST = 1e-12  # distance of two images


@dataclass(frozen=True)
class JiT:
    """Minimise the model's local Lipschitz quotient at the samples of D_f: one pass, in their order, by plain SGD.

    Foster, Fogarty, Schoepf, Öztireli and Brintrup, TMLR 2025, arXiv 2402.01401. The loss of a batch is the mean over
    noises n, the sum over samples, of ‖f(x) − f(x̃_n)‖ / ‖x − x̃_n‖ with x̃_n = x + σε, clamped to the batch's range. No
    gradient goes through f(x̃). The authors give no values for ResNet18.

    Attributes:
        noises: N, of each sample.
        sigma: σ, in units of the normalised image.
        mode: of the model; the released code never sets it, so that in `train` running statistics follow the noise.
        accumulate: a step follows the gradients of all batches so far, as the released code, which never clears them.
    """

    lr: Annotated[float, "(0, inf)"]
    sigma: Annotated[float, "(0, inf)"]
    noises: Annotated[int, "[1, inf)"]
    batch_size: Annotated[int, "[1, inf)"]
    mode: Literal["train", "eval"]
    accumulate: bool

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, model: nn.Module, split: ForgetSplit, context: MethodContext) -> nn.Module:
        model.train(self.mode == "train")
        optimizer, random = torch.optim.SGD(model.parameters(), lr=self.lr), context.random("jit")
        optimizer.zero_grad()
        for images, _ in context.batches(split.forget_train, self.batch_size):
            if not self.accumulate:
                optimizer.zero_grad()
            with context.compute.autocast():
                loss = self.add_gradients(model, images, random)
            if not math.isfinite(loss):
                raise FloatingPointError(f"Expected a finite loss, but got {loss}; lower lr (now {self.lr}).")
            optimizer.step()
        optimizer.zero_grad()
        return model.eval()

    def add_gradients(self, model: nn.Module, images: Tensor, random: torch.Generator) -> float:
        """Add the gradients of the loss on a batch, in as many parts as memory asks for; return the loss."""
        others, distances = zip(*(self.look_around(model, images, random) for _ in range(self.noises)), strict=True)
        size, total = microbatch_size(model, images), 0.0
        for at in torch.arange(len(images), device=images.device).split(size):
            outputs = model(images[at]).float()
            quotients = [
                (outputs - other[at]).norm(dim=1) / distance[at]
                for other, distance in zip(others, distances, strict=True)
            ]
            loss = torch.cat(quotients).sum() / self.noises
            loss.backward()
            total += float(loss.detach())
        return total

    @torch.no_grad()
    def look_around(self, model: nn.Module, images: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the outputs (B, K) for images with noise and how far each is from the image, (B,)."""
        noise = torch.randn(images.shape, generator=random, device=images.device)
        noisy = (images + self.sigma * noise).clamp(images.min(), images.max())
        return model(noisy).float(), (images - noisy).flatten(1).norm(dim=1).clamp(min=SMALLEST)
