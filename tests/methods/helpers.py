"""What the tests of the methods share: composed configurations, a tiny digits split, a tiny network, a context."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from hydra import compose
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from benchmark.cell import without_about
from benchmark.compose import CONFIGS, initialised
from benchmark.models import build
from datasets.base import ForgetSplit, ImageDataset, LabelledImages
from datasets.batches import Preprocessing
from datasets.digits import load_digits
from datasets.splits import class_split, confusion_split, random_split, stratified_subset, subclass_split
from methods.base import MethodContext, UnlearningMethod
from methods.timing import Stopwatch
from methods.training import Compute, Recipe
from tests.conftest import TinyCNN

METHODS = sorted(path.stem for path in Path(CONFIGS, "method").glob("*.yaml"))
DEVICE = torch.device("cpu")
COMPUTE = Compute(DEVICE, "float32", channels_last=False)
PREPROCESSING = Preprocessing((0.3, 0.3, 0.3), (0.4, 0.4, 0.4))
RECIPE = Recipe.constant("adam", lr=1e-3, epochs=1, batch_size=32)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny_net(seed: int, num_classes: int = 20, *, pretrained: bool = True) -> nn.Module:
    return build(partial(TinyCNN, stride=4), num_classes, seed).eval()


def tiny_vit(seed: int, num_classes: int = 4) -> nn.Module:
    """Return timm's smallest useful ViT: 8×8 images, two blocks."""
    from timm.models import VisionTransformer

    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
    return build(lambda n: VisionTransformer(num_classes=n, **sizes), num_classes, seed).eval()


def compose_config(*overrides: str):
    with initialised():
        return compose("run", ["dataset=digits", "data_dir=.", *overrides])


@cache
def compose_methods(*overrides: str) -> dict[str, UnlearningMethod]:
    """Return each method as a run with these overrides composes it; methods are frozen, so tests may share them.

    Hydra composes them all at once, side by side, in the time of a few.
    """
    config = compose_config(*overrides, *(f"+method@beside.{name}={name}" for name in METHODS))
    OmegaConf.set_struct(config, False)
    beside, found = config.pop("beside"), {}
    for name in METHODS:
        config.method = beside[name]  # where its file's own references find it
        node = without_about(config.method)
        node.pop("other", None)  # seeds of another run, no option of the method
        found[name] = instantiate(node)
    return found


@cache
def tiny_data(task: str, n_train: int = 120) -> ImageDataset:
    """Return a few real digits."""
    digits = load_digits("coarse" if task == "subclass" else "fine")
    return stratified_subset(digits, train_images=n_train, test_images=40, seed=0)


@cache
def tiny_split(task: str, n_train: int = 120) -> ForgetSplit:
    """Return a split of a few digits: forget upright_6, upright_9 in its superclass, 12 random or 4 swapped ones."""
    few = tiny_data(task, n_train)
    match task:
        case "class":
            return class_split(few, target="6")
        case "subclass":
            return subclass_split(few, target="9")
        case "confusion":
            return confusion_split(few, target=["3", "8"], n=2, seed=0)
    return random_split(few, n=12, seed=0)


def make_context(build_model: Callable[..., nn.Module], *, seed: int = 3) -> MethodContext:
    return MethodContext(
        seed=seed, compute=COMPUTE, preprocessing=PREPROCESSING, recipe=RECIPE, build_model=build_model,
        stopwatch=Stopwatch(DEVICE),
    )  # fmt: skip


@contextmanager
def left_alone(model: nn.Module) -> Iterator[None]:
    """Fail if the body changes a weight, a buffer, a mode or what requires a gradient, or leaves a gradient behind."""

    def flags() -> list[bool]:
        return [x.training for x in model.modules()] + [p.requires_grad for p in model.parameters()]

    before, flags_before = copy.deepcopy(model.state_dict()), flags()
    yield
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert flags() == flags_before
    assert all(p.grad is None for p in model.parameters())


def in_batches(inputs: Tensor, labels: Tensor, size: int = 4) -> list[tuple[Tensor, Tensor]]:
    return list(zip(inputs.split(size), labels.split(size), strict=True))


def literal_importance(model: nn.Module, losses: Iterable[Tensor]) -> dict[str, Tensor]:
    """Return the mean of the squared gradients of single losses, by a backward pass for every one."""
    named = dict(model.named_parameters())
    gradients = [torch.autograd.grad(loss, list(named.values()), retain_graph=True) for loss in losses]
    return {name: torch.stack(of).square().mean(dim=0) for name, *of in zip(named, *gradients, strict=True)}


def assert_same(ours: Mapping[str, Tensor], expected: Mapping[str, Tensor], **tolerance: float) -> None:
    torch.testing.assert_close(dict(ours), dict(expected), **({"rtol": 1e-4, "atol": 1e-9} | tolerance))


def literal_information(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Return the Fisher information by a backward pass for every sample and class, as in the released code."""
    named = dict(model.named_parameters())
    result = {name: torch.zeros_like(p) for name, p in named.items()}
    for sample in inputs:
        logits = model(sample.unsqueeze(0))
        probabilities = logits.softmax(dim=1)[0].detach()
        for label, p in enumerate(probabilities):
            loss = F.cross_entropy(logits, torch.tensor([label]))
            gradients = torch.autograd.grad(loss, list(named.values()), retain_graph=True)
            for name, gradient in zip(named, gradients, strict=True):
                result[name] += p * gradient.square() / len(inputs)
    return result


class Poisoned(Tensor):
    """A tensor of which only type, shape and place can be asked; a look at its values fails."""

    ALLOWED = frozenset(getattr(Tensor, name).__get__ for name in ("dtype", "ndim", "shape", "device"))

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func not in cls.ALLOWED:
            raise AssertionError("a method read what it may not see")
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


def poison(data: LabelledImages) -> LabelledImages:
    poisoned = copy.copy(data)
    for name in ("storage", "index", "labels", "fine_labels"):
        if (value := getattr(data, name)) is not None:
            object.__setattr__(poisoned, name, value.as_subclass(Poisoned))
    return poisoned
