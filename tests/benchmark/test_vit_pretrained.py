"""Fine-tuning a pretrained ViT-Tiny on real images; needs array files and the weights."""

import os
from pathlib import Path

import pytest
from command_line import make_cell

from benchmark.pipeline import load_original
from benchmark.workbench import Workbench

OPTIONS = [
    "dataset=cifar10", "model=vit", "model.timm_name=vit_tiny_patch16_224", "model.image_size=64", "task.target=cat",
    "protocol=strict", "profile=quick", "dataset.subset.train_images=4000", "dataset.subset.test_images=1000",
    "recipe.epochs=4", "recipe.milestones=[]", "recipe.lr=2e-4",
]  # fmt: skip


@pytest.fixture
def weights():
    """A file with ImageNet weights of timm's vit_tiny_patch16_224; skips where none is named."""
    path = os.environ.get("UNLEARN_VIT_TINY")
    if not path or not Path(path).is_file():
        pytest.skip("UNLEARN_VIT_TINY names no file with weights of vit_tiny_patch16_224")
    return path


@pytest.mark.slow
@pytest.mark.data
def test_pretrained_weights_help_a_lot_after_250_steps(array_dir, weights, tmp_path):
    def accuracy(*options):
        bench = Workbench(make_cell(tmp_path, *options, f"data_dir={array_dir}", base=OPTIONS))
        assert bench.recipe.epochs * -(-len(bench.dataset.train) // bench.recipe.batch_size) < 400
        return load_original(bench)[1]["test_accuracy"]

    pretrained, random = accuracy(f"model.weights={weights}"), accuracy("model.pretrained=false")
    print(f"test accuracy: pretrained {pretrained:.3f}, random {random:.3f}")
    assert pretrained > random + 0.2
