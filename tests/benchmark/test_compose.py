"""Sweeps mean what they mean in a plain Hydra application, and composing them is quick."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from omegaconf import OmegaConf

from benchmark.cell import Cell
from benchmark.cli import with_search_path
from benchmark.compose import CONFIGS, cells_of, choices, initialised, parsed_once, varying
from benchmark.composer import Composer

ROOT = Path(CONFIGS).parent
PLAIN = """
import hydra, sys
import benchmark.cell
@hydra.main(version_base="1.3", config_path=sys.argv.pop(1), config_name="run")
def main(config):
    name = hydra.core.hydra_config.HydraConfig.get().runtime.choices["method"]
    print("CELL", name, config.method_seed, config.method.get("alpha"), config.data_dir, config.output_dir, sep="|")
main()
"""


def plain_hydra(folder: Path, *arguments: str) -> list[list[str]]:
    """Return what a ten-line Hydra application sees of each job: method, seed, α and the two folders."""
    script = folder / "plain.py"
    script.write_text(PLAIN)
    quiet = ["~hydra.callbacks.grid", "hydra.sweep.dir=sweep"]
    done = subprocess.run(
        [sys.executable, script, CONFIGS, "-m", *quiet, *arguments], capture_output=True, text=True, cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True,
    )  # fmt: skip
    return [line.split("|")[1:] for line in done.stdout.splitlines() if line.startswith("CELL|")]


def ours(cells: list[Cell]) -> list[list[str]]:
    rows = []
    for cell in cells:
        config = cell.config
        values = config.method_seed, config.method.get("alpha"), config.data_dir, config.output_dir
        rows.append([cell.labels["method"], *map(str, values)])
    return rows


@pytest.fixture
def own_configs(tmp_path) -> Path:
    """A configuration folder of a user's own, with a variant of SSD."""
    folder = tmp_path / "own configs"
    (folder / "method").mkdir(parents=True)
    (folder / "method" / "my_ssd.yaml").write_text("defaults: [ssd, _self_]\nabout: {label: Mine}\nalpha: 3.0\n")
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["method=glob(b*)", "method_seed=range(2)", "data_dir=${hydra:runtime.cwd}/there"],
        ["experiment=demo", "case=digits_class", "method_seed=1", "method.alpha=2,3", "method=ssd"],
        ["method=my_ssd,ssd,retrain", "~method@reference", "output_dir=a b"],
    ],
    ids=["glob, range and working directory", "an experiment of its own", "a variant from elsewhere"],
)
def test_a_sweep_is_what_hydra_makes_of_it(arguments, tmp_path, own_configs, monkeypatch):
    monkeypatch.chdir(tmp_path)
    search_path = f"hydra.searchpath=['file://{own_configs}']"
    assert ours(cells_of([search_path, *arguments])) == plain_hydra(tmp_path, search_path, *arguments)


@pytest.mark.parametrize("second", ["--config-dir={}", "hydra.searchpath=['file://{}']"])
def test_every_search_path_counts(second, own_configs, tmp_path):
    (tmp_path / "more" / "case").mkdir(parents=True)
    (tmp_path / "more" / "case" / "mine.yaml").write_text("# @package _global_\nsplit_seed: 5\n")
    words = ["method=my_ssd", second.format(tmp_path / "more"), "case=mine", "-cd", str(own_configs)]
    (cell,) = cells_of(with_search_path(words))
    assert (cell.labels["method"], cell.seeds["split_seed"]) == ("my_ssd", 5)
    assert (cell.method_about["label"], cell.config.method.alpha) == ("Mine", 3.0)
    assert cells_of(cell.overrides)[0].config == cell.config


def test_a_profile_says_whether_a_table_shows_the_noise_floor():
    words = ["experiment=table6", "profile=quick"]
    plain, floor = (
        [cell.labels["method"] for cell in cells_of([*words, *more])]
        for more in ([], ["profile.retrained='retrain,retrain_other'"])
    )
    assert floor == ["retrain", "retrain_other", *plain[1:]]
    assert plain[:2] == ["retrain", "baseline"]


def test_all_cells_share_the_time_of_the_first():
    sweep = OmegaConf.create()
    words = ["method=ssd,retrain", "output_dir=${now:%H-%M-%S-%f}"]
    cells = [*cells_of(words, like=sweep), *cells_of(words, like=sweep)]
    assert len({cell.config.output_dir for cell in cells}) == 1
    assert cells_of(words)[0].config.output_dir != cells[0].config.output_dir


def composed(job: tuple[str, ...]) -> object:
    with initialised():
        return OmegaConf.to_container(compose("run", list(job)))


def without_name(cell: Cell) -> object:
    raw = OmegaConf.to_container(cell.config)
    assert raw["method"]["about"].pop("name") == cell.labels["method"]
    return raw


def test_a_quick_composition_is_what_hydra_composes():
    for experiment in choices("experiment"):
        more = ["~method@reference", "++a.b=1", "+dataset.subset.held_out=0.1"] if experiment == "demo" else []
        with initialised():
            composer = Composer([f"experiment={experiment}", "profile=quick", "method_seed=0,1", *more])
            jobs = composer.jobs()
            chosen = [jobs[0], jobs[len(jobs) // 2], jobs[-1]] if "case" in composer.values else [jobs[0], jobs[-1]]
            cells = [composer.cell(job) for job in chosen]
        for cell in cells[1:]:  # they may share a composition with the first
            assert without_name(cell) == composed(cell.overrides)
            assert OmegaConf.is_struct(cell.config)


def test_a_single_cell_is_composed_once(monkeypatch):
    calls = []
    monkeypatch.setattr(
        "benchmark.composer.compose", lambda *args, **options: calls.append(1) or compose(*args, **options)
    )
    cells_of(["method=finetune", "recipe.epochs=1", "~method@reference"])
    assert calls == [1]


def test_a_changed_file_is_parsed_again(tmp_path):
    source = FileConfigSource("main", f"file://{tmp_path}")
    for value in (1, 1, 2):
        (tmp_path / "a.yaml").write_text(f"x: {value}\n")
        os.utime(tmp_path / "a.yaml", ns=(value, value))
        found = parsed_once(source, "a").config
        assert found.x == value
        found.x = 5  # a copy


def test_unusual_overrides_too():
    for overrides in (
        ["method=ssd,retrain,finetune", "requests=sequence", "method@reference=finetune"],
        ["method=ssd,retrain", "recipe.lr=1", "model=vit,resnet18", "switched=retrain,none"],
        ["method=ssd,retrain", "+method.beta=1", "search=ssd"],
        ["method=retrain,finetune,scrub", "values=released,searched"],
        ["method=retrain,finetune,scrub", "values=searched"],
        ["method=ssd", "~method.lam"],
    ):
        for cell in cells_of(overrides):
            assert without_name(cell) == composed(cell.overrides)


def test_a_file_that_reaches_into_the_method_is_heeded(own_configs):
    """Jobs share a composition only if nothing else says anything about the method."""
    (own_configs / "case").mkdir()
    (own_configs / "case" / "mine.yaml").write_text("# @package _global_\nmethod: {recipe: {lr: 0.5}}\n")
    (own_configs / "method" / "reaching.yaml").write_text(
        "# @package _global_\nsplit_seed: 5\nmethod: {_target_: methods.baseline.Baseline}\n"
    )
    own = with_search_path([f"--config-dir={own_configs}"])
    cells = cells_of([*own, "method=amnesiac,bad_teacher,finetune", "case=digits_class,mine"])
    assert [cell.config.method.recipe.lr for cell in cells if cell.config.method.recipe.lr == 0.5] == [0.5] * 3
    cells = cells_of([*own, "method=ssd,reaching,retrain"])
    assert [(cell.labels["method"], cell.seeds["split_seed"]) for cell in cells] == [
        ("ssd", 0), ("reaching", 5), ("retrain", 0)
    ]  # fmt: skip


def test_what_varies_is_named_if_the_name_does_not_say_it():
    cells = cells_of(["method=ssd,retrain", "method_seed=0,1", "recipe.lr=0.1,0.2", "recipe.epochs=1"])
    assert [varying(cells)[cell] for cell in cells] == ["recipe.lr=0.1", "recipe.lr=0.2"] * 4
    cells = cells_of(["case=digits_class,digits_random", "method=ssd", "split_seed=0,1", "method.alpha=1,3"])
    assert varying(cells)[cells[1]] == "split_seed=0 method.alpha=3"


def test_a_table_of_72_cells_is_quick_and_its_names_say_all_that_varies():
    cells_of([])
    start = time.process_time()
    cells = cells_of(["experiment=demo"])
    assert len({cell.run_id for cell in cells}) == 72
    assert time.process_time() - start < 6  # about 1 s on a machine with nothing else to do
    assert set(varying(cells).values()) == {""}
