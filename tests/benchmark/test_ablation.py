"""Every quirk of the paper protocol does something: switched off alone, it changes what it is said to change."""

from pathlib import Path

import pytest
import timm
import torch
from faces import picture, write_folder
from safetensors.torch import save_file

from benchmark import pipeline
from benchmark.compose import cells_of
from benchmark.run import run_cell
from benchmark.workbench import Workbench

DIGITS = [
    "dataset.subset.train_images=120", "dataset.subset.test_images=50", "model.width=2", "recipe.epochs=4",
    "recipe.milestones=[]", "task.batch_size=8", "profile=quick", "metric=[accuracy]", "~method@reference",
]  # fmt: skip
SSD = ["method=ssd", "method.alpha=0.5"]
CASES = {
    "normalisation": ["method=baseline"],
    "checkpoint": ["method=baseline", "recipe.lr=1.0"],
    "train_seed": ["method=baseline", "method_seed=1"],
    "accuracy": ["method=baseline", "dataset.subset.test_images=140"],
    "forget_n": ["task=random", "method=finetune"],
    "retrain_reset": ["method=retrain"],
    "retrain": ["method=retrain"],
    "importance_order": SSD,
    "importance_reduction": SSD,
    "importance_refreshed": [*SSD, "requests=sequence", "requests.n=2"],
    "unsir_noise": ["method=unsir"],
    "unsir_gradient": ["method=unsir"],
    "vit_start": ["method=baseline", "model=vit", "model.image_size=16"],
    "bad_teacher": ["method=bad_teacher", "model=vit", "model.image_size=16"],
    "pins_crop": ["dataset=pins", "method=baseline", "dataset.subset.train_images=null"],
    "pins_split": ["dataset=pins", "method=finetune", "dataset.subset.train_images=null"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Runs, pretrained weights of a ViT and two identities with five faces each."""
    folder = tmp_path_factory.mktemp("ablation")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = timm.create_model("vit_tiny_patch16_224", img_size=16).state_dict()
    save_file({name: 5 * value for name, value in state.items()}, folder / "vit.safetensors")
    names = [f"pins_{name}/{i}.png" for name in ("Ada", "Bob") for i in range(5)]
    write_folder(folder / "faces", {name: picture(seed) for seed, name in enumerate(names)})
    return folder


def outcome(folder: Path, overrides: list[str]) -> dict[str, object]:
    """Run one cell; return its metrics and its logits on the forget set and on the rest of the test set."""
    options = [*DIGITS, f"data_dir={folder}", f"output_dir={folder}"]
    if "model=vit" in overrides:
        options.remove("model.width=2")
        options += [f"model.weights={folder / 'vit.safetensors'}"]
    if "dataset=pins" in overrides:
        options += [f"dataset.load.folder={folder / 'faces'}", "dataset.subset.test_images=null"]
    (cell,) = cells_of([*options, *overrides])
    metrics = dict(run_cell(cell).metrics)
    bench = Workbench(cell)
    outputs, _ = pipeline.load_outputs(bench, pipeline.outputs(bench))
    return metrics | {"labels": cell.labels, "logits": [outputs.logits[n] for n in ("forget_train", "retain_test")]}


def test_every_ablation_has_a_case():
    assert set(cells_of([])[0].config.switches) == {"none", *CASES}


@pytest.mark.parametrize("ablation", CASES)
def test_a_quirk_switched_off_changes_the_outcome(ablation, folder):
    ours = ["protocol=paper", *CASES[ablation]]
    plain = outcome(folder, ours)
    ablated = outcome(folder, [*ours, f"switched={ablation}"])
    assert (plain["labels"]["ablation"], ablated["labels"]["ablation"]) == ("none", ablation)
    if ablation == "accuracy":  # the same logits, counted otherwise
        assert plain["retain_accuracy"] != ablated["retain_accuracy"]
        return
    same = [a.shape == b.shape and torch.equal(a, b) for a, b in zip(plain["logits"], ablated["logits"], strict=True)]
    assert not all(same)


def test_a_quirk_leaves_the_cells_that_it_does_not_concern_alone():
    plain, ablated = cells_of(["protocol=paper", "method=finetune", "switched=none,importance_reduction"])
    assert plain.scientific_hash == ablated.scientific_hash
