"""A configuration may name this project's code and that of the plug-ins of the command line, and no other."""

import pickle

import pytest
from command_line import TINY, composed, run_command
from hydra import compose
from omegaconf import OmegaConf

from benchmark.compose import choices, initialised
from benchmark.sources import leaves
from benchmark.targets import check_composed, check_targets, is_defined
from tests.conftest import Touching

GROUPS = ("case", "compute", "dataset", "experiment", "launcher", "method", "model", "profile", "protocol", "recipe",
          "requests", "search", "search/objective", "task")  # fmt: skip


def test_every_composed_configuration_names_this_projects_code_alone():
    names = {group: choices(group) for group in GROUPS}
    metrics = f"metric=[{','.join(choices('metric'))}]"
    found = set()
    with initialised():
        for i in range(max(map(len, names.values()))):
            words = [f"{group}={known[i % len(known)]}" for group, known in names.items()]
            config = compose("run", [metrics, *words], return_hydra_config=True)
            check_composed(config, words)
            found |= {value for path, value in leaves(OmegaConf.to_container(config)) if path.endswith("_target_")}
    assert len(found) > 30
    assert all(map(is_defined, (target for target in found if not target.startswith("hydra"))))


@pytest.mark.parametrize(
    "target",
    [
        "pandas.read_pickle", "torch.load", "builtins.open", "os.system", "open", "hydra.utils.get_method",
        "${nothing}", "benchmark.models.torch.load", "datasets.files.os.remove", "methods", "methods.ssd",
        "methods.nothing.Nothing", "benchmark.models.load_file", "metrics.accuracy.accuracy.__globals__",
    ],
)  # fmt: skip
def test_other_code_is_refused_before_it_is_imported(target, tmp_path):
    (cell,) = composed()
    for node in ("method", "metric.mia", "dataset.augmentation"):
        config = pickle.loads(pickle.dumps(cell.config))
        OmegaConf.update(config, f"{node}._target_", target)
        with pytest.raises(ValueError, match=rf"Expected {node}\._target_ to name .*, but got"):
            check_targets(OmegaConf.to_container(config))
    with pytest.raises(ValueError, match=r"dataset\.classes\.class to name"):
        check_targets({"dataset": {"classes": {"class": target}}})


def test_a_plug_in_is_what_its_package_defines(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "plugged").mkdir()
    (tmp_path / "plugged" / "__init__.py").write_text("from os import remove\nfrom plugged.inner import *\nimport os")
    (tmp_path / "plugged" / "inner.py").write_text("from torch import load\n\nclass Mine:\n    def make(): ...\n")
    right = ["plugged.Mine", "plugged.inner.Mine", "plugged.inner.Mine.make", "methods.dampening.dampen"]
    wrong = ["plugged.load", "plugged.inner.load", "plugged.remove", "plugged.os.remove", "plugged.inner.Mine.other"]
    assert [is_defined(name) for name in (*right, *wrong)] == [True] * 4 + [False] * 5
    check_targets({"a": {"_target_": "plugged.Mine"}}, ["plugged"])
    with pytest.raises(
        ValueError, match=r"got 'elsewhere\.Mine', which has no file; check the name, and that the folder"
    ):
        check_targets({"a": {"_target_": "elsewhere.Mine"}}, ["elsewhere"])
    (tmp_path / "plugged" / "wrong.py").write_text("x = 1\nclass Mine\n")
    with pytest.raises(ValueError, match=r"Expected Python code in .*/wrong\.py, but line 2 is none: expected ':'"):
        check_targets({"a": {"_target_": "plugged.wrong.Mine"}}, ["plugged"])
    with pytest.raises(ValueError, match=r"if you trust it, add plugins=\[plugged\] to the command"):
        check_targets({"a": {"_target_": "plugged.Mine"}})


PAYLOAD = "{_target_: pandas.read_pickle, filepath_or_buffer: FILE}"
FOREIGN = {
    "a method": f"# @package method\nrecipe: {PAYLOAD}",
    "a callback of Hydra": f"# @package _global_\nhydra: {{callbacks: {{mine: {PAYLOAD}}}}}",
    "a launcher's option": "# @package _global_\ndefaults: [{override /hydra/launcher: tasks}]\n"
    f"hydra: {{launcher: {{init: {PAYLOAD}}}}}",
    "a log": "# @package _global_\nhydra: {job_logging: {handlers: {x: {(): pandas.read_pickle}}}}",
    "a plug-in of a file": f"# @package _global_\nplugins: [pandas]\nmethod: {PAYLOAD}",
    "a plug-in of a sweep": "# @package _global_\nhydra: {sweeper: {params: {plugins: '[pandas]'}}}",
    "a variable": "# @package _global_\nhydra: {job: {env_set: {PATH: FILE}}}",
}


@pytest.mark.parametrize(("kind", "multirun"), [*((kind, []) for kind in FOREIGN), ("a callback of Hydra", ["-m"])])
def test_a_foreign_file_executes_nothing(kind, multirun, tmp_path, monkeypatch, capsys):
    trap = tmp_path / "executed"
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "payload.pkl").write_bytes(pickle.dumps(Touching(trap)))
    text = FOREIGN[kind].replace("FILE", str(tmp_path / "foreign" / "payload.pkl"))
    (tmp_path / "foreign" / "best.yaml").write_text(text)
    words = [*multirun, f"--config-dir={tmp_path}", "+foreign=best", *TINY, f"output_dir={tmp_path}/runs"]
    assert run_command(words, monkeypatch) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: Expected ")
    assert "\n" not in error
    assert not trap.exists()
    assert not (tmp_path / "runs").exists()
