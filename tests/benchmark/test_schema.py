"""Every option of every group: a wrong type, a number that is not finite and one out of range are named in one line."""

import math
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import TINY, composed, run_command
from omegaconf import OmegaConf

from benchmark import schema
from benchmark.cell import Cell
from benchmark.compose import cells_of
from benchmark.sources import leaves
from benchmark.workbench import Workbench
from datasets.values import fits

ALL_METRICS = "metric=[accuracy,membership,divergence,weights,newest]"
CONTEXTS = [
    ["method=unsir", "protocol=paper", "dataset=cifar20", "model=vit", "task=subclass", "search=ssd", ALL_METRICS],
    ["method=fisher", "dataset=pins", "task=random", "model=timm", "model.timm_name=test_resnet", "protocol=paper",
     "search=bad_teacher", "search/objective=score"],
    ["method=bad_teacher", "dataset=folder", "dataset.root=x", "task=indices", "task.file=x", "requests=sequence"],
    ["method=finetune", "dataset=npz", "dataset.file=x", "profile=quick", "compute=fast"],
    ["method=amnesiac", "dataset=cifar10", "switched=accuracy", "recipe=adam", "recipe.epochs=1",
     "recipe.batch_size=8"],
    ["method=retrain", "protocol=paper"],
    ["method=ssd", "requests=sequence"],
    ["method=scrub_r", "task=confusion", "relearn=steps", "+dataset.subset.validation=0.1"],
]  # fmt: skip
WRONG = {
    "type": ["many", [[]], True, 1.5],
    "finite": [math.nan, math.inf],
    "range": [-1, 0, 2, 10**9, "", "other"],
}
FREE = re.compile(r".*\._(target|partial)_|.*\.about\.name|dataset\.classes\..*|search\.parameters.*|"
                  r"dataset\.requests\.one_of.*|dataset\.recipes\..*\.augmentation|switches\..*")  # fmt: skip


def cases() -> Iterator[tuple[Cell, str, object]]:
    """Yield a cell, a key and a value that the key cannot have; each key once."""
    seen = set()
    for context in CONTEXTS:
        (cell,) = composed(*context)
        for key, _, kind in schema.options(cell.config, cell.contents.item):
            if key not in seen:
                seen.add(key)
                wrong = [next((x for x in values if not fits(x, kind)), None) for values in WRONG.values()]
                yield from ((cell, key, value) for value in wrong if value is not None)


@pytest.mark.slow
def test_every_option_refuses_what_it_cannot_be():
    n = 0
    for cell, key, value in cases():
        config = pickle.loads(pickle.dumps(cell.config))
        OmegaConf.update(config, key, value, merge=False, force_add=True)
        with pytest.raises(Exception, match=rf"(?s).*{re.escape(key)}") as error:
            Workbench(Cell(config))
        assert "\n" not in str(error.value), (key, value)
        assert str(error.value).startswith("Expected "), (key, value)
        n += 1
    assert n >= 400


def test_every_option_has_a_kind():
    for context in CONTEXTS:
        (cell,) = composed(*context)
        raw = OmegaConf.to_container(cell.config)
        plain = schema.known(raw, cell.config, schema.KEYS, "", cell.contents.item)
        built = schema.called(raw, cell.config, "", cell.contents.item)
        known = {key for options in (plain, built) for key, _, _ in options}
        known |= {schema.source(key, raw) for key in known}
        for path, value in leaves(raw):
            key = re.sub(r"\.\d+$", "", path)
            forwarded = isinstance(value, str) and "${" in value
            parents = {key[: dot.start()] for dot in re.finditer(r"\.", key)}
            assert known & {key, *parents} or forwarded or FREE.fullmatch(key), key


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["preprocessing.mean=[0.5,0.5,0.5]"], "preprocessing.mean and preprocessing.std"),
        (["requests.n=3"], "requests.n with targets"),
        (["dataset.augmentation.flip=maybe"], "dataset.augmentation.flip"),
        (["dataset.augmentation.padding=1.5"], "dataset.augmentation.padding"),
        (["recipe.decay=-1"], "recipe.decay"),
        (["recipe.milestones=[-1]"], "recipe.milestones"),
        (["method_seed=1.5"], "method_seed"),
        (["method_seed=true"], "method_seed"),
        (["compute.threads=10000"], "compute.threads"),
        (["method.alpha=true"], "method.alpha"),
        (["task.n=5", "task=random", "task.n=nan"], "task.n"),
        (["metric.mia.c=-1"], "metric.mia.c"),
        (["metric.retain_accuracy.split=train"], "metric.retain_accuracy.split"),
        (["~metric.retain_accuracy.averaging"], "metric.retain_accuracy.averaging"),
        (["output_dir="], "output_dir"),
        (["-m", "method.alpha=1,ten"], "method.alpha"),
    ],
)
def test_a_wrong_value_ends_a_run_before_it_begins(words, key, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_command([*TINY, *words], monkeypatch) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: Expected {'a value for ' if '~' in words[0] else ''}{key}")
    assert list(tmp_path.iterdir()) == []


def test_weights_of_a_model_that_starts_from_random_ones_are_refused():
    (cell,) = composed("model=timm", "model.timm_name=resnet18", "model.weights=x.pth")
    with pytest.raises(
        ValueError, match=r"Expected model\.pretrained=true beside model\.weights=x\.pth, but got false"
    ):
        Workbench(cell)


def test_a_tilde_is_the_home_folder_and_an_empty_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("UNLEARN_DATA_DIR", "~/data")
    (cell,) = cells_of(
        ["output_dir='~/runs'", "search=ssd", "search.storage='sqlite:///~/s.db'", "save_model='~/m.safetensors'"]
    )
    config = cell.config
    assert (config.output_dir, config.data_dir) == (f"{tmp_path}/runs", f"{tmp_path}/data")
    assert (config.search.storage, cell.model_file) == (f"sqlite:///{tmp_path}/s.db", Path(tmp_path, "m.safetensors"))
    monkeypatch.setitem(os.environ, "UNLEARN_DATA_DIR", "")
    (cell,) = cells_of(["dataset=cifar10"])
    with pytest.raises(Exception, match=r"Expected \$UNLEARN_DATA_DIR to name a folder, but it is empty"):
        _ = cell.scientific
