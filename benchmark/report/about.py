"""How methods and metrics are presented: labels, order, units, as their YAML says under `about`."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmark.cell import Cell, content
from benchmark.compose import CONFIGS
from benchmark.report import stub


@dataclass(frozen=True)
class MethodAbout:
    """A column: its head, its place among the others, and whether it is compared with them."""

    label: str
    order: float = math.inf
    ranked: bool = True


@dataclass(frozen=True)
class MetricAbout:
    """A number: its name (in LaTeX too), its place, and how it is printed: value × scale, in `unit`."""

    label: str
    latex: str = ""
    order: float = math.inf
    unit: str = ""
    scale: float = 1
    decimals: int = 2


@dataclass(frozen=True)
class About:
    """Methods and metrics by name."""

    methods: Mapping[str, MethodAbout] = field(default_factory=dict)
    metrics: Mapping[str, MetricAbout] = field(default_factory=dict)

    def method(self, name: str) -> MethodAbout:
        return self.methods.get(name, MethodAbout(name))

    def metric(self, name: str) -> MetricAbout:
        return self.metrics.get(name, MetricAbout(name))

    def sorted_methods(self, names: Iterable[str]) -> list[str]:
        """Return the methods in the order of columns, each once."""
        return sorted(dict.fromkeys(names), key=lambda name: (self.method(name).order, name))

    def sorted_metrics(self, names: Iterable[str]) -> list[str]:
        """Return the metrics in the order of rows, each once."""
        return sorted(dict.fromkeys(names), key=lambda name: (self.metric(name).order, name))


def read_about(cells: Sequence[Cell] = ()) -> About:
    """Return what the repository's YAML files say, and above them what those of `cells` say."""
    methods: dict[str, Mapping[str, Any]] = dict(stub.METHODS)
    metrics: dict[str, Mapping[str, Any]] = stub.METRICS | stub.DERIVED
    for path in sorted(Path(CONFIGS).glob("method/*.yaml")):
        methods[path.stem] = yaml.safe_load(path.read_text()).get("about", methods.get(path.stem, {}))
    for path in sorted(Path(CONFIGS).glob("metric/*.yaml")):
        nodes = yaml.safe_load(path.read_text())
        metrics |= {name: node["about"] for name, node in nodes.items() if isinstance(node, dict) and "about" in node}
    for cell in cells:
        methods[cell.labels["method"]] = getattr(cell, "method_about", methods.get(cell.labels["method"], {}))
    for cell in cells[:1]:
        metrics |= getattr(cell, "metric_about", {}) | (content(cell.config.table.get("derived")) or {})
    return About(
        {name: make(MethodAbout, name, node) for name, node in methods.items()},
        {name: make(MetricAbout, name, node) for name, node in metrics.items()},
    )


def make(kind: Any, name: str, node: Mapping[str, Any] | None) -> Any:
    """Return the keys of `node` that `kind` has; a node without a label goes by its name."""
    values = {"label": name, **(node or {})}
    return kind(**{key: value for key, value in values.items() if key in kind.__dataclass_fields__})
