"""What a cell is called and what decides its numbers."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.cell import Cell, Contents, content
from benchmark.compose import CONFIGS, cells_of, choices

NO_TORCH = """
import sys, time
start = time.process_time()
from benchmark.cell import Cell
seconds = time.process_time() - start
from benchmark.compose import cells_of
for cell in cells_of(["dataset=cifar100,digits", "method=ssd,retrain"]):
    cell.run_id, cell.labels, cell.outputs_key, cell.metric_about, cell.method_about
heavy = {"torch", "timm", "numpy", "pandas", "scipy", "sklearn"} & set(sys.modules)
print(seconds, *heavy)
"""


def cell(*overrides: str, **options: object) -> Cell:
    (only,) = cells_of(overrides, **options)
    return only


def test_names_need_neither_torch_nor_data():
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH], cwd=Path(CONFIGS).parent, capture_output=True, text=True, check=True
    )
    seconds, *heavy = done.stdout.split()
    assert heavy == []
    assert float(seconds) < 1.5  # 0.15 s on a machine with nothing else to do


def test_the_hash_ignores_paths_device_names_and_presentation():
    plain = cell().scientific_hash
    for overrides in (
        ["output_dir=elsewhere", "data_dir=there", "compute=fast", "compute.threads=1"],
        ["protocol.name=mine", "profile.name=mine", "method.about.label=Mine", "metric.mia.about.scale=1"],
        ["dataset.fingerprint=null"],
    ):
        assert cell(*overrides).scientific_hash == plain


@pytest.mark.parametrize(
    "override",
    ["method.alpha=9", "method_seed=1", "recipe.epochs=7", "task.target=1", "model.width=17", "protocol=paper",
     "metric.mia.c=1"],
)  # fmt: skip
def test_the_hash_sees_what_decides_the_numbers(override):
    assert cell(override).scientific_hash != cell().scientific_hash


def test_nothing_of_presentation_is_recorded():
    text = str(cell("requests=sequence").scientific)
    assert "about" not in text
    assert "absent" not in text
    assert "importance" in cell("requests=sequence").scientific["method"]
    assert "importance" not in cell().scientific["method"]


@pytest.mark.parametrize(
    ("overrides", "spellings", "name"),
    [
        (["dataset=cifar100"], ["rocket", "69", '"69"'], "rocket"),
        (["dataset=cifar20"], ["veg", "4", '"4"'], "veg"),
        (["dataset=cifar20", "task=subclass"], ["sea", "71", '"71"'], "sea"),
        ([], ["6", '"6"'], 6),
        (["dataset=pins", 'dataset.fingerprint="0"'], ["10", '"10"'], 10),
    ],
)
def test_every_spelling_of_a_target_is_one_run(overrides, spellings, name):
    cells = [cell(*overrides, f"task.target={spelling}") for spelling in spellings]
    assert len({c.run_id for c in cells}) == 1
    assert {(c.target, c.labels["target"], c.scientific["task"]["target"]) for c in cells} == {(name, str(name), name)}


def test_every_spelling_of_several_targets_is_one_run():
    names, indices = (
        cell("dataset=cifar100", "requests=sequence", f"requests.targets={targets}")
        for targets in ("[rocket,mushroom]", '[69,"51"]')
    )
    assert names.targets == indices.targets == ["rocket", "mushroom"]
    assert (names.run_id, names.labels["target"]) == (indices.run_id, "rocket+mushroom")


def test_an_unknown_target_is_left_to_the_split_which_knows_them_all():
    assert cell("dataset=cifar10", "task.target=rocket").target == "rocket"
    assert cell("dataset=cifar10", "task.target=10").target == 10


@pytest.mark.parametrize("name", ["split_seed", "method_seed"])
def test_every_spelling_of_a_seed_is_one_run(name):
    cells = [cell("task=random", f"{name}={seed}") for seed in ("1", '"1"', "1.0")]
    assert len({c.run_id for c in cells}) == 1
    assert [repr(c.config.task.split.seed) for c in cells] == [repr(int(name == "split_seed"))] * 3
    with pytest.raises(ValueError, match=f"Expected {name} to be a whole number, but got 1.5"):
        _ = cell("task=random", f"{name}=1.5").run_id


def test_the_forget_set_of_a_preset_is_that_of_the_command_line():
    preset = cells_of(["experiment=table6", "profile=quick", "method=ssd", "method_seed=3"])[0]
    plain = cell("dataset=cifar10", "task=random", "profile=quick", "protocol=paper", "split_seed=3", "method_seed=3")
    assert preset.scientific["task"] == plain.scientific["task"]
    assert preset.run_id == plain.run_id


def test_paper_keeps_one_original_and_strict_trains_one_per_seed():
    assert cell("protocol=paper", "method_seed=1").original_key == cell("protocol=paper").original_key
    assert cell("method_seed=1").original_key != cell().original_key


def test_unlearning_options_do_not_change_the_original():
    assert cell("method=finetune", "task.target=1").original_key == cell().original_key


def test_the_retrained_model_is_shared_with_the_method_retrain():
    retrain, ssd = cell("method=retrain"), cell("method=ssd")
    assert (retrain.is_reference, ssd.is_reference) == (True, False)
    assert retrain.outputs_key == retrain.reference_key == ssd.reference_key


PINS = ["dataset=pins", "recipe.epochs=1"]


@pytest.mark.parametrize(
    ("overrides", "values"),
    [
        (["dataset=cifar100"], {"alpha": 10, "lam": 1}),
        (["dataset=cifar100", "model=vit"], {"alpha": 5}),
        (["dataset=cifar20", "model=vit", "task=subclass"], {"alpha": 25}),
        (["dataset=cifar10", "model=vit", "task=random"], {"alpha": 10}),
        (PINS, {"alpha": 50, "lam": 0.1}),
        ([*PINS, "model=vit"], {"alpha": 50}),
        (["model=vit"], {"alpha": 8}),
    ],
)
def test_values_per_model_data_set_and_task(overrides, values):
    method = cell(*overrides).scientific["method"]
    assert {name: method[name] for name in values} == values


@pytest.mark.parametrize(
    ("overrides", "model"),
    [
        (["dataset=cifar10"], {"width": 64}),
        (["dataset=cifar10", "profile=quick"], {"width": 16}),
        ([], {"width": 16}),
        (["dataset=cifar10", "profile=quick", "model=vit"], {"name": "vit_tiny_patch16_224", "image_size": 64}),
    ],
)
def test_the_width_belongs_to_the_profile(overrides, model):
    assert model.items() <= cell(*overrides).scientific["model"].items()


def test_a_recipe_is_a_row_of_the_data_set():
    recipe = cell("dataset=cifar10", "profile=quick").scientific["original"]["recipe"]
    assert (recipe["epochs"], recipe["milestones"], recipe["augmentation"]) == (14, [11, 13], None)
    with_row = cell("dataset=cifar10", "model=vit", "profile=quick").scientific["original"]["recipe"]
    assert with_row["augmentation"] is not None


def test_a_missing_recipe_says_what_to_set():
    with pytest.raises(ValueError, match=r"dataset=pins, model=vit, profile=quick.*recipe.epochs=… or recipe=…"):
        _ = cell("dataset=pins", "model=vit", "profile=quick", 'dataset.fingerprint="0"').run_id
    recipe = cell("dataset=pins", "model=vit", "recipe.epochs=3").scientific["original"]["recipe"]
    assert (recipe["epochs"], recipe["milestones"], recipe["augmentation"]["padding"]) == (3, [], 4)


def test_a_second_file_on_a_class_is_a_method_of_its_own(tmp_path):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mild.yaml").write_text("defaults: [ssd, _self_]\nabout: {label: Mild}\nalpha: 100.0\n")
    ssd, mild = cells_of(["method=ssd,mild"], config_dir=tmp_path)
    assert (mild.labels["method"], mild.method_about["label"], mild.method_about["order"]) == ("mild", "Mild", 8)
    assert ssd.run_id != mild.run_id
    assert mild.scientific["method"] == ssd.scientific["method"] | {"alpha": 100}


def test_methods_and_metrics_say_how_they_are_shown():
    abouts = [cell(f"method={name}").method_about for name in choices("method")]
    shown = [about["label"] for about in sorted(abouts, key=lambda about: about["order"])]
    assert shown == ["Baseline", "Retrain", "Finetune", "Bad teacher", "UNSIR", "Amnesiac", "Fisher", "SSD"]
    assert [about["name"] for about in abouts if not about["ranked"]] == ["baseline"]
    metrics = cell("requests=sequence").metric_about
    ordered = sorted(metrics, key=lambda name: metrics[name]["order"])
    assert [metrics[name]["label"] for name in ordered] == [
        "D_r", "D_f", "MIA", "gap", "rank", "changed", "newest", "t [s]", "JS", "ZRF",
    ]  # fmt: skip
    assert metrics["retain_accuracy"]["latex"] == r"$\mathcal{D}_r$"
    assert {name: about["needs"] for name, about in metrics.items() if about["needs"]} == {
        "js_distance": ["retrained"], "gap": ["retrained"], "zrf": ["untrained"],
    }  # fmt: skip


def test_a_fingerprint_is_declared_or_asked_for(tmp_path, monkeypatch):
    assert cell().fingerprint.startswith("c8fe007c")
    assert cell("dataset=cifar20").fingerprint == cell("dataset=cifar100").fingerprint
    own = cell("dataset.fingerprint=null", "+dataset.fingerprint_of={_target_: builtins.str, object: abc}")
    assert own.fingerprint == "abc"
    with pytest.raises(ValueError, match="neither; add one"):
        _ = cell("dataset.fingerprint=null").fingerprint


def test_a_missing_value_is_named():
    with pytest.raises(ValueError, match=r"Expected a value for recipe.epochs, but got none"):
        cell("recipe.epochs=???")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["switched=nothing"], "switched to be one of none, normalisation"),
        (["requests=sequence", "requests.n=10"], r"requests.n to be in 1 … 9"),
        (["method_seed=one"], "method_seed to be a whole number, but got 'one'"),
    ],
)
def test_bad_values(overrides, message):
    with pytest.raises(ValueError, match=message):
        _ = cell(*overrides).run_id


@pytest.mark.parametrize("method", choices("method"))
@pytest.mark.parametrize("protocol", choices("protocol"))
def test_every_method_composes_and_is_read_as_omegaconf_reads_it(method, protocol):
    composed = cell(f"method={method}", f"protocol={protocol}", "requests=sequence")
    assert composed.labels["method"] == method
    quick = Contents(composed.config)
    for name in ("original", "method", "reference", "metric", "preprocessing", "task", "model", "protocol"):
        assert quick(composed.config[name]) == content(composed.config[name])
