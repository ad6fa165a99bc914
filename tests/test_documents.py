"""What the documents show is true: the example method runs, the commands name things that exist."""

import re
import shlex
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml
from hydra.utils import instantiate

from benchmark.compose import cells_of
from benchmark.run import run_cell

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def block(text: str, language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    assert found, f"no {language} block"
    return found[1]


def test_example_method_of_contributing(cnn, split, context, monkeypatch):
    module = types.ModuleType("methods.head_noise")
    monkeypatch.setitem(sys.modules, "methods.head_noise", module)
    exec(block(CONTRIBUTING, "python"), module.__dict__)
    method = instantiate(yaml.safe_load(block(CONTRIBUTING, "yaml")))
    before = {name: value.clone() for name, value in cnn.state_dict().items()}
    state = torch.get_rng_state()
    model = method(cnn, split, context)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"fc.weight", "fc.bias"}
    assert not model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_library_example_of_the_readme(cnn, split, context):
    batches = context.batches(split.retain_train.join(split.forget_train), 4)
    names = {"model": cnn, "train_batches": batches, "forget_batches": context.batches(split.forget_train, 4)}
    exec(block(README, "python"), names)
    assert isinstance(names["n_dampened"], int)


def commands(text: str, module: str) -> list[str]:
    return re.findall(rf"^python -m {re.escape(module)}(.*)$", text, flags=re.MULTILINE)


@pytest.mark.parametrize("line", [*commands(README, "benchmark.run"), *commands(CONTRIBUTING, "benchmark.run")])
def test_commands_compose(line):
    words = [word for word in shlex.split(line, comments=True) if not word.startswith("-") and word != "job"]
    overrides = [word for word in words if not word.startswith(("launcher=", "hydra."))]  # those need plug-ins
    assert cells_of(overrides)


SHRUNK = [
    "model.width=2", "recipe.epochs=1", "dataset.subset.train_images=120", "dataset.subset.test_images=30",
    "~method@reference", "compute.threads=1",
]  # fmt: skip


def test_sweeps_of_the_readme_run(tmp_path):
    """Every cell of every sweep, on few images and a narrow network; a cell that sweeps share is the same run."""
    sweeps = commands(block(README, "sweeps"), "benchmark.run")
    assert len(sweeps) == 5
    runs = 0
    for line in sweeps:
        overrides = [word for word in shlex.split(line, comments=True) if word != "-m"]
        cells = cells_of([*overrides, *SHRUNK, f"output_dir={tmp_path}"])
        assert len({cell.run_id for cell in cells}) == len(cells) > 1
        for cell in cells:
            runs += 1
            run_cell(cell)
    records = list((tmp_path / "records").glob("*.json"))
    assert 0 < len(records) < runs


def test_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"^make ([a-z]+)", README, flags=re.MULTILINE)) - {"reproduce"}:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_tables_of_the_readme_are_those_of_results():
    shown = re.findall(r"^<!-- (results/\S+) -->\n", README, flags=re.MULTILINE)
    assert shown
    for path in shown:
        _, _, text = README.partition(f"<!-- {path} -->\n")
        assert text.startswith((ROOT / path).read_text()), path


def test_links_lead_somewhere():
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "results" / "README.md"):
        for link in re.findall(r"\]\((?!https:)([^)#]+)\)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name}: {link}"
