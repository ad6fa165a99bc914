"""Expansion of sweeps, labels of cells, and that every preset composes."""

import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from benchmark.compose import CONFIGS
from benchmark.grid import cells_of, expand, make_plan
from benchmark.oldcell import OldCell as Cell
from benchmark.progress import GridProgress
from benchmark.tables import fill_command


@pytest.fixture(autouse=True)
def hydra():
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        yield


def presets(group: str) -> list[str]:
    return sorted(path.stem for path in (Path(CONFIGS) / group).glob("*.yaml"))


def cell(*overrides: str) -> Cell:
    return Cell(compose("run", list(overrides)))


def test_an_experiment_brings_its_own_sweep():
    jobs = expand(["experiment=demo", "method_seed=0"])
    assert all("experiment=demo" in job and "method_seed=0" in job for job in jobs)
    assert len(jobs) == len(set(map(tuple, jobs)))


def test_the_command_line_overrides_the_experiment():
    jobs = expand(["experiment=table2", "method=ssd,retrain", "method_seed=7"])
    assert {job[-1] for job in jobs} <= {"method_seed=7", "experiment=table2", "method=ssd", "method=retrain"}
    methods = {override for job in jobs for override in job if override.startswith("method=")}
    assert methods == {"method=ssd", "method=retrain"}


@pytest.mark.parametrize("experiment", presets("experiment"))
def test_every_experiment_composes_in_both_profiles(experiment):
    for profile in ("full", "quick"):
        jobs = expand([f"experiment={experiment}", f"profile={profile}", "method_seed=0"])
        cells = [Cell(compose("run", job)) for job in jobs[:: max(1, len(jobs) // 5)]]
        assert len({(c.scientific_hash, c.labels["ablation"]) for c in cells}) == len(cells)


@pytest.mark.parametrize("experiment", presets("experiment"))
def test_the_command_of_a_missing_cell_computes_that_cell(experiment):
    cells = cells_of([f"experiment={experiment}", "profile=quick", "method_seed=0,1", "output_dir=a b"])
    for missing in cells[:: max(1, len(cells) // 5)]:
        program, module, name, *words = shlex.split(fill_command(missing))
        assert (program, module, name) == ("python", "-m", "benchmark.run")
        (found,) = cells_of(words)
        assert found.scientific_hash == missing.scientific_hash
        assert found.config.output_dir == "a b"


@pytest.mark.parametrize("method", presets("method"))
@pytest.mark.parametrize("protocol", ["paper", "strict"])
def test_every_method_composes(method, protocol):
    assert cell(f"method={method}", f"protocol={protocol}").labels["method"] == method


def test_hash_ignores_paths_device_and_names_of_the_protocol():
    plain = cell().scientific_hash
    assert (
        cell("output_dir=elsewhere", "data_dir=there", "compute.device=cpu", "compute.threads=1").scientific_hash
        == plain
    )
    assert cell("protocol.name=mine", "profile.name=mine").scientific_hash == plain


@pytest.mark.parametrize(
    "override",
    ["method.alpha=9", "method_seed=1", "recipe.epochs=7", "task.target=1", "model.width=17", "protocol=paper"],
)
def test_hash_sees_science(override):
    assert cell(override).scientific_hash != cell().scientific_hash


def test_whole_numbers_are_the_same_number():
    assert cell("method.alpha=9").scientific_hash == cell("method.alpha=9.0").scientific_hash


def test_paper_keeps_one_original_strict_trains_one_a_seed():
    assert cell("protocol=paper", "method_seed=1").original_key == cell("protocol=paper").original_key
    assert cell("method_seed=1").original_key != cell().original_key


def test_unlearning_options_do_not_change_the_original():
    assert cell("method=finetune", "task.target=1").original_key == cell().original_key


def test_published_alpha_and_lambda():
    config = compose("run", ["dataset=cifar100"])
    assert (config.method.alpha, config.method.lam) == (10, 1)


def test_each_planned_cell_resolves_its_own_overrides():
    config = OmegaConf.create(
        {
            "method_seed": 0,
            "hydra": {
                "overrides": {"task": ["method=baseline", "method_seed=0,1", "train_seed=${method_seed}"]},
                "launcher": {"_target_": "some.other.Launcher"},
            },
        }
    )
    progress = GridProgress()
    progress.on_multirun_start(config)
    progress.stop.set()
    assert [cell.seeds["train_seed"] for cell in progress.cells] == [0, 1]


def test_equal_cells_are_planned_once(tmp_path):
    cells = cells_of(["method=baseline", "method_seed=0,0", "compute.compile=true", f"output_dir={tmp_path}"])
    plan = make_plan(cells)
    assert (plan.total, plan.waiting, len(plan.seconds)) == (2, 2, 1)
    assert str(plan).startswith("2 cells: 0 done, 2 to run")
    assert min(plan.speeds.values()) > 100  # images a second; with a compilation in them it would be a handful
