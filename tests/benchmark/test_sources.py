"""Results know the code and the files that they were made with; an edit of those makes them again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import TINY, make_cell

from benchmark import sources
from benchmark.files import content_hash
from benchmark.records import load_records
from datasets.files import file_sha256

ROOT = Path(__file__).parents[2]
METHOD = '''
"""A method of a user."""

from dataclasses import dataclass

import mine_parts


@dataclass(frozen=True)
class Mine:
    """Scales the last bias."""

    factor: float = 1.0

    def __call__(self, model, split, context):
        model.get_classifier().bias.data.mul_(mine_parts.FACTOR * self.factor)
        return model.eval()
'''


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with a method `mine`, found by imports."""
    (tmp_path / "mine.py").write_text(METHOD)
    (tmp_path / "mine_parts.py").write_text("FACTOR = 2.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def hash_of(node: dict) -> dict[str, str]:
    for function in (sources.module_of, sources.module_hash, sources.found_file):
        function.cache_clear()
    return sources.sources_of({"method": node}, own=True)


def test_code_counts_and_words_do_not(folder):
    first = hash_of({"_target_": "mine.Mine"})
    assert set(first) == {"mine"}
    (folder / "mine.py").write_text(METHOD.replace("Scales the last bias.", "Other words.") + "\n# a comment\n")
    assert hash_of({"_target_": "mine.Mine"}) == first
    (folder / "mine.py").write_text(METHOD.replace("1.0", "1.5"))
    assert hash_of({"_target_": "mine.Mine"}) != first
    (folder / "mine.py").write_text(METHOD)
    (folder / "mine_parts.py").write_text("FACTOR = 3.0\n")
    assert hash_of({"_target_": "mine.Mine"}) != first


def test_files_that_options_name_count_by_their_content(folder):
    node = {"_target_": "mine.Mine", "parts": [{"scores": str(folder / "scores.csv")}]}
    assert set(hash_of(node)) == {"mine"}
    (folder / "scores.csv").write_text("1")
    first = hash_of(node)
    assert set(first) == {"mine", "method.parts.0.scores"}
    (folder / "scores.csv").write_text("2")
    assert sources.changes(first, hash_of(node)) == ["method.parts.0.scores"]


def test_of_this_project_the_method_counts_and_of_others_all_code(folder):
    recipe = {"_target_": "methods.training.Recipe.constant"}
    assert set(hash_of({"_target_": "methods.finetune.Finetune", "recipe": recipe})) == {"methods.finetune"}
    assert set(hash_of({"_target_": "methods.finetune.Finetune", "recipe": {"_target_": "mine.Mine"}})) == {
        "methods.finetune", "mine"
    }  # fmt: skip
    assert sources.sources_of({"task": {"_target_": "datasets.splits.class_split"}}) == {}


def test_all_code_of_a_plug_in_counts_and_that_of_this_repository_outside_the_suite(folder):
    package = folder / "theirs"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "base.py").write_text("FACTOR = 2.0\n")  # the name of a module of ours that does not count
    (package / "mine.py").write_text("from theirs.base import FACTOR\n")
    first = hash_of({"_target_": "theirs.mine.Mine"})
    (package / "base.py").write_text("FACTOR = 3.0\n")
    assert (second := hash_of({"_target_": "theirs.mine.Mine"})) != first
    (package / "parts").mkdir()
    (package / "parts" / "far.py").write_text("{{ a template }} of = no code\n")
    assert hash_of({"_target_": "theirs.mine.Mine"}) != second
    assert set(sources.sources_of({"task": {"_target_": "scripts.speed.main"}})) == {"scripts.speed"}


def test_an_installed_plug_in_counts_with_all_that_was_installed_with_it(tmp_path, monkeypatch):
    site = tmp_path / "site-packages"
    about = site / "mine-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "mine.py").write_text(METHOD)
    (site / "mine_parts.py").write_text("FACTOR = 2.0\n")
    (site / "torch.py").write_text("the package of somebody else")
    monkeypatch.syspath_prepend(site)
    alone = hash_of({"_target_": "mine.Mine"})
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (about / "RECORD").write_text("mine.py,,\nmine_parts.py,,\nmine-1.0.dist-info/METADATA,,\n")
    first = hash_of({"_target_": "mine.Mine"})
    assert set(first) == set(alone) == {"mine"}
    (site / "mine_parts.py").write_text("FACTOR = 3.0\n")
    second = hash_of({"_target_": "mine.Mine"})
    assert len({*alone.values(), *first.values(), *second.values()}) == 3
    (site / "torch.py").write_text("another version")
    assert hash_of({"_target_": "mine.Mine"}) == second


def test_a_checkout_behind_a_link_is_this_project_too(tmp_path):
    (tmp_path / "link").symlink_to(ROOT)
    code = "from benchmark.sources import is_ours; print(is_ours('methods.ssd'))"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "link")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def test_code_counts_however_far_away_it_is_imported():
    package = sources.files_of(ROOT / "methods" / "dampening")
    assert len(package) > 3
    read = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "plain_code", lambda path: read.append(path) or "")
        sources.module_hash.__wrapped__("methods.fisher")  # by way of methods.fisher_information
    assert {*package} < {*read}
    assert not {path.stem for path in read} & sources.SHARED


def test_a_record_knows_its_method_its_metrics_and_the_retrained_models_method(tmp_path):
    old, new = "accuracy divergence membership weights", "attack closeness intervals margins separation"
    modules = {"methods.ssd", "methods.retrain", *(f"metrics.{name}" for name in f"{old} {new}".split())}
    assert set(make_cell(tmp_path, "method=ssd").code) == modules
    assert set(make_cell(tmp_path, "method=ssd").outputs_code) == {"methods.ssd"}
    assert set(make_cell(tmp_path, "method=ssd", "metric=accuracy").code) == {"methods.ssd", "metrics.accuracy"}


def test_the_hash_of_the_suite_tells_edits_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    hashes = []
    for name in ("methods/ssd.py", "methods/my_method.py", "configs/method/ssd.yaml", "README.md", "results/table.md"):
        for text in ("one", "two"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
            hashes.append(sources.suite_hash.__wrapped__())
    assert len(set(hashes)) == 6
    assert len(set(hashes[5:])) == 1


@pytest.mark.slow
def test_an_edited_method_gives_its_new_number(folder):
    """The same command after an edit: made again; with `reuse=true` the old number; with `force=true` again."""
    (folder / "method").mkdir()
    (folder / "method" / "mine.yaml").write_text("_target_: mine.Mine\n")
    runs = folder / "runs"
    command = [sys.executable, "-m", "benchmark.run", "--config-dir", str(folder), "plugins=[mine]", "method=mine"]
    others = {content_hash(make_cell(runs, f"method={name}").outputs_key) for name in ("retrain", "baseline")}

    def run(*words: str) -> tuple[str, str, str]:
        """Return when the record was made, the hash of the outputs and the lines on screen."""
        done = subprocess.run(
            [*command, *TINY, f"output_dir={runs}", *words], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(folder)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        (record,) = [x for x in load_records(runs / "records") if x.labels["method"] == "mine"]
        (outputs,) = [path for path in runs.glob("artefacts/outputs/*.safetensors") if path.stem not in others]
        return record.provenance["finished"], file_sha256(outputs), done.stderr

    def originals() -> set[int]:
        return {path.stat().st_mtime_ns for path in runs.glob("artefacts/original/*.json")}

    finished, first, _ = run()
    trained = originals()
    assert run()[:2] == (finished, first)
    (folder / "mine.py").write_text(METHOD.replace("1.0", "-4.0"))
    assert run("reuse=true")[:2] == (finished, first)
    _, second, said = run()
    assert second != first
    assert "made with another version of mine: making it again" in said
    _, third, said = run()
    assert (third, "making it again" in said) == (second, False)
    outputs = {path: path.stat().st_mtime_ns for path in runs.glob("artefacts/outputs/*.json")}
    assert run("force=true")[1] == second
    remade = [path.stem for path, time in outputs.items() if path.stat().st_mtime_ns != time]
    assert len(remade) == 1
    assert not others.intersection(remade)
    assert originals() == trained
