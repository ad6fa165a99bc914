"""How methods and metrics are presented: labels, order, units, as their YAML says under `about`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from math import inf
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from benchmark.cell import Cell
from benchmark.compose import CONFIGS


@dataclass(frozen=True)
class Shown:
    """How a method or a metric is printed.

    A metric is printed as value × scale, in `unit`. A method that is not ranked is not compared with the others.
    """

    label: str
    latex: str = ""
    order: float = inf
    unit: str = ""
    scale: float = 1
    decimals: int = 2
    ranked: bool = True


@dataclass(frozen=True)
class About:
    """Methods and metrics by name; those that are not named are shown as the repository's YAML files say."""

    methods: Mapping[str, Shown] = field(default_factory=dict)
    metrics: Mapping[str, Shown] = field(default_factory=dict)

    def method(self, name: str) -> Shown:
        return self.methods.get(name) or in_repository("method").get(name) or Shown(name)

    def metric(self, name: str) -> Shown:
        """Return how a metric is printed; of several numbers, `name.part`, each as the metric itself."""
        found = self.metrics.get(name) or in_repository("metric").get(name)
        if found is None and "." in name:
            whole, _, part = name.rpartition(".")
            found = self.metric(whole)
            return replace(found, label=f"{found.label} {part.replace('_', ' ')}", latex="")
        return found or Shown(name)

    def sorted_methods(self, names: Iterable[str]) -> list[str]:
        """Return the methods in the order of columns, each once."""
        return sorted(set(names), key=lambda name: (self.method(name).order, name))

    def sorted_metrics(self, names: Iterable[str]) -> list[str]:
        """Return the metrics in the order of rows, each once."""
        return sorted(set(names), key=lambda name: (self.metric(name).order, name))


ABOUT = About()  # all as the repository's YAML files say


def read_about(cells: Sequence[Cell]) -> About:
    """Return how the cells present their methods and metrics."""
    one_of = {cell.labels["method"]: cell for cell in cells}
    metrics = cells[0].metric_about if cells else {}
    return About(
        {name: make_shown(name, cell.method_about) for name, cell in one_of.items()},
        {name: make_shown(name, node) for name, node in metrics.items()},
    )


@cache
def in_repository(group: str) -> dict[str, Shown]:
    """Return how the YAML files of the repository present what no cell names, as records of an earlier version do."""
    nodes: dict[Any, Any] = {}
    for path in Path(CONFIGS).glob(f"{group}/*.yaml"):
        node: Any = OmegaConf.to_container(OmegaConf.load(path))
        nodes |= {path.stem: node} if group == "method" else node
    return {name: make_shown(name, node.get("about")) for name, node in nodes.items() if isinstance(node, dict)}


def make_shown(name: str, node: Mapping[str, Any] | None) -> Shown:
    """Return the keys of `node` that count; a node without a label goes by its name, one without order last."""
    known = {part.name for part in fields(Shown)}
    values = {key: value for key, value in (node or {}).items() if key in known and value is not None}
    return Shown(**{"label": name, **values})
