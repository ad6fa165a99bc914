"""Shared fixtures: a tiny data set with superclasses, a tiny network and a context on the CPU."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from datasets.base import ForgetSplit, ImageDataset, LabelledImages
from datasets.batches import Preprocessing
from datasets.splits import class_split
from methods.base import MethodContext
from methods.timing import Stopwatch
from methods.training import Compute, Recipe

torch.set_num_threads(1)  # on tiny networks more threads are slower, and workers of xdist would share the cores
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start

SIZE = 8
FINE_CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox")
CLASSES = ("insect", "pet", "wild")


class TinyCNN(nn.Module):
    """Convolution, batch normalisation, linear head."""

    def __init__(self, num_classes: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4 * 4, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(images)))
        return self.fc(torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))

    def get_classifier(self) -> nn.Module:
        return self.fc


class Touching:
    """A pickle of it, loaded carelessly, makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Networks that a test builds start from the same weights in every run, and commands leave no variables behind."""
    torch.manual_seed(0)
    with patch.dict(os.environ):
        yield


@pytest.fixture
def make_cnn() -> Callable[..., nn.Module]:
    """seed -> a freshly initialised network, pretrained or not; the global random state is left alone."""

    def make(seed: int = 0, *, pretrained: bool = True) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return TinyCNN(len(CLASSES))

    return make


@pytest.fixture
def cnn(make_cnn: Callable[..., nn.Module]) -> nn.Module:
    """A network as if it had been trained: no parameter or running statistic at its initial value."""
    model = make_cnn(1)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in [*model.parameters(), model.norm.running_mean, model.norm.running_var]:
            tensor += 0.2 * torch.rand(tensor.shape, generator=noise) + 0.01
    return model.eval()


@pytest.fixture
def dataset() -> ImageDataset:
    """60 training and 30 test images, 6 fine classes in 3 classes, equally frequent, in mixed order."""
    noise = torch.Generator().manual_seed(0)

    def part(n: int) -> LabelledImages:
        fine = torch.arange(n)[torch.randperm(n, generator=noise)] % len(FINE_CLASSES)
        images = torch.randint(0, 120, (n, SIZE, SIZE, 3), generator=noise)
        images += 20 * fine.view(-1, 1, 1, 1)  # something to learn
        return LabelledImages.from_tensors(images.to(torch.uint8), fine // 2, fine)

    return ImageDataset("tiny", part(60), part(30), CLASSES, FINE_CLASSES, "0" * 64)


@pytest.fixture
def split(dataset: ImageDataset) -> ForgetSplit:
    return class_split(dataset, target="pet")


@pytest.fixture
def preprocessing() -> Preprocessing:
    return Preprocessing((0.4, 0.45, 0.5), (0.2, 0.25, 0.3))


@pytest.fixture
def compute() -> Compute:
    return Compute(torch.device("cpu"), "float32", channels_last=False)


@pytest.fixture
def recipe() -> Recipe:
    return Recipe.constant("sgd", lr=0.05, epochs=2, batch_size=16, momentum=0.9, weight_decay=5e-4)


@pytest.fixture
def context(
    compute: Compute, preprocessing: Preprocessing, recipe: Recipe, make_cnn: Callable[..., nn.Module]
) -> MethodContext:
    return MethodContext(
        seed=0, compute=compute, preprocessing=preprocessing, recipe=recipe, build_model=make_cnn,
        stopwatch=Stopwatch(compute.device),
    )  # fmt: skip


@pytest.fixture
def global_rng_untouched() -> Iterator[None]:
    """Fail a test that leaves any global random state other than it found it."""
    before = torch.get_rng_state(), repr(np.random.get_state()), random.getstate()  # noqa: NPY002
    yield
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (repr(np.random.get_state()), random.getstate()) == before[1:]  # noqa: NPY002


@pytest.fixture(scope="session")
def array_dir() -> Path:
    """The folder with the real array files; skips where there is none."""
    folder = os.environ.get("UNLEARN_DATA_DIR")
    if not folder:
        pytest.skip("UNLEARN_DATA_DIR is not set: no real data")
    missing = [name for name in ("cifar10.npz", "cifar100.npz") if not (Path(folder) / name).is_file()]
    if missing:
        pytest.skip(f"$UNLEARN_DATA_DIR holds no {', '.join(missing)}")
    return Path(folder)
