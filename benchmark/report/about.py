"""How methods and metrics are presented: labels, order, units, as their YAML says under `about`."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from benchmark.cell import Cell
from benchmark.compose import CONFIGS


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
    """Return how the cells present their methods and metrics, and how the repository's YAML files present the rest."""
    methods = {name: node.get("about") for name, node in read_nodes("method").items()}
    metrics = {
        name: node.get("about")
        for nodes in read_nodes("metric").values()
        for name, node in nodes.items()
        if isinstance(node, dict)
    }
    for name, cell in {cell.labels["method"]: cell for cell in cells}.items():
        methods[name] = cell.method_about
    for cell in cells[:1]:
        metrics |= cell.metric_about
    return About(
        {name: make(MethodAbout, name, node) for name, node in methods.items()},
        {name: make(MetricAbout, name, node) for name, node in metrics.items()},
    )


def read_nodes(group: str) -> dict[str, dict[str, Any]]:
    """Return the YAML files of a configuration group as they stand, by name."""
    paths = sorted(Path(CONFIGS).glob(f"{group}/*.yaml"))
    return {path.stem: dict(OmegaConf.to_container(OmegaConf.load(path))) for path in paths}  # type: ignore[arg-type]


def make(kind: Any, name: str, node: Mapping[str, Any] | None) -> Any:
    """Return the keys of `node` that `kind` has; a node without a label goes by its name, one without order last."""
    values = {"label": name, **{key: value for key, value in (node or {}).items() if value is not None}}
    return kind(**{key: value for key, value in values.items() if key in kind.__dataclass_fields__})
