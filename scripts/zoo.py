"""Importances (Eq. 1) of many kinds of models: right, or refused; beside a plain loop and other libraries.

    python -m scripts.zoo                                 # 32 samples
    python -m scripts.zoo > results/speed-models/dampening-models.md
    python -m scripts.zoo seconds=5                       # steadier times
    python -m scripts.zoo only=resnet18,vit               # some of the models
    python -m scripts.zoo only=resnet18 samples=512

Options, as key=value, with their defaults:
    samples=32   in batches of 32
    seconds=0    for which each way is repeated, at least once after a call that warms up
    only=        names of models, separated by commas

Rows of transformers and peft and columns of Opacus and BackPACK say "not installed" without these packages. Weights are
random; nothing is downloaded.
"""

import sys

if __name__ == "__main__" and {"-h", "--help"} & set(sys.argv[1:]):  # before the import of torch, which takes seconds
    print(__doc__)
    sys.exit()

import copy
import ctypes
import importlib
import math
import os
import resource
import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from statistics import median
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from benchmark.cli import run_cli
from benchmark.device import device_name
from benchmark.report.typeset import Grid
from methods.dampening import Importance
from methods.dampening.batches import parts_of, rebuilt, tensors_of
from methods.dampening.importance import raw_names, unwrapped
from methods.dampening.layer_squares import in_float32
from methods.dampening.loss import Loss, cross_entropy
from methods.dampening.per_sample import SquaredGradients, zero_sums

Result = dict[str, Tensor]
Squares = Callable[[Any], Result]  # a batch -> squared gradients, summed over its samples
CLASSES, PIXELS, TOKENS, WORDS, WIDTH = 10, 64, 16, 100, 32
CHUNK = 32  # samples whose gradients a library holds at once
MIB = 2**20
WRONG = 0.01  # relative
LIMIT = 30  # seconds for both calls of a library


@dataclass
class Case:
    """A model in eval mode and a batch for it."""

    model: nn.Module
    batch: Any
    loss: Loss = cross_entropy


class Text(nn.Module):
    """Embedded words, layers, the mean over time, a head."""

    def __init__(self, layers: nn.Module, *, time_first: bool = False, masked: bool = False) -> None:
        super().__init__()
        self.embed, self.layers, self.head = nn.Embedding(WORDS, WIDTH, 0), layers, nn.Linear(WIDTH, CLASSES)
        self.time_first, self.masked = time_first, masked

    def forward(self, ids: Tensor) -> Any:
        x = self.embed(ids)
        if self.masked:
            x = self.layers(x, src_key_padding_mask=ids == 0)
        elif isinstance(self.layers, nn.LSTM | nn.GRU):
            x = self.layers(x.transpose(0, 1))[0].transpose(0, 1) if self.time_first else self.layers(x)[0]
        else:
            x = self.layers(x)
        return self.head(x.mean(dim=1))


class Bag(nn.Module):
    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        self.embed, self.head = nn.EmbeddingBag(WORDS, 32, sparse=sparse), nn.Linear(32, CLASSES)

    def forward(self, ids: Tensor) -> Any:
        return self.head(self.embed(ids).tanh())


class Tied(nn.Module):
    """The head is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(WORDS, 32), nn.Linear(32, 32), nn.Linear(32, WORDS, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Any:
        return self.head(self.mix(self.embed(ids)).tanh().mean(dim=1))


class Branch(nn.Module):
    """Computes what the values of a sample decide, with a number that leaves torch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Any:
        x = self.first(x)
        scale = torch.from_numpy(1 / (1 + abs(x.detach().numpy()).max(axis=1, keepdims=True)))
        return torch.stack([self.second(row.tanh() if float(row.detach().sum()) > 0 else row) for row in x * scale])


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.layers, self.head, self.reentrant = mlp(64, 64), nn.Linear(CLASSES, CLASSES), reentrant

    def forward(self, x: Tensor) -> Any:
        return self.head(checkpoint(self.layers, x.requires_grad_(self.reentrant), use_reentrant=self.reentrant))


def mlp(*widths: int) -> nn.Sequential:
    layers = ([nn.Linear(a, b), nn.ReLU()] for a, b in pairwise(widths))
    return nn.Sequential(*chain.from_iterable(layers)).append(nn.Linear(widths[-1], CLASSES))


def small_cnn(norm: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), norm or nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(4),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES),
    )  # fmt: skip


def labels(n: int) -> Tensor:
    return torch.arange(n) % CLASSES


def images(model: nn.Module, n: int, dtype: torch.dtype = torch.float32) -> Case:
    inputs = torch.randn(n, 3, PIXELS, PIXELS)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # one pass gives the statistics, without which values vanish from layer to layer
    with torch.no_grad():
        model.train()(inputs)
    return Case(model.to(dtype).eval(), (inputs.to(dtype), labels(n)))


def of_timm(name: str, n: int) -> Case:
    sized = {"img_size": PIXELS} if name.startswith(("vit", "deit", "swin", "mixer")) else {}
    return images(timm.create_model(name, num_classes=CLASSES, **sized), n)


def of_torchvision(name: str, n: int, **options: Any) -> Case:
    return images(torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **options), n)


def vectors(model: Any, n: int, width: int = 64) -> Case:
    return Case(model.eval(), (torch.randn(n, width), labels(n)))


def words(model: nn.Module, n: int) -> Case:
    ids = torch.randint(1, WORDS, (n, TOKENS))
    ids[::3, TOKENS // 2 :] = 0  # padding
    return Case(model.eval(), (ids, labels(n)))


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 64, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def frozen_backbone(n: int) -> Case:
    case = of_torchvision("resnet18", n)
    case.model.requires_grad_(False)
    case.model.get_submodule("fc").requires_grad_(True)
    return case


def regression(n: int) -> Case:
    def squared_error(model: nn.Module, batch: Any) -> Any:
        return (model(batch[0]).mean(dim=1) - batch[1]).square()

    return Case(mlp(64, 64).eval(), (torch.randn(n, 64), torch.randn(n)), squared_error)


def parametrized() -> nn.Module:
    model = small_cnn()
    parametrizations.orthogonal(model[-1])
    return model


def hugging_face(name: str, n: int) -> Case:
    library = importlib.import_module("transformers")
    sizes = {"BERT": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}}
    sizes |= {"GPT-2": {"n_embd": 32, "n_layer": 2, "n_head": 2}}
    kind = {"BERT": "Bert", "GPT-2": "GPT2"}[name]
    config = getattr(library, f"{kind}Config")(vocab_size=WORDS, pad_token_id=0, num_labels=CLASSES, **sizes[name])
    model = getattr(library, f"{kind}ForSequenceClassification")(config)
    case = words(model, n)
    ids = case.batch[0]
    return Case(case.model, {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels(n)})


def lora(n: int) -> Case:
    case, peft = hugging_face("BERT", n), importlib.import_module("peft")
    config = peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"])
    case.model = peft.get_peft_model(case.model, config).eval()
    with torch.no_grad():
        for name, p in case.model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.1)  # zeros at first, under which the other factor has no gradient
    return case


def jitted(n: int) -> Case:
    with warnings.catch_warnings(action="ignore"):
        return vectors(torch.jit.script(mlp(64, 64).eval()), n)


TIMM = (
    "resnet18", "resnet50d", "mobilenetv3_small_100", "efficientnet_b0", "convnext_atto", "vit_tiny_patch16_224",
    "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "mixer_s16_224", "regnety_004", "densenet121",
)  # fmt: skip
MODELS: dict[str, Callable[[int], Case]] = {
    **{f"timm {name}": partial(of_timm, name) for name in TIMM},
    "torchvision vgg11": partial(of_torchvision, "vgg11"),
    "torchvision squeezenet1_1": partial(of_torchvision, "squeezenet1_1"),
    "torchvision googlenet": partial(of_torchvision, "googlenet", init_weights=False, aux_logits=False),
    "torchvision mobilenet_v2": partial(of_torchvision, "mobilenet_v2"),
    "MLP": lambda n: vectors(mlp(3072, 1024, 1024), n, 3072),
    "regression": regression,
    "group norm": lambda n: images(small_cnn(nn.GroupNorm(4, 16)), n),
    "LSTM": lambda n: words(Text(nn.LSTM(WIDTH, WIDTH, batch_first=True)), n),
    "GRU time first": lambda n: words(Text(nn.GRU(WIDTH, WIDTH), time_first=True), n),
    "Transformer": lambda n: words(Text(encoder()), n),
    "Transformer with padding mask": lambda n: words(Text(encoder(), masked=True), n),
    "EmbeddingBag": lambda n: words(Bag(sparse=False), n),
    "EmbeddingBag sparse": lambda n: words(Bag(sparse=True), n),
    "tied weights": lambda n: words(Tied(), n),
    "frozen backbone": frozen_backbone,
    "parametrized": lambda n: images(parametrized(), n),
    "weight norm": lambda n: vectors(nn.Sequential(parametrizations.weight_norm(nn.Linear(64, CLASSES))), n),
    "compiled": lambda n: vectors(torch.compile(mlp(64, 64)), n),
    "DataParallel": lambda n: vectors(nn.DataParallel(mlp(64, 64)), n),
    "jit": jitted,
    "checkpoint": lambda n: vectors(Checkpointed(reentrant=False), n),
    "checkpoint reentrant": lambda n: vectors(Checkpointed(reentrant=True), n),
    "branches and numpy": lambda n: vectors(Branch(), n),
    "float16": lambda n: images(small_cnn(), n, dtype=torch.float16),
    "bfloat16": lambda n: images(small_cnn(), n, dtype=torch.bfloat16),
    "float64": lambda n: images(small_cnn(), n, dtype=torch.float64),
    "batch norm without statistics": lambda n: images(small_cnn(nn.BatchNorm2d(16, track_running_stats=False)), n),
    "transformers BERT": partial(hugging_face, "BERT"),
    "transformers GPT-2": partial(hugging_face, "GPT-2"),
    "peft LoRA on BERT": lora,
}


def parts(case: Case) -> list[Any]:
    return list(parts_of(case.batch, CHUNK))


def loop(case: Case) -> Result:
    """Return the mean of squared gradients, one backward pass for each sample."""
    named = {name: p for name, p in case.model.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros_like(p, dtype=in_float32(p).dtype) for name, p in named.items()}
    samples = list(parts_of(case.batch, 1))
    for sample in samples:
        case.model.zero_grad()
        case.loss(case.model, sample).sum().backward()
        for name, p in named.items():
            if p.grad is not None:
                gradient = in_float32(p.grad.to_dense() if p.grad.is_sparse else p.grad)
                sums[name].addcmul_(gradient, gradient)
    case.model.zero_grad()
    return {name: value / len(samples) for name, value in sums.items()}


def ours(case: Case) -> Result:
    return dict(Importance.of(case.model, parts(case), loss=case.loss))


def by_library(squares_of: Callable[[Case], Squares], case: Case) -> Result:
    """Return the mean of a library's squares, CHUNK samples at a time."""
    squares, sums = squares_of(case), Result()
    for part in parts(case):
        for name, value in squares(part).items():
            sums[name] = sums.get(name, 0) + value
    return {name: value / len(tensors_of(case.batch)[0]) for name, value in sums.items()}


def torch_func(case: Case) -> Squares:
    parameters = {name: p.detach() for name, p in case.model.named_parameters() if p.requires_grad}

    def squares(batch: Any) -> Result:
        def loss(parameters: Result, *sample: Tensor) -> Tensor:
            def model(*args: Any, **kwargs: Any) -> Any:
                return torch.func.functional_call(case.model, parameters, args, kwargs)

            return case.loss(model, rebuilt(batch, [tensor[None] for tensor in sample])).sum()  # type: ignore[arg-type]

        tensors = tensors_of(batch)
        gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, *(0 for _ in tensors)))(parameters, *tensors)
        return {name: in_float32(g).square().sum(dim=0) for name, g in gradients.items()}

    return squares


def opacus(case: Case) -> Squares:
    library, model = importlib.import_module("opacus"), copy.deepcopy(case.model).train()  # no gradients in eval mode
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # which Opacus does not take
            module.eval().requires_grad_(False)
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    wrapped = library.GradSampleModule(model, strict=False, loss_reduction="sum")

    def squares(batch: Any) -> Result:
        wrapped.zero_grad()
        case.loss(wrapped, batch).sum().backward()
        found: dict[str, Any] = {name: p for name, p in model.named_parameters() if p.requires_grad}
        return {name: in_float32(p.grad_sample).square().sum(dim=0) for name, p in found.items()}

    return squares


def backpack(case: Case) -> Squares:
    library, extensions = (importlib.import_module(name) for name in ("backpack", "backpack.extensions"))
    model = copy.deepcopy(case.model)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # the library's hooks need values that would be overwritten
    model = library.extend(model, use_converter=not isinstance(model, nn.Sequential))
    loss = library.extend(nn.CrossEntropyLoss(reduction="sum"))

    def squares(batch: Any) -> Result:
        if case.loss is not cross_entropy or not isinstance(batch, tuple):
            raise NotImplementedError("another loss")
        model.zero_grad()
        with library.backpack(extensions.SumGradSquared()):
            loss(model(batch[0]), batch[1]).backward()
        return {name: p.sum_grad_squared for name, p in model.named_parameters() if p.requires_grad}

    return squares


LIBRARIES = {"torch.func": torch_func, "Opacus": opacus, "BackPACK": backpack}
HEAD = ("Model", "Parameters", "Way", "Largest difference", "Ours", "Loop", "Ratio", *LIBRARIES)
CAPTION = """Importances by Eq. 1 of {samples} samples in batches of 32 ({device}, torch {torch}).
Largest relative difference of a tensor from a loop over samples; milliseconds per sample (median) and the memory beyond
that before the call; ratio: the loop's time over ours. A dash: the library does not take the model; over 30 s: both of
its calls did not end by then. Opacus leaves batch normalisation out.
"""


@dataclass
class Measured:
    """What a way gives and costs."""

    result: Result
    seconds: float  # per sample
    mib: float

    def __str__(self) -> str:
        return f"{1e3 * self.seconds:.3g} ms, {self.mib:.0f} MiB"


def measured(way: Callable[[Case], Result], case: Case, seconds: float) -> Measured:
    """Measure calls for so many seconds, at least one, after one that warms up."""
    result = way(case)
    times: list[float] = []
    before = resident_peak(reset=True)
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        way(case)
        times.append(time.perf_counter() - start)
    n = len(tensors_of(case.batch)[0])
    return Measured(result, median(times) / n, (resident_peak() - before) / MIB)


def resident_peak(*, reset: bool = False) -> float:
    """Return the largest resident memory in bytes since the last reset; not a number where Linux does not tell it."""
    try:
        if reset:
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5", "utf-8")
        status = Path("/proc/self/status").read_text("utf-8").splitlines()
        (line,) = (line for line in status if line.startswith("VmHWM"))
    except (OSError, AttributeError, ValueError):
        return float("nan")
    return float(line.split()[1]) * 1024


def way_of(case: Case) -> str:
    """Return how the squares are taken; layers without a formula that holds are computed again."""
    squares = SquaredGradients(unwrapped(case.model), case.loss)
    for part in parts(case):
        squares.add_to(zero_sums(squares.model), part)
    name = squares.way.__name__.strip("_").replace("_", " ") if squares.way else "–"
    return f"{name}, {len(squares.replayed)} again" if squares.replayed and name == "by layers" else name


def largest_difference(found: Result, expected: Result) -> float:
    """Return the largest difference of a tensor, relative to its norm or, if that almost vanishes, to the mean one."""
    found, expected = raw_names(found), raw_names(expected)
    norms = {name: float(value.double().norm()) / math.sqrt(value.numel()) for name, value in expected.items()}
    floor = 1e-6 * sum(norms.values()) / len(norms)
    return max(
        float((found[name].double() - value.double()).norm()) / math.sqrt(value.numel()) / max(norms[name], floor)
        for name, value in expected.items()
    )


def row(name: str, build: Callable[[int], Case], samples: int, seconds: float) -> list[str]:
    """Return the cells of a model; those of a library that does not run hold a dash."""
    torch.manual_seed(0)
    try:
        case = build(samples)
    except ImportError as error:
        return [name, f"not installed: {error.name}", *[""] * (len(HEAD) - 2)]
    size = f"{sum(p.numel() for p in case.model.parameters()) / 1e6:.3g} M"
    try:
        mine = measured(ours, case, seconds)
    except ValueError as error:
        return [name, size, f"refused: {error}", *[""] * (len(HEAD) - 3)]
    plain = measured(loop, case, seconds)
    difference = f"{largest_difference(mine.result, plain.result):.0e}"
    cells = [name, size, way_of(case), difference, str(mine), str(plain), f"{plain.seconds / mine.seconds:.2g}"]
    for library in LIBRARIES.values():
        signal.setitimer(signal.ITIMER_REAL, LIMIT)
        try:
            other = measured(partial(by_library, library), case, seconds)
            expected = {name: plain.result[name] for name in other.result}
            wrong = largest_difference(other.result, expected) > WRONG
            cells.append(str(other) + (", wrong" if wrong else ""))
        except ImportError:
            cells.append("not installed")
        except TimeoutError:
            cells.append(f"over {LIMIT} s")
        except Exception as error:  # whatever the library does not take
            cells.append("out of memory" if "alloc" in str(error) or isinstance(error, MemoryError) else "–")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    return cells


def give_up(*_: Any) -> None:
    raise TimeoutError


def parsed(words: list[str]) -> tuple[int, float, set[str]]:
    """Return the options."""
    given = dict(word.partition("=")[::2] for word in words)
    only = set(filter(None, given.pop("only", "").split(",")))
    samples, seconds = given.pop("samples", "32"), given.pop("seconds", "0")
    if unknown := sorted({*given, *(only - set(MODELS))}):
        raise ValueError(f"Expected samples=, seconds= and only= of known models, but got {', '.join(unknown)}.")
    if not (samples.isdecimal() and int(samples) > 1):
        raise ValueError(f"Expected samples to be 2 or more, but got {samples}.")
    return int(samples), float(seconds), only


def main() -> None:
    """Read the command line, measure, print the table in Markdown."""
    samples, seconds, only = parsed(sys.argv[1:])
    facts = {"device": device_name(torch.device("cpu")), "torch": torch.__version__}
    signal.signal(signal.SIGALRM, give_up)
    print(CAPTION.format(samples=samples, **facts))
    print(table([]), end="", flush=True)
    with warnings.catch_warnings(action="ignore"):
        for name, build in MODELS.items():
            if not only or name in only:  # a table takes long: each row as it is known
                print(table([row(name, build, samples, seconds)]).splitlines()[-1], flush=True)


def table(lines: list[list[str]]) -> str:
    return Grid(HEAD, lines, "lrl" + "r" * (len(HEAD) - 3)).markdown()


def bound_memory() -> None:
    """Let what needs more memory than is free fail, before the system ends the process."""
    page = os.sysconf("SC_PAGE_SIZE")
    free = 0.9 * os.sysconf("SC_AVPHYS_PAGES") * page
    used = int(Path("/proc/self/statm").read_text("utf-8").split()[0]) * page
    resource.setrlimit(resource.RLIMIT_AS, (used + int(free), resource.RLIM_INFINITY))


if __name__ == "__main__":
    bound_memory()
    run_cli(main)
