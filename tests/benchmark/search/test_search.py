"""Searches on a few digits through the command line."""

import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import optuna
import pandas as pd
import pytest
from command_line import TINY, records_of, run_command
from omegaconf import OmegaConf

from benchmark import budget, pipeline
from benchmark.cell import content, without_about
from benchmark.compose import cells_of
from benchmark.records import load_records
from benchmark.search import run as search
from benchmark.search import several as several_searches
from benchmark.search.__main__ import main
from benchmark.search.report import refuse_to_replace
from benchmark.search.report import run_command as command_of
from benchmark.search.several import rows_of, stored_files
from benchmark.workbench import Workbench

ROOT = Path(__file__).parents[3]
SMALL = [*TINY[1:], "dataset.subset.train_images=100", "dataset.subset.test_images=30"]
LANDSCAPE = ["landscape-dark.svg", "landscape.pdf", "landscape.png", "landscape.svg"]
FILES = ["best.yaml", "importances.csv", *LANDSCAPE, "summary.md", "trials.csv"]
COMMITTED = "search-ssd-cifar20-resnet18-class-vehicle2-gap-paper-quick"


def start(arguments, folder, monkeypatch):
    words = [*SMALL, f"output_dir={folder}/runs", f"out={folder}/out/found", *arguments]
    return run_command(words, monkeypatch, main=main)


def trials_of(folder):
    return pd.read_csv(folder / "out" / "found" / "trials.csv")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The folder of a finished search under protocol paper, and how often importances were computed."""
    folder = tmp_path_factory.mktemp("search")
    calls = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        from methods import ssd

        original = ssd.Importance.of
        monkeypatch.setattr(ssd.Importance, "of", lambda *a, **o: calls.append(1) or original(*a, **o))
        assert start(["search=ssd", "protocol=paper", "search.n_trials=12"], folder, monkeypatch) == 0
    return folder, len(calls)


def test_every_file_is_there_and_nothing_per_trial(found):
    folder, n_importances = found
    assert sorted(path.name for path in (folder / "out" / "found").iterdir()) == FILES
    assert not (folder / "runs" / "records").exists()
    assert len(list((folder / "runs" / "artefacts" / "outputs").glob("*.json"))) == 1  # the retrained model's
    assert n_importances == 2  # I_D and I_Df, for the configured values and twelve trials
    trials = trials_of(folder)
    assert list(trials["state"]) == ["complete"] * 12
    assert trials["alpha"].between(0.1, 100).all()
    assert trials["lam"].between(0.1, 5).all()
    assert trials["alpha"].nunique() == 12
    assert trials[["retain_accuracy", "forget_accuracy", "mia", "changed_fraction"]].stack().between(0, 1).all()
    assert {"seconds.method", "seconds.trial", "error"} <= set(trials)
    assert trials["provenance.device"].str.endswith(", float32").all()


def test_the_best_values_as_a_configuration_give_the_best_gap(found, monkeypatch, caplog):
    caplog.set_level("INFO")
    folder, _ = found
    trials = trials_of(folder)
    best = trials.loc[trials["value"].idxmin()]
    run = [*SMALL, "protocol=paper", f"output_dir={folder}/runs"]
    assert run_command(["--config-dir", str(folder / "out"), "+found=best", *run], monkeypatch) == 0
    table = next(line for text in caplog.messages for line in text.splitlines() if line.startswith("table: "))
    assert f"hydra.searchpath=[file://{folder / 'out'}]" in shlex.split(table)
    summary = (folder / "out" / "found" / "summary.md").read_text()
    assert "| gap, minimize, over D_r, D_f, MIA |" in summary
    words = shlex.split(next(line for line in summary.splitlines() if "method.alpha=" in line))
    assert words[:3] == ["python", "-m", "benchmark.run"]
    assert run_command(words[3:], monkeypatch) == 0
    head = (folder / "out" / "found" / "best.yaml").read_text().splitlines()[2]
    assert shlex.split(head)[1:] == [*words[:-2], "--config-dir", str(folder / "out"), "+found=best"]
    assert run_command(shlex.split(head)[4:], monkeypatch) == 0
    assert {*run} <= {*words}  # every word of the search's command but its own
    records = load_records(folder / "runs" / "records")
    (record,) = [record for record in records if record.labels["method"] == "ssd"]  # one: both ways are the same run
    assert record.hyperparameters["alpha"] == pytest.approx(best["alpha"])
    assert record.metrics["gap"] == pytest.approx(best["value"], rel=1e-5)
    assert record.metrics["retain_accuracy"] == pytest.approx(best["retain_accuracy"], rel=1e-5)
    assert record.seconds["importance_forget"] > 0  # as first measured, in the search


def test_a_finished_search_runs_no_trial_and_a_larger_one_continues(found, tmp_path, monkeypatch):
    before = trials_of(found[0])
    for n_trials in (1, 13):
        words = ["search=ssd", "protocol=paper", f"search.n_trials={n_trials}", f"out={tmp_path}/{n_trials}"]
        assert start(words, found[0], monkeypatch) == 0
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "1" / "trials.csv"), before)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "13" / "trials.csv")[:12], before)
    assert len(pd.read_csv(tmp_path / "13" / "trials.csv")) == 13


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["search.n_trials=1", "output_dir={}/new"], "at most 1 trials of the study"),
        (["search.seed=1", "search.n_trials=20"], "at most 20 trials of the study"),
    ],
)
def test_neither_a_smaller_nor_another_search_replaces_one(changed, message, found, tmp_path, monkeypatch, capsys):
    folder, _ = found
    before = trials_of(folder)
    words = ["search=ssd", "protocol=paper", *(word.format(tmp_path) for word in changed)]
    assert start(words, folder, monkeypatch) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert "it holds 12 of" in line
    assert "out=" in line
    pd.testing.assert_frame_equal(trials_of(folder), before)


def test_a_search_that_names_no_study_counts_by_its_trials(tmp_path):
    folder = shutil.copytree(ROOT / "results" / COMMITTED, tmp_path / "search")
    with pytest.raises(ValueError, match="it holds 50 of"):  # the committed one names its own
        refuse_to_replace(folder, "0" * 16, 50)
    lines = (folder / "summary.md").read_text().splitlines(keepends=True)
    (folder / "summary.md").write_text("".join(line for line in lines if not line.startswith("| study |")))
    refuse_to_replace(folder, "0" * 16, 50)
    with pytest.raises(ValueError, match="it holds 50 of an unnamed one"):
        refuse_to_replace(folder, "0" * 16, 49)


def test_settings_that_a_name_does_not_tell_make_another_folder():
    named = ["search=ssd", "dataset=cifar20", "task=class", "task.target=vehicle2", "protocol=paper", "profile=quick"]
    not_of_the_study = ["search.n_trials=9", "search.max_failures=2", "output_dir=elsewhere", "compute.threads=1"]
    others = [not_of_the_study, ["search.seed=1"], ["recipe.epochs=1"]]
    same, *different = [search.default_folder(search.search_cell([*named, *other])).name for other in others]
    assert same == COMMITTED
    assert all(re.fullmatch(rf"{COMMITTED}-[0-9a-f]{{8}}", name) for name in different)
    assert len(set(different)) == 2


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["task.target=[0,3]"], "search-ssd-digits-resnet18-class-upright_0-upright_3-gap-strict-quick"),
        (
            ["model=timm", "model.timm_name=test_resnet"],
            "search-ssd-digits-test_resnet-class-upright_2-gap-strict-quick",
        ),
    ],
    ids=["two classes", "a model of timm's"],
)
def test_the_folder_of_any_search_is_a_key_of_hydras(words, name):
    folder = search.default_folder(search.search_cell(["search=ssd", "profile=quick", *words]))
    assert re.fullmatch(rf"{name}-[0-9a-f]{{8}}", folder.name)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["search=ssd"], "b3a1e919a30bfff3"),
        (["search=finetune", "search/objective=score", "task=random", "protocol=paper"], "8635354153426b83"),
        (["search=unsir", "search.seed=3", "search.held_out=null"], "315cbc0b44a90df4"),
    ],
)
def test_running_studies_continue(overrides, key):
    """Keys as the version before made them: a study's data base and name follow from them."""
    assert search.study_key(search.search_cell(overrides)) == key


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A search that differs in all else: of integers, in a journal, protocol strict, no retrained model, a failure."""
    folder, splits, look_at = tmp_path_factory.mktemp("scored"), [], pipeline.look_at

    def fragile(bench, *arguments):
        splits.append(bench.split)
        if len(splits) == 2:  # the first call is the configured values'
            raise FloatingPointError("Expected finite logits")
        return look_at(bench, *arguments)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(pipeline, "look_at", fragile)
        parameters = "search.parameters=[{name:recipe.epochs,low:1,high:3,integer:true}]"
        words = ["search=finetune", "search/objective=score", "~method@reference", "search.n_trials=3", parameters]
        assert start([*words, f"search.storage={folder}/new/a.journal"], folder, monkeypatch) == 0
    return folder, splits[0]


def test_one_parameter_of_any_method_and_no_retrained_model(scored):
    folder, _ = scored
    assert not (folder / "runs" / "artefacts" / "outputs").exists()
    trials = trials_of(folder)
    assert list(trials["state"]) == ["pruned", "complete", "complete", "complete"]
    assert "Expected finite logits" in trials["error"][0]
    assert trials["recipe.epochs"].isin(range(1, 4)).all()
    expected = trials["retain_accuracy"] - trials["forget_accuracy"] - trials["mia"]
    assert trials["value"][1:].to_numpy() == pytest.approx(expected[1:].to_numpy(), abs=1e-5)
    best = OmegaConf.load(folder / "out" / "found" / "best.yaml")
    assert best.recipe.epochs == trials.loc[trials["value"].idxmax(), "recipe.epochs"]


def test_strict_is_judged_on_held_out_training_images(scored):
    folder, split = scored
    plain = Workbench(search.search_cell(["search=ssd", "search.held_out=null", *SMALL])).dataset
    judged = {*split.forget_test.index.tolist(), *split.retain_test.index.tolist()}
    learnt = {*split.forget_train.index.tolist(), *split.retain_train.index.tolist()}
    assert len(judged) == 20
    assert judged | learnt == set(plain.train.index.tolist())
    assert not judged & learnt
    assert split.retain_test.storage is not plain.test.storage
    summary = (folder / "out" / "found" / "summary.md").read_text()
    assert "20 training images held out" in summary
    assert "held_out" not in summary.split("The best values")[1]


def test_a_trial_over_several_seeds_is_the_mean_of_its_models(tmp_path, monkeypatch):
    table = {}
    for name, words in {"0": [], "1": ["method_seed=1"], "both": ["search.seeds=2"]}.items():
        arguments = ["search=ssd", "search.n_trials=2", *words, f"out={tmp_path / name}"]
        assert start(arguments, tmp_path, monkeypatch) == 0
        table[name] = pd.read_csv(tmp_path / name / "trials.csv")
    both = table["both"]
    metrics = ["value", "retain_accuracy", "forget_accuracy", "mia"]
    assert all((one["alpha"] == both["alpha"]).all() for one in table.values())
    mean = (table["0"][metrics] + table["1"][metrics]) / 2
    pd.testing.assert_frame_equal(both[metrics], mean, rtol=1e-5, check_dtype=False)
    assert both["each.1"].to_numpy() == pytest.approx(table["1"]["value"].to_numpy(), rel=1e-5)
    assert "each trial is the mean over 2 method seeds" in (tmp_path / "both" / "summary.md").read_text()


def test_a_search_goes_on_though_the_configured_values_diverge(tmp_path, monkeypatch):
    words = ["search=cf_k", "search.n_trials=1", "method.recipe.lr=1e30", "method.recipe.epochs=1"]
    assert start(words, tmp_path, monkeypatch) == 0
    configured, best = re.findall(r"^\| (?:configured|best).*", (tmp_path / "out/found/summary.md").read_text(), re.M)
    assert configured == "| configured | 1e+30 | 6 |  |  |  |  |"
    assert re.search(r"(\| \d+\.\d\d ){4}\|$", best)
    several = ["-m", *words, f"out={tmp_path / 'several'}"]
    assert start(several, tmp_path, monkeypatch) == 0
    assert "| diverges | " in (tmp_path / "several" / "table.md").read_text()


@pytest.mark.parametrize(
    "name", sorted({path.stem for path in (ROOT / "configs" / "search").glob("*.yaml")} - {"common"})
)
def test_every_search_composes_and_names_parameters_of_its_method(name):
    cell = search.search_cell([f"search={name}", "protocol=paper"])
    search.check_parameters(content(cell.config.search.parameters), without_about(cell.config.method))
    assert cell.labels["method"] == cell.config.search.name == name


def test_the_command_of_the_best_values_sets_apart_what_the_search_does():
    study = optuna.create_study()
    study.add_trial(optuna.trial.create_trial(value=0.0))
    for words, share in ([], 0.1), (["dataset.subset.validation=0.2"], 0.2):
        command = shlex.split(command_of(search.search_cell(["search=scrub_r", "budget=9m", *words]), study))
        (cell,) = cells_of(command[3:])
        assert (cell.labels["method"], cell.config.dataset.subset.validation) == ("scrub_r", share)
        assert "budget=9m" not in command


def test_a_budget_that_is_over_leaves_the_configured_values_too(found, tmp_path, monkeypatch):
    monkeypatch.setattr(search, "make_evaluate", lambda *_: budget.end_at(0) or pytest.fail)
    words = ["search=ssd", "protocol=paper", "search.seed=1", f"out={tmp_path}"]
    assert start(words, found[0], monkeypatch) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["search.n_trials=2"],
            "Expected search=…, for example search=ssd, but got none; there are advanced_neggrad, ",
        ),
        (["search=common"], "search.parameters"),
        (["search=ssd", "search.n_trials=0"], "search.n_trials to be a whole number from 1 on, but got 0"),
        (["search=ssd", "search.held_out=2"], "search.held_out to be a finite number in (0, 1) or null, but got 2"),
        (["search=ssd", "search.storage=nosuch://x"], "search.storage to be a database's URL or a file"),
        (["search=ssd", "search.objective.metrics=[mia,gap]"], ", which need no other model, but got "),
        (["search=ssd", "~method@reference"], "use search/objective=score"),
        (["search=ssd", "requests=sequence"], "Expected one forget request to search on, but got "),
        (["search=unsir", "task=random", "task.n=5"], "applies to the task"),
        (["search=ssd", "method_seed=0,1"], "Expected one cell to search on, but got 2"),
        (["search=ssd", "launcher=local"], "no launcher in a search, but got launcher=local; trials run one after"),
        (["search=ssd", "hydra.launcher.workers=2"], "the same command several times"),
        (["search=ssd", "force=true"], "search.storage=ANOTHER"),
        (["search=ssd", "save_model=m.safetensors"], "no save_model in a search"),
        (["search=ssd", "stage=original"], "no stage in a search"),
    ],
)
def test_errors_are_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    assert start(arguments, tmp_path, monkeypatch) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert message in line


def command(folder, *arguments):
    words = [*SMALL, f"output_dir={folder}/runs", f"out={folder}/out/found", "search=ssd", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "benchmark.search", *words], cwd=ROOT, env=environment)


def complete(folder):
    """The number of complete trials, read without touching the storage."""
    for path in (folder / "runs" / "searches").glob("*.db"):
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            try:
                return connection.execute("SELECT count(*) FROM trials WHERE state = 'COMPLETE'").fetchone()[0]
            except sqlite3.OperationalError:
                pass  # no tables yet
    return 0


@pytest.mark.slow
def test_a_search_that_is_killed_ends_with_n_trials(tmp_path):
    process = command(tmp_path, "search.n_trials=50")
    while complete(tmp_path) < 10:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert complete(tmp_path) < 50
    assert command(tmp_path, "search.n_trials=50").wait() == 0
    trials = trials_of(tmp_path)
    assert (trials["state"] == "complete").sum() == 50
    assert len(trials) <= 51
    assert records_of(tmp_path / "runs") == {}


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """The folder of two searches and of one whose method does not apply."""
    folder = tmp_path_factory.mktemp("several")
    with pytest.MonkeyPatch.context() as monkeypatch:
        words = ["-m", "search=ssd,unsir", "task=class,random", "protocol=paper", "search.n_trials=3"]
        assert start(words, folder, monkeypatch) == 0
    return folder / "out" / "found"


def test_several_searches_give_a_table_of_values_with_a_row_per_option(several):
    table = pd.read_csv(several / "table.csv")
    pairs = {("ssd", "class"), ("ssd", "random"), ("unsir", "class")}
    assert {*zip(table["method"], table["task"], strict=True)} == pairs
    trials = pd.read_csv(several / "trials.csv")
    searches = [json.loads(line) for line in (several / "searches.jsonl").read_text("utf-8").splitlines()]
    keys = {one["command"]: one["study"] for one in searches if "command" in one}
    for _, row in table.iterrows():
        values = trials[trials["study"] == keys[row["command"]]]
        assert row["best_objective"] == pytest.approx(100 * values["value"].min(), abs=0.01)
        assert row["near"] == f"{(values['value'] - values['value'].min() <= 0.01).sum()} of 3"
    assert "n/a: UNSIR, random: Expected a method that applies" in (several / "table.md").read_text("utf-8")


def test_the_table_follows_from_its_trials(several):
    assert {name: text.encode() for name, text in stored_files(several).items()} == {
        path.name: path.read_bytes() for path in several.iterdir()
    }


def test_a_folder_of_searches_keeps_what_it_holds(several, tmp_path, monkeypatch, caplog):
    """A fresh clone holds the table, not the storage of the trials."""
    folder = tmp_path / "out" / "found"
    shutil.copytree(several, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    words = ["-m", "search=ssd,unsir", "task=class,random", "protocol=paper"]
    assert start([*words, "search.n_trials=2"], tmp_path, monkeypatch) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert caplog.text.count("holds more trials of this search; they stay") == 3
    assert start(["-m", "search=ssd", "task=class", "protocol=strict", "search.n_trials=2"], tmp_path, monkeypatch) == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_whatever_ends_one_search_the_next_one_runs(tmp_path, monkeypatch):
    begun = []

    def ended(cell):
        begun.append(cell.labels["method"])
        raise TypeError("of a plug-in")

    monkeypatch.setattr(several_searches, "ended", ended)
    cells = search.search_cells(["search=ssd,finetune"])
    with pytest.raises(ValueError, match=r"all failed, the first by: of a plug-in"):
        several_searches.run_searches(cells, tmp_path)
    assert begun == ["ssd", "finetune"]


def test_values_near_the_best_are_a_range_or_choices():
    names = dict.fromkeys(("study", "command", "method", "dataset", "task", "target"), "x")
    configured = {"objective": 0.5, "lr": 0.1, "kind": "a"}
    search = {**names, "direction": "minimize", "best": 1, "n_forget": 5, "n_train": 10, "configured": configured}
    trials = pd.DataFrame({
        "study": "x", "state": ["complete", "complete", "complete", "fail"], "number": range(4),
        "value": [0.105, 0.1, 0.3, ""],
        "parameters": [json.dumps({"lr": lr, "kind": kind}) for lr, kind in [(1, "a"), (2, "b"), (9, "c"), (8, "d")]],
    })  # fmt: skip
    lr, kind = rows_of(search, trials)
    assert (lr["near"], lr["best"], lr["flat"], kind["flat"]) == ("2 of 3", "2", "1 to 2", "a, b")


def test_several_searches_need_a_folder(monkeypatch, capsys):
    assert run_command(["-m", "search=ssd,unsir"], monkeypatch, main=main) == 1
    assert "Expected out=FOLDER" in capsys.readouterr().err
