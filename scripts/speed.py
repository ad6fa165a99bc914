"""Measure each step of the suite beside a textbook implementation and beside other libraries, in one process.

    python -m scripts.speed                                              # digits, narrow network: minutes
    python -m scripts.speed dataset=cifar100 images=10000 test_images=2000 width=64
    python -m scripts.speed steps=importance                             # some of the steps
    python -m scripts.speed dataset=cifar10 compute=fast images=12800 steps=training,
    python -m scripts.speed threads=1 repeats=10 out=runs/speed

Options, as key=value, with their defaults:
    images=1000 test_images=300  a stratified subset
    width=16                     of ResNet18; 64 in the paper
    threads=null                 null: torch's own choice
    repeats=5                    measurements of each implementation, after a call that warms up
    steps=                       only steps whose name starts so, e.g. steps=importance
    out=results/speed

Every other key=value is one of `python -m benchmark.run`: dataset=, data_dir=, compute=fast.
Writes OUT/<device>-<dataset>-width<width>-<precision>-torch<version>.csv and the same as a Markdown table, which it
prints too.
"""

import sys

if __name__ == "__main__" and {"-h", "--help"} & set(sys.argv[1:]):  # before the import of torch, which takes seconds
    print(__doc__)
    sys.exit()

import copy
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from itertools import product
from pathlib import Path
from statistics import median
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
from benchmark.compose import cells_of
from benchmark.device import commit, device_name, set_up
from benchmark.evaluate import evaluate
from benchmark.report.typeset import Grid, show
from benchmark.resolvers import whole_number
from benchmark.workbench import Workbench
from datasets.base import LabelledImages
from datasets.batches import Augmentation, Batches
from datasets.seeding import generator
from methods.dampening.dampen import dampen
from methods.dampening.importance import Importance, Reduction
from methods.fisher import sample_error
from methods.fisher_information import fisher_diagonal
from methods.training import Recipe, train
from metrics.membership import fit_attack
from scripts.zoo import CHUNK, LIBRARIES, Case, Squares

Result = dict[str, Tensor]
Way = Callable[[], Result]
SAMPLE, LITERAL = 320, 8  # images of training and importances; of Fisher, whose literal loop is slow
BATCH_SIZE = 64
ALPHA, ATTACK_C = 8.0, 2.0
ONE_CALL = 1e-6  # seconds; a longer call is timed alone
PLAIN = Recipe.constant("sgd", lr=0.01, momentum=0.9, weight_decay=5e-4, epochs=1, batch_size=BATCH_SIZE)
RECIPE = replace(PLAIN, augmentation=Augmentation(padding=4, flip=True, degrees=15))
OPTIONS = {"images": "1000", "test_images": "300", "width": "16", "threads": "null"}
KEYS = {
    "images": "dataset.subset.train_images", "test_images": "dataset.subset.test_images", "width": "model.width",
    "threads": "compute.threads",
}  # fmt: skip
OWN = {"repeats": "5", "steps": "", "out": "results/speed"}
METRICS = ("retain_accuracy", "forget_accuracy", "mia")
CAPTION = "Median [least, largest] seconds; ratio: the other's time over ours; the difference is relative."
HEAD = ("Step", "Throughput", "Seconds", "Beside", "Seconds", "Ratio", "Largest difference")


@dataclass(frozen=True)
class Step:
    """Implementations of the same work, `amount` units of it; each of `ours` is compared with each of `others`."""

    amount: int
    ours: dict[str, Way]
    others: dict[str, Way]
    unit: str = "images"
    compared: Callable[[], tuple[Result, Result]] | None = None  # both results, if the timed ones differ by intent


class Setup(Workbench):
    """The problem: a split, and a model that was trained for one epoch."""

    @cached_property
    def model(self) -> nn.Module:
        return train(
            self.build_model(0), self.dataset.train, RECIPE, preprocessing=self.preprocessing, compute=self.compute,
            random=generator("speed", device=self.device),
        )  # fmt: skip

    @cached_property
    def plain_model(self) -> nn.Module:
        """The same in torch's own memory layout, for the other implementations."""
        return copy.deepcopy(self.model).to(memory_format=torch.contiguous_format)

    def sample(self, n: int) -> LabelledImages:
        """Return the first training images, which no class orders."""
        return self.dataset.train.subset(torch.arange(min(n, len(self.dataset.train)), device=self.device))


def parsed(words: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the options of this script and, by key, those of a run."""
    given = dict(word.partition("=")[::2] for word in words)
    own = {name: given.pop(name, value) for name, value in OWN.items()}
    options = OPTIONS | given
    for name in ("repeats", "images", "test_images"):
        if whole_number(name, value := (own | options)[name]) < 1:
            raise ValueError(f"Expected {name} to be at least 1, but got {value}.")
    return own, {KEYS.get(name, name): value for name, value in options.items()}


def steps_of(s: Setup) -> list[Step]:
    """Return the steps; nothing is computed before it is measured."""
    split, everything = s.split, s.split.retain_train.join(s.split.forget_train)
    sample, few = s.sample(SAMPLE), s.sample(LITERAL)
    images = len(everything) + len(split.retain_test) + len(split.forget_test)
    full, forget = (partial(importance, s, data, "batch_mean") for data in (everything, split.forget_train))
    kept, kept_forget = cache(full), cache(forget)
    libraries: dict[str, Way] = {name: partial(library_importance, s, sample, name) for name in LIBRARIES}
    again, plain_again = copy.deepcopy(s.model), copy.deepcopy(s.plain_model)  # dampened repeatedly: the same work

    def cell(full: Way) -> Result:
        return evaluation(s, dampened(copy.deepcopy(s.model), full(), forget()))

    def plain_cell() -> Result:
        full, forget = plain_importance(s, everything), plain_importance(s, split.forget_train)
        return plain_evaluation(s, plain_dampened(copy.deepcopy(s.plain_model), full, forget))

    def one_step() -> tuple[Result, Result]:
        batch = s.sample(BATCH_SIZE)
        return training(s, batch, PLAIN, precision="float32"), plain_training(s, batch, PLAIN)

    def epoch(**changes: Any) -> Result:
        """Return all parameters after an epoch in one vector."""
        recipe = replace(RECIPE, batch_size=2 * BATCH_SIZE)  # as in profile=narrow
        return {"all": torch.cat([p.flatten() for p in training(s, everything, recipe, **changes).values()])}

    kernels = Step(
        len(everything), {"training, own kernels": epoch},
        {
            "torch's kernels": partial(epoch, fused=False),
            "torch's in float32": partial(epoch, fused=False, precision="float32"),
        },
    )  # fmt: skip
    return [
        *([kernels] if s.compute.fused else []),
        Step(
            len(sample), {"training": lambda: training(s, sample, RECIPE)},
            {"textbook": lambda: plain_training(s, sample, RECIPE)}, compared=one_step,
        ),
        Step(
            images, {"evaluation and attack": lambda: evaluation(s, s.model)},
            {"textbook": lambda: plain_evaluation(s, s.plain_model)},
        ),
        Step(
            len(sample), {"importance batch_mean": lambda: importance(s, sample, "batch_mean")},
            {"textbook": lambda: plain_importance(s, sample)},
        ),
        Step(
            len(sample), {"importance per_sample": lambda: importance(s, sample, "per_sample")},
            {"textbook": lambda: plain_importance(s, sample, 1)} | libraries,
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
    model, random = copy.deepcopy(s.model), generator("training", device=s.device)
    compute = replace(s.compute, **changes)
    train(model, data, recipe, preprocessing=s.preprocessing, random=random, compute=compute)
    return dict(model.named_parameters())


def evaluation(s: Setup, model: nn.Module) -> Result:
    """Return both accuracies and the attack's share, from one pass over each part of the split."""
    outputs = evaluate(model, s.split, s.preprocessing, batch_size=s.eval_batch_size, facts={})
    return {"metrics": torch.tensor([s.metrics[name](outputs) for name in METRICS], dtype=torch.float64)}


def importance(s: Setup, data: LabelledImages, reduction: Reduction) -> Result:
    return dict(Importance.of(s.model, Batches(data, BATCH_SIZE, s.preprocessing), reduction=reduction))


def dampened(model: nn.Module, full: Result, forget: Result) -> nn.Module:
    dampen(model, full, forget, alpha=ALPHA, lam=1.0)
    return model


def information(s: Setup, data: LabelledImages, tolerance: float) -> Result:
    """Return the Fisher information in one vector, each image with the error that it may have among all of D_r."""
    error, random = sample_error(tolerance, len(s.split.retain_train)), generator("fisher", device=s.device)
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
        yield images.to(s.device), labels.to(s.device)


def plain_training(s: Setup, data: LabelledImages, recipe: Recipe) -> Result:
    model = copy.deepcopy(s.plain_model).train()
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
    model = s.plain_model
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for images, labels in loader(s, data, size):
        gradients = torch.autograd.grad(F.cross_entropy(model(images), labels), list(model.parameters()))
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
    parameters, total = list(s.plain_model.parameters()), torch.zeros((), device=s.device)
    for image, _ in loader(s, data, 1):
        for log_p in F.log_softmax(s.plain_model(image), dim=1)[0]:
            gradients = torch.autograd.grad(log_p, parameters, retain_graph=True)
            total = total + log_p.detach().exp() * torch.cat([g.flatten() for g in gradients]).square()
    return {"all": total / len(data)}


@cache
def squares_by(s: Setup, library: str) -> Squares:
    """Return what gives the squared gradients of a batch, summed over its images; ImportError without the library."""
    return LIBRARIES[library](Case(s.plain_model, None))


def library_importance(s: Setup, sample: LabelledImages, library: str) -> Result:
    """Return the importance by Eq. 1 from a library's gradients of single images."""
    sums: Result = {}
    with warnings.catch_warnings(action="ignore"):
        for images, labels in Batches(sample, CHUNK, s.preprocessing):
            plain = images.contiguous()  # Opacus is wrong about images in channels-last
            squares = squares_by(s, library)((plain, labels))
            for name, value in squares.items():
                sums[name] = sums[name] + value if name in sums else value
    return {name: value / len(sample) for name, value in sums.items()}


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


def shown(row: dict[str, Any]) -> list[str]:
    """Return the row for people."""
    if row["missing"]:
        others = [row["missing"], "–", "–"]
    else:
        others = [interval(row, "other_seconds"), f"{row['ratio']:.2g}", f"{row['largest_difference']:.0e}"]
    return [row["step"], f"{row['per_second']:,.0f} {row['unit']}/s", interval(row, "seconds"), row["beside"], *others]


def interval(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:.3g} [{row[f'{name}_min']:.3g}, {row[f'{name}_max']:.3g}]"


def main() -> None:
    """Read the command line, measure, write both files after each step, print the table."""
    own, options = parsed(sys.argv[1:])
    (cell,) = cells_of(
        ["task.target=0", *(f"{key}={value}" for key, value in options.items()), "compute.compile=false"]
    )
    s, compute = Setup(cell), set_up(cell.config.compute)
    conditions: dict[str, Any] = {"dataset": cell.labels["dataset"]} | {name: options[KEYS[name]] for name in KEYS}
    conditions |= {"device": device_name(compute.device), "threads": torch.get_num_threads()}
    conditions |= {"precision": compute.precision, "torch": torch.__version__.partition("+")[0]}
    conditions |= dict(zip(("commit", "dirty"), commit(), strict=True))
    name = "{device}-{dataset}-width{width}-{precision}-torch{torch}".format_map(conditions).lower()
    path = Path(own["out"]) / f"{re.sub('[^a-z0-9.]+', '-', name)}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, text = list[dict[str, Any]](), ""
    for step in steps_of(s):
        if any(ours.startswith(own["steps"]) for ours in step.ours):
            rows += measure(step, int(own["repeats"]))
            pd.DataFrame(rows).assign(**conditions).to_csv(path, index=False, float_format="%.6g")
            text = f"ResNet18; {', '.join(f'{name} {value}' for name, value in conditions.items())}. {CAPTION}\n\n"
            text += Grid(HEAD, list(map(shown, rows)), "lrrlrrr").markdown()
            path.with_suffix(".md").write_text(text, "utf-8")
    show(text)


if __name__ == "__main__":
    run_cli(main)
