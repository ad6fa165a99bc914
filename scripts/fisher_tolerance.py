"""Compare Fisher forgetting's information at a tolerance with the exact one and with the literal double loop.

    python -m scripts.fisher_tolerance images=1000 literal=8 dataset=cifar100 profile=quick protocol=paper

Takes the original model of a run (trained where it is not there yet) and the first `images` of the retain set; the
literal loop, one backward pass for each sample and class, runs on `literal` of them and is scaled up. Every other
key=value is an override, as for `python -m benchmark.run`.
"""

import sys

import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from benchmark.checkpoints import load_original
from benchmark.cli import run_cli
from benchmark.compose import CONFIGS
from benchmark.oldcell import OldCell as Cell
from datasets.base import LabelledImages
from datasets.batches import Batches
from datasets.seeding import generator
from methods.fisher import sample_error
from methods.fisher_information import fisher_diagonal
from scripts.speed_measure import timed

Information = dict[str, Tensor]


def literal_loop(model: nn.Module, batches: Batches) -> Information:
    """Return (1/N) Σ_x Σ_y p(y|x)·(∂CE(x, y)/∂θ)² by one backward pass for each sample and class."""
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    count = 0
    for images, _ in batches:
        for image in images:
            log_p = F.log_softmax(model(image.unsqueeze(0)), dim=1)[0]
            for y in range(len(log_p)):
                gradients = torch.autograd.grad(-log_p[y], list(model.parameters()), retain_graph=True)
                for name, gradient in zip(sums, gradients, strict=True):
                    sums[name] += log_p[y].detach().exp() * gradient.square()
            count += 1
    return {name: value / count for name, value in sums.items()}


def relative_error(found: Information, expected: Information) -> float:
    """Return ‖found − expected‖ / ‖expected‖ over all parameters."""
    difference = sum(float((found[name] - value).square().sum()) for name, value in expected.items())
    return float((difference / sum(float(value.square().sum()) for value in expected.values())) ** 0.5)


def main() -> None:
    """Read the command line and print one line for each way."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    options = {"images": 1000, "literal": 8}
    own = [a.partition("=") for a in sys.argv[1:] if a.partition("=")[0] in options]
    options |= {name: int(value) for name, _, value in own}
    overrides = [a for a in sys.argv[1:] if a.partition("=")[0] not in options]
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        cell = Cell(compose("run", ["method=fisher", *overrides]))
    model, card = load_original(cell)
    tolerance, batch_size = float(cell.config.method.tolerance), int(cell.config.method.batch_size)
    retain = cell.split.retain_train
    data = retain.subset(torch.randperm(len(retain), generator=generator("tolerance"))[: options["images"]])
    n, classes = len(data), cell.split.num_classes
    print(f"{cell}: test accuracy {100 * card['test_accuracy']:.1f} %, {n} images, {classes} classes")

    def by_columns(data: LabelledImages, tolerance: float) -> Information:
        error, random = sample_error(tolerance, len(data)), generator("fisher information", device=cell.device)
        batches = Batches(data, batch_size, cell.preprocessing)
        return fisher_diagonal(model, batches, error=error, random=random)

    few = data.subset(torch.arange(min(options["literal"], n)))
    literal, seconds = timed(lambda: literal_loop(model, Batches(few, batch_size, cell.preprocessing)), cell.device)
    seconds *= n / len(few)
    print(f"literal loop: {seconds:.1f} s (scaled up from {len(few)} images)")
    print(f"  the same images, tolerance 0: relative error {relative_error(by_columns(few, 0), literal):.1e}")
    exact, exact_seconds = timed(lambda: by_columns(data, 0), cell.device)
    print(f"tolerance 0: {exact_seconds:.1f} s, {seconds / exact_seconds:.1f} times faster than the literal loop")
    found, found_seconds = timed(lambda: by_columns(data, tolerance), cell.device)
    print(
        f"tolerance {tolerance:g}: {found_seconds:.1f} s, {seconds / found_seconds:.1f} times faster than the literal "
        f"loop, {exact_seconds / found_seconds:.1f} times faster than tolerance 0, relative error "
        f"{relative_error(found, exact):.1e}"
    )


if __name__ == "__main__":
    run_cli(main)
