"""What a cell is called and what decides its numbers."""

import pytest

from benchmark.cell import Cell, Contents, content
from benchmark.compose import cells_of, choices
from benchmark.files import content_hash


def cell(*overrides: str) -> Cell:
    (only,) = cells_of(overrides)
    return only


def test_the_hash_ignores_paths_device_names_and_presentation():
    plain = cell().scientific_hash
    for overrides in (
        ["output_dir=elsewhere", "data_dir=there", "compute=fast", "compute.threads=1"],
        ["protocol.name=mine", "profile.name=mine", "method.about.label=Mine", "metric.mia.about.scale=1"],
        ["dataset.fingerprint=null"],
    ):
        assert cell(*overrides).scientific_hash == plain


def test_the_hash_sees_what_decides_the_numbers():
    overrides = ["method.alpha=9", "method_seed=1", "recipe.epochs=7", "task.target=1", "protocol=paper"]
    assert len({cell().scientific_hash, *(cell(override).scientific_hash for override in overrides)}) == 6


def test_nothing_of_presentation_is_recorded():
    text = str(cell("requests=sequence").scientific)
    assert "about" not in text
    assert "absent" not in text
    assert "importance" in cell("requests=sequence").scientific["method"]
    assert "importance" not in cell().scientific["method"]


def test_every_spelling_of_a_target_is_one_run():
    for overrides, spellings, name in (
        (["dataset=cifar100"], ["rocket", "69", '"69"'], "rocket"),
        (["dataset=cifar20", "task=subclass"], ["sea", "71", '"71"'], "sea"),
        ([], ["upright_6", "6", '"6"'], "upright_6"),
        (["dataset=pins", 'dataset.fingerprint="0"'], ["10", '"10"'], 10),
    ):
        cells = [cell(*overrides, f"task.target={spelling}") for spelling in spellings]
        assert len({c.run_id for c in cells}) == 1
        assert {(c.target, c.labels["target"]) for c in cells} == {(name, str(name))}
        assert {c.scientific["task"]["target"] for c in cells} == {name}
    several = ["dataset=cifar100", "requests=sequence"]
    one, other = (cell(*several, f"requests.targets={targets}") for targets in ("[rocket,mushroom]", '[69,"51"]'))
    assert one.targets == other.targets == ["rocket", "mushroom"]
    assert (one.run_id, one.labels["target"]) == (other.run_id, "rocket+mushroom")


def test_several_classes_are_one_run_in_any_order_and_one_of_them_is_the_single_class():
    for data, spellings, names in (
        ("digits", ["[3,6]", '["6",upright_3]'], ["upright_3", "upright_6"]),
        ("cifar100", ["[rocket,baby]", "[2,69]"], ["baby", "rocket"]),
    ):
        cells = [cell(f"dataset={data}", f"task.target={target}") for target in spellings]
        assert len({c.run_id for c in cells}) == 1
        assert {(c.labels["target"], str(c.scientific["task"]["target"])) for c in cells} == {
            ("+".join(map(str, names)), str(names))
        }
    assert cell("task.target=[6]").run_id == cell("task.target=6").run_id


def test_a_request_is_its_indices_wherever_its_file_lies(tmp_path):
    cells = []
    for name, text in (("a.txt", "7\n3\n"), ("b.txt", "# monday\n3\n\n7"), ("c.txt", "3\n8")):
        (tmp_path / name).write_text(text)
        cells.append(cell("task=indices", f"task.file={tmp_path / name}"))
    assert cells[0].run_id == cells[1].run_id != cells[2].run_id
    assert [c.labels["target"] for c in cells] == ["a", "b", "c"]
    assert str(tmp_path) not in str(cells[0].scientific)


def test_an_unknown_target_is_left_to_the_split_which_knows_them_all():
    assert cell("dataset=cifar10", "task.target=rocket").target == "rocket"
    assert cell("dataset=cifar10", "task.target=10").target == 10


def test_every_spelling_of_a_seed_is_one_run():
    cells = [cell("task=random", f"split_seed={seed}") for seed in ("1", '"1"', "1.0")]
    assert len({c.run_id for c in cells}) == 1
    assert [repr(c.config.task.split.seed) for c in cells] == ["1"] * 3
    with pytest.raises(ValueError, match="Expected split_seed to be a whole number, but got"):
        _ = cell("task=random", "split_seed=1.5").run_id


def test_the_forget_set_of_a_preset_is_that_of_the_command_line():
    preset = cells_of(["experiment=table6", "profile=quick", "method=ssd", "method_seed=3"])[0]
    plain = cell("dataset=cifar10", "task=random", "profile=quick", "protocol=paper", "split_seed=3", "method_seed=3")
    assert preset.scientific["task"] == plain.scientific["task"]
    assert preset.run_id == plain.run_id


def test_values_per_model_data_set_and_task():
    for overrides, values in (
        (["dataset=cifar100"], {"alpha": 10, "lam": 1}),
        (["dataset=cifar20", "model=vit", "task=subclass"], {"alpha": 25}),
        (["dataset=cifar10", "model=vit", "task=random"], {"alpha": 10}),
        (["dataset=pins", "recipe.epochs=1"], {"alpha": 50, "lam": 0.1}),
        (["model=vit"], {"alpha": 5}),
    ):
        assert values.items() <= cell(*overrides).scientific["method"].items()


def test_a_missing_recipe_says_what_to_set():
    with pytest.raises(ValueError, match=r"dataset=pins, model=vit, profile=quick.*recipe.epochs=… or recipe=…"):
        _ = cell("dataset=pins", "model=vit", "profile=quick", 'dataset.fingerprint="0"').run_id
    recipe = cell("dataset=pins", "model=vit", "recipe.epochs=3").scientific["original"]["recipe"]
    assert (recipe["epochs"], recipe["milestones"], recipe["augmentation"]["padding"]) == (3, [], 4)


def test_methods_and_metrics_say_how_they_are_shown_and_what_they_need():
    abouts = [cell(f"method={name}").method_about for name in choices("method")]
    assert [about["name"] for about in abouts if not about["ranked"]] == ["baseline", "retrain_other"]
    metrics = cell("requests=sequence").metric_about
    assert metrics["retain_accuracy"]["latex"] == r"$\mathcal{D}_r$"
    needs = {name: about["needs"] for name, about in metrics.items() if about["needs"]}
    assert needs.pop("zrf") == ["untrained"]
    assert {"js_distance", "gap", "tow", "agreement_forget", "auc_interval"} <= set(needs)
    assert all(names == ["retrained"] for names in needs.values())


def test_a_fingerprint_is_declared_or_asked_for():
    assert cell().fingerprint.startswith("6233fb1f")
    assert cell("dataset=cifar20").fingerprint == cell("dataset=cifar100").fingerprint
    own = cell(
        "dataset.fingerprint=null", "+dataset.fingerprint_of={_target_: benchmark.files.content_hash, value: abc}"
    )
    assert own.fingerprint == content_hash("abc")
    with pytest.raises(ValueError, match="neither; add one"):
        _ = cell("dataset.fingerprint=null").fingerprint


@pytest.mark.parametrize("method", choices("method"))
@pytest.mark.parametrize("protocol", choices("protocol"))
def test_every_method_composes_and_is_read_as_omegaconf_reads_it(method, protocol):
    composed = cell(f"method={method}", f"protocol={protocol}", "requests=sequence")
    assert composed.labels["method"] == method
    quick = Contents(composed.config)
    for name in ("original", "method", "reference", "metric", "preprocessing", "task", "model", "protocol"):
        assert quick(composed.config[name]) == content(composed.config[name])
