"""The textbook way of every step, to compare the suite with: a torchvision-style data set and a DataLoader."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from datasets.base import ForgetSplit, LabelledImages
from datasets.batches import Augmentation, Preprocessing
from methods.training import Recipe
from metrics.membership import fit_attack


class PlainImages(Dataset):
    """Pairs of an image, transformed one by one as torchvision's data sets do, and its label."""

    def __init__(self, data: LabelledImages, preprocessing: Preprocessing, augmentation: Augmentation | None = None):
        self.pixels = data.storage[data.index].cpu().numpy()
        self.labels = data.labels.tolist()
        steps: list[Callable[..., object]] = []
        if augmentation is not None:
            steps.append(transforms.RandomCrop(self.pixels.shape[1], padding=augmentation.padding))
            steps.extend([transforms.RandomHorizontalFlip()] if augmentation.flip else [])
            steps.append(transforms.RandomRotation(augmentation.degrees))
        steps += [transforms.ToTensor(), transforms.Normalize(preprocessing.mean, preprocessing.std)]
        if preprocessing.size is not None:
            steps.append(transforms.Resize((preprocessing.size, preprocessing.size), antialias=True))
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[position])), self.labels[position]


@dataclass(frozen=True)
class Textbook:
    """The textbook ways with their common options; models are used in float32 and torch's default layout."""

    device: torch.device
    preprocessing: Preprocessing
    batch_size: int
    workers: int

    def loader(self, data: LabelledImages, batch_size: int | None = None) -> DataLoader:
        return DataLoader(
            PlainImages(data, self.preprocessing), batch_size or self.batch_size, num_workers=self.workers
        )

    def train(self, model: nn.Module, data: LabelledImages, recipe: Recipe, *, shuffle: bool = True) -> None:
        """Train one epoch by SGD."""
        images = PlainImages(data, self.preprocessing, recipe.augmentation)
        loader = DataLoader(images, recipe.batch_size, shuffle=shuffle, num_workers=self.workers)
        optimizer = torch.optim.SGD(model.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
        model.train()
        for x, labels in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x.to(self.device)), labels.to(self.device))
            loss.backward()
            optimizer.step()
            loss.item()  # the running loss that a progress bar shows
        model.eval()

    @torch.no_grad()
    def accuracy(self, model: nn.Module, data: LabelledImages, *, per_batch: bool) -> float:
        """Return the share of correct samples, or the mean of the batches' shares."""
        shares, sizes = [], []
        for images, labels in self.loader(data):
            predicted = model(images.to(self.device)).argmax(dim=1).cpu()
            shares.append(float((predicted == labels).double().mean()))
            sizes.append(1 if per_batch else len(labels))
        return sum(share * n for share, n in zip(shares, sizes, strict=True)) / sum(sizes)

    @torch.no_grad()
    def entropies(self, model: nn.Module, data: LabelledImages) -> Tensor:
        """Return the entropy of each prediction, image by image, (N,) float64."""
        probabilities = [torch.softmax(model(x.to(self.device)), dim=1).cpu() for x, _ in self.loader(data, 1)]
        return torch.special.entr(torch.cat(probabilities).double()).sum(dim=1)

    def evaluate(self, model: nn.Module, split: ForgetSplit, *, per_batch: bool, c: float) -> dict[str, Tensor]:
        """Return the accuracies on D_r and D_f and the attack's share, one pass over the images for each."""
        test = split.retain_test if split.forget_test_is_train else split.retain_test.join(split.forget_test)
        attack = fit_attack(self.entropies(model, split.retain_train), self.entropies(model, test), c=c)
        predicted = attack.predict(self.entropies(model, split.forget_train).numpy()[:, None])
        values = {
            "retain_accuracy": self.accuracy(model, split.retain_test, per_batch=per_batch),
            "forget_accuracy": self.accuracy(model, split.forget_test, per_batch=per_batch),
            "mia": float(predicted.mean()),
        }
        return {name: torch.tensor(value) for name, value in values.items()}

    def importance(self, model: nn.Module, data: LabelledImages, batch_size: int | None = None) -> dict[str, Tensor]:
        """Return the mean over batches of the squared gradient of the mean loss; Eq. 1 with a batch size of 1."""
        return importance_of(model, self.loader(data, batch_size), self.device)


def importance_of(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device
) -> dict[str, Tensor]:
    """Return the importance by the plain loop over `batches`."""
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    count = 0
    for images, labels in batches:
        model.zero_grad()
        F.cross_entropy(model(images.to(device)), labels.to(device)).backward()
        for name, p in model.named_parameters():
            if p.grad is not None:
                sums[name] += p.grad.detach() ** 2
        count += 1
    model.zero_grad()
    return {name: value / count for name, value in sums.items()}


@torch.no_grad()
def dampen(
    model: nn.Module, full: Mapping[str, Tensor], forget: Mapping[str, Tensor], *, alpha: float, lam: float
) -> None:
    """Dampen by gathering the selected weights of each tensor and writing them back."""
    for name, p in model.named_parameters():
        chosen = (forget[name] > alpha * full[name]).nonzero(as_tuple=True)
        factors = (lam * full[name][chosen] / forget[name][chosen]).clamp(max=1)
        p[chosen] = p[chosen] * factors
