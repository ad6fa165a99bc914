"""Plug-ins from a folder outside the repository: how many files each kind takes; it runs and stands in a table."""

import textwrap
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from command_line import TINY, run_command

from benchmark.report.__main__ import main as report_main
from benchmark.search.__main__ import main as search_main

GRID = ["experiment=demo", "case=digits_class", "method_seed=0"]
Command = Callable[..., int]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Where records and originals lie; all kinds share them."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def house(tmp_path, monkeypatch) -> Path:
    """A folder of the user's, on PYTHONPATH; what is below configs/ is found by --config-dir."""
    folder = tmp_path / "mine"
    (folder / "configs").mkdir(parents=True)
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture
def command(house, runs, monkeypatch) -> Command:
    """Run a command of the suite with the user's configuration; return its exit code."""

    def call(*arguments: str, main: Callable | None = None) -> int:
        own = [f"--config-dir={house / 'configs'}", f"output_dir={runs}", *arguments]
        return run_command(own, monkeypatch, **({} if main is None else {"main": main}))

    return call


@pytest.fixture
def table(command, house) -> Callable[..., pd.DataFrame]:
    """Run a grid and return its table, one row per block, metric and method."""

    def make(*overrides: str) -> pd.DataFrame:
        assert command(*overrides) == 0
        name, *rest = (word.replace("experiment=", "table=") for word in overrides)
        assert command(name, *rest, f"out={house / 'out'}", main=report_main) == 0
        return pd.read_csv(house / "out" / "table.csv")

    return make


def add(house: Path, *, files: int, plugin: dict[str, str]) -> None:
    """Write a plug-in of so many files."""
    assert len(plugin) == files
    for name, text in plugin.items():
        path = house / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


def values_of(table: pd.DataFrame, metric: str) -> dict[str, float]:
    rows = table[table["metric"] == metric]
    return dict(zip(rows["method"], rows["mean"], strict=True))


def test_a_method_takes_two_files(house, command, table):
    add(house, files=2, plugin={
        "plugin_head.py": """
            from dataclasses import dataclass
            import torch
            from methods.base import get_classifier


            @dataclass(frozen=True)
            class HeadNoise:
                sigma: float

                @torch.no_grad()
                def __call__(self, model, split, context):
                    for parameter in get_classifier(model).parameters():
                        noise = torch.randn(parameter.shape, generator=context.random("noise"), device=context.device)
                        parameter.add_(self.sigma * noise)
                    return model.eval()
        """,
        "configs/method/head_noise.yaml": """
            about: {label: Head noise, order: 1.5}
            _target_: plugin_head.HeadNoise
            sigma: 3.0
        """,
    })  # fmt: skip
    made = table(*GRID, *TINY, "method=baseline,head_noise", "table.metrics=[retain_accuracy,changed_fraction]")
    changed = values_of(made, "changed_fraction")
    assert changed["baseline"] == 0 < changed["head_noise"] < 100
    assert "| Baseline | Head noise |" in (house / "out" / "table.md").read_text()
    add(house, files=1, plugin={"configs/search/head.yaml": """
        # @package _global_
        defaults: [common, {override /method: head_noise}, _self_]
        search: {name: head, parameters: [{name: sigma, low: 0.1, high: 3.0}]}
    """})  # fmt: skip
    more = ["dataset.subset.train_images=200", *TINY[1:], "search.n_trials=2", f"out={house / 'found'}"]
    assert command("search=head", *more, main=search_main) == 0
    assert len(pd.read_csv(house / "found" / "trials.csv")) == 2


def test_a_variant_takes_one_file_and_is_a_method_of_its_own(house, command, table):
    add(house, files=1, plugin={
        "configs/method/mild.yaml": """
            defaults: [ssd, _self_]
            about: {label: Mild SSD, order: 8.5}
            alpha: 1.0
        """,
    })  # fmt: skip
    made = table(*GRID, *TINY, "method=ssd,mild", "table.metrics=[changed_fraction]")
    assert made["n"].tolist() == [1, 1]  # never pooled, although class and seed are the same
    changed = values_of(made, "changed_fraction")
    assert changed["ssd"] < changed["mild"]
    assert "| SSD | Mild SSD |" in (house / "out" / "table.md").read_text()


def test_a_metric_takes_two_files_and_is_printed_in_its_own_unit(house, table):
    add(house, files=2, plugin={
        "plugin_entropy.py": """
            def entropy(outputs, *, split):
                logits = outputs.logits[split].log_softmax(dim=1)
                return float(-(logits.exp() * logits).sum(dim=1).mean())


            def kept_confidence(outputs):
                return entropy(outputs.others["retrained"], split="forget_train")
        """,
        "configs/metric/entropy.yaml": r"""
            entropy:
              about: {label: H, latex: '$H$', order: 3.5, unit: nats, scale: 1, decimals: 3}
              _target_: plugin_entropy.entropy
              _partial_: true
              split: forget_train
            retrained_entropy:
              about: {label: H of retrained, order: 3.6, unit: nats, scale: 1, needs: [retrained]}
              _target_: plugin_entropy.kept_confidence
              _partial_: true
        """,
    })  # fmt: skip
    own = ["metric=[accuracy,membership,divergence,weights,entropy]",
           "table.metrics=[retain_accuracy,entropy,retrained_entropy]"]  # fmt: skip
    made = table(*GRID, *TINY, "method=retrain,baseline", *own)
    entropy = values_of(made, "entropy")
    assert all(0 < value < 2.303 for value in entropy.values())  # at most log(10); not times 100
    assert values_of(made, "retrained_entropy")["baseline"] == pytest.approx(entropy["retrain"], abs=0.01)
    markdown, latex = ((house / "out" / f"table.{kind}").read_text() for kind in ("md", "tex"))
    assert "| H |" in markdown
    assert "$H$" in latex
    assert "Percent but for H" in markdown


def test_a_data_set_takes_two_files(house, table):
    add(house, files=2, plugin={
        "plugin_shades.py": """
            import numpy as np
            from datasets.arrays import fingerprint
            from datasets.base import ImageDataset, LabelledImages

            CLASSES = ("dark", "grey", "bright")


            def load():
                arrays = {}
                for part, n in (("train", 60), ("test", 30)):
                    labels = np.arange(n) % 3
                    shade = (80 * labels + np.arange(n) % 7).astype(np.uint8)
                    images = np.broadcast_to(shade[:, None, None, None], (n, 8, 8, 3)).copy()
                    arrays |= {f"{part}_images": images, f"{part}_labels": labels.astype(np.int64)}
                train, test = (
                    LabelledImages.from_tensors(arrays[f"{part}_images"], arrays[f"{part}_labels"])
                    for part in ("train", "test")
                )
                return ImageDataset("shades", train, test, CLASSES, CLASSES, fingerprint(arrays))
        """,
        "configs/dataset/shades.yaml": """
            name: shades
            label: Shades of grey
            load: {_target_: plugin_shades.load}
            fingerprint: 1eb634fe85c536823abaef5a9e79f07da3eb6c04e33d7e8a97291bb044047a8e
            classes: {class: plugin_shades.CLASSES}
            subset: {train_images: null, test_images: null, seed: 0}
            mean: null
            std: null
            augmentation: null
            recipes: {resnet18: {epochs: 2, milestones: []}}
            targets: {class: grey}
            requests: {class: {targets: [grey, dark], n: "range(1,3)"}}
        """,
    })  # fmt: skip
    made = table(*GRID, "dataset=shades", "model.width=2",
                 "method=retrain,ssd", "task.target=1,dark", "table.metrics=[forget_accuracy]")  # fmt: skip
    assert set(made["dataset"]) == {"shades"}
    assert set(made["target"]) == {"grey", "dark"}  # 1 is grey: names come from the YAML
    assert len(made) == 4


def test_a_model_takes_two_files(house, table):
    add(house, files=2, plugin={
        "plugin_linear.py": """
            from torch import nn


            class Linear(nn.Module):
                def __init__(self, num_classes, *, pixels):
                    super().__init__()
                    self.fc = nn.Linear(3 * pixels, num_classes)

                def forward(self, images):
                    return self.fc(images.flatten(1))

                def get_classifier(self):
                    return self.fc
        """,
        "configs/model/linear.yaml": """
            name: linear
            rows: resnet18
            image_size: null
            mean: ${dataset.mean}
            std: ${dataset.std}
            training: {optimizer: sgd, lr: 0.01, weight_decay: 0.0}
            build: {_target_: plugin_linear.Linear, pixels: 256}
            untrained: {}
            eval_batch_size: 500
        """,
    })  # fmt: skip
    tiny = [word for word in TINY if not word.startswith("model")]
    made = table(*GRID, *tiny, "model=linear", "method=baseline,ssd", "table.metrics=[retain_accuracy]")
    assert set(made["model"]) == {"linear"}
    assert len(made) == 2


def test_a_figure_takes_two_files(house, command):
    add(house, files=2, plugin={
        "plugin_figure.py": """
            from matplotlib.figure import Figure


            def accuracies(records, *, title, about):
                shown = records.set_index("method")["metrics.retain_accuracy"]
                figure = Figure()
                figure.subplots().bar([about.method(name).label for name in shown.index], shown)
                figure.suptitle(title)
                return figure, {"accuracies.csv": shown.to_csv()}
        """,
        "configs/experiment/accuracies.yaml": """
            # @package _global_
            defaults: [{override /protocol: paper}, {override /case: digits_class}]
            table: {title: Retained accuracy}
            figure: {_target_: plugin_figure.accuracies}
            hydra: {mode: MULTIRUN, sweeper: {params: {method: "baseline,ssd"}}}
        """,
    })  # fmt: skip
    assert command("experiment=accuracies", *TINY) == 0
    assert command("figure=accuracies", *TINY, f"out={house / 'out'}", main=report_main) == 0
    assert {"figure.png", "figure.pdf", "accuracies.csv"} <= {path.name for path in (house / "out").iterdir()}
    assert set(pd.read_csv(house / "out" / "accuracies.csv")["method"]) == {"baseline", "ssd"}


def test_a_quirk_takes_three_files_with_the_method_that_reads_it(house, command, table, capsys):
    add(house, files=3, plugin={
        "plugin_shrink.py": """
            from dataclasses import dataclass
            import torch
            from methods.base import get_classifier


            @dataclass(frozen=True)
            class Shrink:
                head_only: bool

                @torch.no_grad()
                def __call__(self, model, split, context):
                    for parameter in (get_classifier(model) if self.head_only else model).parameters():
                        parameter.mul_(0.5)
                    return model.eval()
        """,
        "configs/method/shrink.yaml": """
            about: {label: Shrink}
            _target_: plugin_shrink.Shrink
            head_only: ${option:shrink.head_only}
        """,
        "configs/protocol/released.yaml": """
            defaults: [paper, _self_]
            name: released
            shrink: {head_only: true}
        """,
    })  # fmt: skip
    made = table(*GRID, *TINY, "protocol=released", "method=shrink", "switched=none,exact",
                 "+switches.exact='shrink.head_only=false'", "table.metrics=[changed_fraction]")  # fmt: skip
    changed = dict(zip(made["ablation"], made["mean"], strict=True))
    assert changed["none"] < changed["exact"]  # the head alone; every layer
    assert command(*GRID, *TINY, "method=shrink") != 0  # a protocol that does not say which
    assert "Expected an option shrink.head_only in the YAML file of protocol=paper; add it." in capsys.readouterr().err


def test_a_task_takes_two_files(house, table):
    add(house, files=2, plugin={
        "plugin_every.py": """
            import torch
            from datasets.base import ForgetSplit
            from datasets.splits import partition


            def every(dataset, *, nth):
                forgotten = torch.arange(len(dataset.train)) % nth == 0
                forget, retain = partition(dataset.train, forgotten.to(dataset.train.device))
                return ForgetSplit(forget, retain, forget, dataset.test, len(dataset.class_names), f"every-{nth}")
        """,
        "configs/task/every.yaml": """
            name: every
            target: every
            level: null
            requests: null
            labels: fine
            batch_size: 64
            importance_order: class_sorted
            split: {_target_: plugin_every.every, _partial_: true, nth: 10}
        """,
    })  # fmt: skip
    made = table(*GRID, *TINY, "task=every", "task.target=every", "method=baseline,ssd",
                 "table.metrics=[forget_accuracy]")  # fmt: skip
    assert set(made["task"]) == {"every"}
    assert made["mean"].notna().all()
