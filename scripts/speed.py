"""Measure each step of the suite beside a textbook implementation and beside other libraries, in one process.

    python -m scripts.speed dataset=cifar100 images=10000 test_images=2000 width=64

Options, as key=value, with their defaults:
    dataset=digits               digits | cifar100, whose array file lies in data_dir=$UNLEARN_DATA_DIR or data
    images=1000 test_images=300  a stratified subset
    width=16                     of ResNet18; 64 in the paper
    repeats=5                    measurements of each implementation, after a call that warms up
    threads=0                    0: torch's own choice
    compute=default              default: float32 | fast: training in bfloat16, channels last
    steps=                       only steps whose name starts so, e.g. steps=importance
    out=results/speed

Writes OUT/<device>-<dataset>-<precision>-torch<version>.csv and the same as a Markdown table, and prints the latter.
"""

import sys

if __name__ == "__main__" and {"-h", "--help"} & set(sys.argv[1:]):  # before the import of torch, which takes seconds
    print(__doc__)
    sys.exit()

import copy
import importlib
import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.benchmark import Timer
from torch.utils.data import DataLoader
from torchvision import transforms

from benchmark.cli import describe, run_cli
from benchmark.device import commit, device_name
from benchmark.evaluate import predict
from benchmark.models import build, resnet18
from datasets.base import ForgetSplit, LabelledImages
from datasets.batches import Augmentation, Batches, Preprocessing, channel_statistics
from datasets.cifar import load_cifar10, load_cifar100
from datasets.digits import load_digits
from datasets.seeding import generator
from datasets.splits import class_split, stratified_subset
from methods.dampening.dampen import dampen
from methods.dampening.importance import Reduction, parameter_importance
from methods.fisher import sample_error
from methods.fisher_information import fisher_diagonal
from methods.training import Compute, Recipe, train
from metrics.accuracy import top1_accuracy
from metrics.membership import entropy, fit_attack

Result = dict[str, Tensor]
Way = Callable[[], Result]
Squares = Callable[[Tensor, Tensor], Result]  # (images, labels) -> squared gradients, summed over the images
SAMPLE, LITERAL = 320, 8  # images of training and importances; of Fisher, whose literal loop is slow
BATCH_SIZE, CHUNK = 64, 32  # CHUNK: images whose gradients a library holds at once
ALPHA, ATTACK_C = 8.0, 2.0
ONE_CALL = 1e-6  # seconds; a longer call is timed alone
PLAIN = Recipe.constant("sgd", lr=0.01, momentum=0.9, weight_decay=5e-4, epochs=1, batch_size=BATCH_SIZE)
RECIPE = replace(PLAIN, augmentation=Augmentation(padding=4, flip=True, degrees=15))
OPTIONS: dict[str, Any] = {
    "dataset": "digits", "data_dir": os.environ.get("UNLEARN_DATA_DIR", "data"), "images": 1000, "test_images": 300,
    "width": 16, "repeats": 5, "threads": 0, "compute": "default", "steps": "", "out": "results/speed",
}  # fmt: skip
CAPTION = "Median [least, largest] seconds; ratio: the other's time over ours; the difference is relative."
SECONDS = ("seconds", "other_seconds")
CHOICES = {"dataset": ("digits", "cifar10", "cifar100"), "compute": ("default", "fast")}


@dataclass(frozen=True)
class Step:
    """Implementations of the same work, `amount` units of it; each of `ours` is compared with each of `others`."""

    amount: int
    ours: dict[str, Way]
    others: dict[str, Way]
    unit: str = "images"
    compared: Callable[[], tuple[Result, Result]] | None = None  # both results, if the timed ones differ by intent


@dataclass(frozen=True)
class Setup:
    """The problem: a split and a model that was trained for one epoch."""

    split: ForgetSplit
    sample: LabelledImages
    preprocessing: Preprocessing
    compute: Compute
    model: nn.Module


def parsed(words: Iterable[str]) -> SimpleNamespace:
    """Return the options that key=value words give."""
    options = dict(OPTIONS)
    for name, _, value in (word.partition("=") for word in words):
        if name not in options:
            raise ValueError(f"Expected options to be some of {', '.join(options)}, but got {name!r}.")
        if value not in CHOICES.get(name, (value,)):
            raise ValueError(f"Expected {name} to be {' or '.join(CHOICES[name])}, but got {value!r}.")
        if isinstance(OPTIONS[name], int) and not (value.isdigit() and (int(value) or name == "threads")):
            raise ValueError(f"Expected {name} to be a whole number above 0, but got {value!r}.")
        options[name] = type(OPTIONS[name])(value)
    return SimpleNamespace(**options)


def set_up(options: SimpleNamespace) -> Setup:
    """Set threads and arithmetic as a run of the suite does, and return the problem."""
    device, fast = torch.device("cuda" if torch.cuda.is_available() else "cpu"), options.compute == "fast"
    torch.set_num_threads(options.threads or torch.get_num_threads())
    torch.set_flush_denormal(True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    compute = Compute(device, "bfloat16" if fast else "float32", channels_last=fast)
    whole = {
        "digits": lambda: load_digits("fine"),
        "cifar10": lambda: load_cifar10(options.data_dir),
        "cifar100": lambda: load_cifar100(options.data_dir, "fine"),
    }[options.dataset]()
    subset = stratified_subset(whole, train_images=options.images, test_images=options.test_images, seed=0)
    data = subset.to(device)
    preprocessing = Preprocessing(*channel_statistics(data.train))
    model = compute.place(build(partial(resnet18, width=options.width), len(data.class_names), 0))
    random = generator("speed", device=device)
    train(model, data.train, RECIPE, preprocessing=preprocessing, random=random, compute=compute)
    sample = data.train.subset(torch.randperm(len(data.train), generator=random, device=device)[:SAMPLE])
    return Setup(class_split(data, target=0), sample, preprocessing, compute, model)


def steps_of(s: Setup) -> list[Step]:
    """Return the steps; nothing is computed before it is measured."""
    split, everything = s.split, s.split.retain_train.join(s.split.forget_train)
    few, batch = (
        s.sample.subset(torch.arange(len(s.sample), device=s.compute.device)[:n]) for n in (LITERAL, BATCH_SIZE)
    )
    images = len(everything) + len(split.retain_test) + len(split.forget_test)
    full, forget = (partial(importance, s, data, "batch_mean") for data in (everything, split.forget_train))
    kept, kept_forget = cache(full), cache(forget)
    libraries: dict[str, Way] = {name: partial(library_importance, s, cache(make)) for name, make in LIBRARIES.items()}
    again, plain_again = copy.deepcopy(s.model), copy.deepcopy(s.model)  # dampened repeatedly: always the same work

    def cell(full: Way) -> Result:
        return evaluation(s, dampened(copy.deepcopy(s.model), full(), forget()))

    def plain_cell() -> Result:
        full, forget = plain_importance(s, everything), plain_importance(s, split.forget_train)
        return plain_evaluation(s, plain_dampened(copy.deepcopy(s.model), full, forget))

    def one_step() -> tuple[Result, Result]:
        return training(s, batch, PLAIN, precision="float32"), plain_training(s, batch, PLAIN)

    return [
        Step(
            len(s.sample), {"training": lambda: training(s, s.sample, RECIPE)},
            {"textbook": lambda: plain_training(s, s.sample, RECIPE)}, compared=one_step,
        ),
        Step(
            images, {"evaluation and attack": lambda: evaluation(s, s.model)},
            {"textbook": lambda: plain_evaluation(s, s.model)},
        ),
        Step(
            len(s.sample), {"importance batch_mean": lambda: importance(s, s.sample, "batch_mean")},
            {"textbook": lambda: plain_importance(s, s.sample)},
        ),
        Step(
            len(s.sample), {"importance per_sample": lambda: importance(s, s.sample, "per_sample")},
            {"textbook": lambda: plain_importance(s, s.sample, 1)} | libraries,
        ),
        Step(
            images, {"SSD cell": lambda: cell(full), "SSD cell, I_D kept": lambda: cell(kept)},
            {"textbook": plain_cell},
        ),
        Step(
            sum(p.numel() for p in s.model.parameters()),
            {"dampening": lambda: dict(dampened(again, kept(), kept_forget()).named_parameters())},
            {"textbook": lambda: dict(plain_dampened(plain_again, kept(), kept_forget()).named_parameters())},
            unit="parameters",
        ),
        Step(
            len(few), {f"Fisher, tolerance {error:g}": partial(information, s, few, error) for error in (0.0, 1e-3)},
            {"textbook": lambda: plain_information(s, few)},
        ),
    ]  # fmt: skip


def training(s: Setup, data: LabelledImages, recipe: Recipe, **changes: Any) -> Result:
    """Return the parameters after an epoch; `changes` are of `Compute`."""
    model, random = copy.deepcopy(s.model), generator("training", device=data.device)
    compute = replace(s.compute, **changes)
    train(model, data, recipe, preprocessing=s.preprocessing, random=random, compute=compute)
    return dict(model.named_parameters())


def evaluation(s: Setup, model: nn.Module) -> Result:
    """Return both accuracies and the attack's share, from one pass over each part of the split."""
    retain_train, retain, forget_train, forget = (
        predict(model, data, s.preprocessing, 100)
        for data in (s.split.retain_train, s.split.retain_test, s.split.forget_train, s.split.forget_test)
    )
    attack = fit_attack(entropy(retain_train), entropy(torch.cat([retain, forget])), c=ATTACK_C)
    share = attack.predict(entropy(forget_train).numpy()[:, None]).mean()
    accuracy = partial(top1_accuracy, averaging="per_sample", batch_size=BATCH_SIZE)
    values = accuracy(retain, s.split.retain_test.labels.cpu()), accuracy(forget, s.split.forget_test.labels.cpu())
    return {"metrics": torch.tensor([*values, share])}


def importance(s: Setup, data: LabelledImages, reduction: Reduction) -> Result:
    return parameter_importance(s.model, Batches(data, BATCH_SIZE, s.preprocessing), reduction=reduction)


def dampened(model: nn.Module, full: Result, forget: Result) -> nn.Module:
    dampen(model, full, forget, alpha=ALPHA, lam=1.0)
    return model


def information(s: Setup, data: LabelledImages, tolerance: float) -> Result:
    """Return the Fisher information in one vector, each image with the error that it may have among all of D_r."""
    error, random = sample_error(tolerance, len(s.split.retain_train)), generator("fisher", device=data.device)
    found = fisher_diagonal(s.model, Batches(data, BATCH_SIZE, s.preprocessing), error=error, random=random)
    return {"all": torch.cat([value.flatten() for value in found.values()])}


def loader(s: Setup, data: LabelledImages, size: int, recipe: Recipe = PLAIN) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of a data loader that transforms image by image; it shuffles if it augments."""
    steps: list[Any] = [transforms.ToTensor(), transforms.Normalize(s.preprocessing.mean, s.preprocessing.std)]
    if recipe.augmentation is not None:
        crop = transforms.RandomCrop(data.storage.shape[1], padding=recipe.augmentation.padding)
        turn = transforms.RandomRotation(recipe.augmentation.degrees)
        steps = [crop, transforms.RandomHorizontalFlip(), turn, *steps]
    transform = transforms.Compose(steps)

    def collate(pairs: list[tuple[Any, int]]) -> tuple[Tensor, Tensor]:
        return torch.stack([transform(Image.fromarray(x)) for x, _ in pairs]), torch.tensor([y for _, y in pairs])

    pairs: Any = list(zip(data.storage[data.index].cpu().numpy(), data.labels.tolist(), strict=True))
    for images, labels in DataLoader(pairs, size, shuffle=recipe.augmentation is not None, collate_fn=collate):
        yield images.to(s.compute.device), labels.to(s.compute.device)


def plain_training(s: Setup, data: LabelledImages, recipe: Recipe) -> Result:
    model = copy.deepcopy(s.model).to(memory_format=torch.contiguous_format).train()
    optimizer = torch.optim.SGD(model.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
    for images, labels in loader(s, data, recipe.batch_size, recipe):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        loss.item()  # the running loss that a progress bar shows
    return dict(model.named_parameters())


@torch.no_grad()
def plain_evaluation(s: Setup, model: nn.Module) -> Result:
    """Return the same metrics from a pass for each, the attack's probabilities image by image."""

    def accuracy(data: LabelledImages) -> float:
        return float(torch.cat([model(x).argmax(dim=1) == y for x, y in loader(s, data, BATCH_SIZE)]).double().mean())

    def entropies(data: LabelledImages) -> Tensor:
        probabilities = [torch.softmax(model(x), dim=1).cpu() for x, _ in loader(s, data, 1)]
        found: Tensor = torch.special.entr(torch.cat(probabilities).double()).sum(dim=1)
        return found

    test = s.split.retain_test.join(s.split.forget_test)
    attack = fit_attack(entropies(s.split.retain_train), entropies(test), c=ATTACK_C)
    share = attack.predict(entropies(s.split.forget_train).numpy()[:, None]).mean()
    return {"metrics": torch.tensor([accuracy(s.split.retain_test), accuracy(s.split.forget_test), share])}


def plain_importance(s: Setup, data: LabelledImages, size: int = BATCH_SIZE) -> Result:
    """Return the mean over batches of the squared gradient of the mean loss; Eq. 1 with batches of one image."""
    sums = {name: torch.zeros_like(p) for name, p in s.model.named_parameters()}
    for images, labels in loader(s, data, size):
        gradients = torch.autograd.grad(F.cross_entropy(s.model(images), labels), list(s.model.parameters()))
        for total, gradient in zip(sums.values(), gradients, strict=True):
            total += gradient.square()
    return {name: value / math.ceil(len(data) / size) for name, value in sums.items()}


@torch.no_grad()
def plain_dampened(model: nn.Module, full: Result, forget: Result) -> nn.Module:
    for name, p in model.named_parameters():
        chosen = (forget[name] > ALPHA * full[name]).nonzero(as_tuple=True)
        p[chosen] *= (full[name][chosen] / forget[name][chosen]).clamp(max=1)
    return model


def plain_information(s: Setup, data: LabelledImages) -> Result:
    """Return (1/N) Σ_x Σ_y p(y|x)·(∂CE(x, y)/∂θ)² by one backward pass per image and class."""
    parameters, total = list(s.model.parameters()), torch.zeros((), device=data.device)
    for image, _ in loader(s, data, 1):
        for log_p in F.log_softmax(s.model(image), dim=1)[0]:
            gradients = torch.autograd.grad(log_p, parameters, retain_graph=True)
            total = total + log_p.detach().exp() * torch.cat([g.flatten() for g in gradients]).square()
    return {"all": total / len(data)}


def torch_func(model: nn.Module) -> Squares:
    fixed, free = dict(model.named_buffers()), {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters: Result, image: Tensor, label: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, parameters | fixed, (image[None],))
        return F.cross_entropy(logits, label[None])

    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    return lambda images, labels: {n: g.square().sum(dim=0) for n, g in gradients(free, images, labels).items()}


def opacus(model: nn.Module) -> Squares:
    """Leaves out the parameters of batch normalisation, which Opacus does not take."""
    library, model = importlib.import_module("opacus"), copy.deepcopy(model).train()  # no gradients in eval mode
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval().requires_grad_(False)
    wrapped: Any = library.GradSampleModule(model, strict=False, loss_reduction="sum")

    def squares(images: Tensor, labels: Tensor) -> Result:
        wrapped.zero_grad()
        F.cross_entropy(wrapped(images), labels, reduction="sum").backward()
        found: dict[str, Any] = {name: p for name, p in model.named_parameters() if p.requires_grad}
        return {name: p.grad_sample.square().sum(dim=0) for name, p in found.items()}

    return squares


def backpack(model: nn.Module) -> Squares:
    library, extensions = (importlib.import_module(name) for name in ("backpack", "backpack.extensions"))
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # the library's hooks need values that would be overwritten
    wrapped, loss = library.extend(model, use_converter=True), library.extend(nn.CrossEntropyLoss(reduction="sum"))

    def squares(images: Tensor, labels: Tensor) -> Result:
        wrapped.zero_grad()
        with library.backpack(extensions.SumGradSquared()):
            loss(wrapped(images), labels).backward()
        return {name: p.sum_grad_squared for name, p in wrapped.named_parameters()}

    return squares


LIBRARIES = {"torch.func": torch_func, "opacus": opacus, "backpack": backpack}


def library_importance(s: Setup, make: Callable[[nn.Module], Squares]) -> Result:
    """Return the importance by Eq. 1 from a library's gradients of single images."""
    sums: Result = {}
    with warnings.catch_warnings(action="ignore"):
        for images, labels in Batches(s.sample, CHUNK, s.preprocessing):
            squares = make(s.model)(images.contiguous(), labels)  # Opacus is wrong about images in channels-last
            for name, value in squares.items():
                sums[name] = sums[name] + value if name in sums else value
    return {name: value / len(s.sample) for name, value in sums.items()}


def measure(step: Step, repeats: int) -> Iterator[dict[str, Any]]:
    """Yield a row per pair of implementations; each repeat takes all in turn, so that a slow minute hits all."""
    results, missing, seconds = dict[str, Result](), dict[str, str](), dict[str, list[float]]()
    ways = step.ours | step.others
    for name in [*ways] * repeats:
        if name in missing:
            continue
        names = {"results": results, "name": name, "way": ways[name]}
        timer = Timer("results[name] = way()", globals=names, num_threads=torch.get_num_threads())
        try:  # the timer calls once to warm up, and waits for a GPU
            seconds.setdefault(name, []).extend(timer.blocked_autorange(min_run_time=ONE_CALL).times)
        except Exception as error:
            if name not in LIBRARIES:
                raise
            missing[name] = "not installed" if isinstance(error, ImportError) else describe(error)
    for ours, other in product(step.ours, step.others):
        row: dict[str, Any] = {"step": ours, "unit": step.unit, "amount": step.amount, "n": repeats}
        row |= spread("seconds", seconds[ours]) | {"per_second": step.amount / median(seconds[ours])}
        row |= {"beside": other, "missing": missing.get(other, "")}
        if other not in missing:
            both = step.compared() if step.compared else (results[ours], results[other])
            row |= spread("other_seconds", seconds[other])
            row |= {"ratio": row["other_seconds"] / row["seconds"], "largest_difference": largest_difference(*both)}
        yield row


def spread(name: str, values: list[float]) -> dict[str, Any]:
    return {name: median(values), f"{name}_min": min(values), f"{name}_max": max(values)}


def largest_difference(found: Result, expected: Result) -> float:
    """Return the largest ‖found − expected‖ / ‖expected‖ of a tensor that both have; absolute if ‖expected‖ is 0."""
    pairs = [(found[n].detach().double(), expected[n].detach().double()) for n in found.keys() & expected.keys()]
    return max(float((a - b).norm()) / (float(b.norm()) or 1.0) for a, b in pairs)


def markdown(frame: pd.DataFrame) -> str:
    """Return the table for people."""
    lines = ["| Step | Throughput | Seconds | Beside | Seconds | Ratio | Largest difference |", f"|{' --- |' * 7}"]
    for row in frame.to_dict("records"):
        ours, other = (f"{row[n]:.3g} [{row[f'{n}_min']:.3g}, {row[f'{n}_max']:.3g}]" for n in SECONDS)
        found = [other, f"{row['ratio']:.2g}", f"{row['largest_difference']:.0e}"]
        cells = [row["step"], f"{row['per_second']:,.0f} {row['unit']}/s", ours, row["beside"]]
        lines.append(f"| {' | '.join(cells + ([row['missing'], '–', '–'] if row['missing'] else found))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read the command line, measure, write both files after each step, print the table."""
    options = parsed(sys.argv[1:])
    s, rows, text = set_up(options), list[dict[str, Any]](), ""
    conditions = {name: getattr(options, name) for name in ("dataset", "images", "test_images", "width")}
    conditions |= {"device": device_name(s.compute.device), "threads": torch.get_num_threads()}
    conditions |= {"precision": s.compute.precision, "torch": torch.__version__.partition("+")[0]}
    conditions |= dict(zip(("commit", "dirty"), commit(), strict=True))
    name = "{device}-{dataset}-{precision}-torch{torch}".format_map(conditions).lower()
    path = Path(options.out) / f"{re.sub('[^a-z0-9.]+', '-', name)}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    for step in steps_of(s):
        if any(ours.startswith(options.steps) for ours in step.ours):
            rows += measure(step, options.repeats)
            frame = pd.DataFrame(rows)
            frame.assign(**conditions).to_csv(path, index=False, float_format="%.6g")
            text = f"ResNet18; {', '.join(f'{name} {value}' for name, value in conditions.items())}. {CAPTION}\n\n"
            text += markdown(frame)
            path.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    run_cli(main)
