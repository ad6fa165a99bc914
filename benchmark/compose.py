"""The cells of a command line: sweeps expanded as Hydra expands them, and composed without composing each one anew."""

import copy
import itertools
import pickle
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from benchmark.cell import Cell

CONFIGS = str(Path(__file__).parent.parent.resolve() / "configs")
NAME = "run"
OF_THIS_PROCESS = re.compile(r"\$\{(hydra|now):")  # resolved at once: a cell means the same in any process, at any time
SEARCH_PATH = "hydra.searchpath"
BESIDE = "methods_beside"  # where the methods of a sweep stand for a moment, all in one composition


def cells_of(
    overrides: Sequence[str], *, config_dir: str | Path | None = None, like: DictConfig | None = None
) -> list[Cell]:
    """Return the composed cells of a sweep, an experiment's own parameters included, in Hydra's order.

    Works inside `hydra.main` and without it. All cells share one time in `${now:…}`.

    Args:
        overrides: as on the command line, those of `hydra.…` too.
        config_dir: a folder of configuration files beside the suite's, as `--config-dir` names it.
        like: a configuration of the same sweep, whose `${now:…}` the cells share.
    """
    with initialised():
        composer = Composer(with_config_dir(overrides, config_dir), like)
        return [composer.cell(job) for job in composer.jobs()]


def first_cell(overrides: Sequence[str]) -> Cell:
    """Return the first of `cells_of`: enough for the names that all cells of a command line share."""
    with initialised():
        composer = Composer(overrides)
        return composer.cell(composer.jobs()[0])


def choices(group: str, *, config_dir: str | Path | None = None) -> list[str]:
    """Return what a configuration group offers, sorted by name."""
    with initialised():
        loader = GlobalHydra.instance().config_loader()
        return sorted(loader.get_group_options(group, ObjectType.CONFIG, NAME, with_config_dir([], config_dir)))


def sweep_overrides(overrides: Sequence[str]) -> list[str]:
    """Return those overrides that hold several values, as `method=ssd,retrain` does: without -m Hydra refuses them.

    >>> sweep_overrides(["method=ssd,retrain", "-m", "method_seed=range(3)", "task=class"])
    ['method=ssd,retrain', 'method_seed=range(3)']
    """
    words = [word for word in overrides if not word.startswith("-")]
    parsed = OverridesParser.create().parse_overrides(words)
    return [str(override.input_line) for override in parsed if override.is_sweep_override()]


@contextmanager
def initialised() -> Iterator[None]:
    """Have Hydra initialised, as it is inside `hydra.main`."""
    if GlobalHydra.instance().is_initialized():
        yield
        return
    with initialize_config_dir(CONFIGS, version_base="1.3", job_name=NAME):
        yield


def with_config_dir(overrides: Sequence[str], config_dir: str | Path | None) -> list[str]:
    """Return the overrides with a folder on Hydra's search path; ValueError if it is none."""
    if config_dir is None:
        return list(overrides)
    folder = Path(config_dir).resolve()
    if not folder.is_dir():
        raise ValueError(f"Expected --config-dir to name a folder, but {folder} is none.")
    rest = [word for word in overrides if not word.startswith(f"{SEARCH_PATH}=")]
    given = [word for word in overrides if word.startswith(f"{SEARCH_PATH}=")]
    paths = [path for o in OverridesParser.create().parse_overrides(given) for path in o.value()]  # type: ignore[union-attr]
    return [f"{SEARCH_PATH}=[{','.join([*paths, f'file://{folder}'])}]", *rest]


@dataclass(frozen=True)
class Base:
    """What Hydra composes, for cells to copy.

    Attributes:
        config: without Hydra's own node.
        hydra: that node.
        settled: whether a value needed it.
    """

    config: DictConfig
    hydra: Any
    settled: bool

    @cached_property
    def pickled(self) -> bytes:
        return pickle.dumps(self.config)  # copies six times as fast as copy.deepcopy

    def copy(self) -> DictConfig:
        config: DictConfig = pickle.loads(self.pickled)
        return config


class Composer:
    """Composes the jobs of one sweep.

    Hydra needs 0.1 s to compose. So it composes once per distinct set of group choices; plain values are set on a
    copy, in Hydra's order, and jobs that differ in the method alone share all but its node. Hydra does the unusual.
    """

    def __init__(self, overrides: Sequence[str], like: DictConfig | None = None) -> None:
        self.parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        self.parsed: dict[str, Override] = {}
        self.groups: dict[str, list[str]] = {}
        self.bases: dict[tuple[str, ...], Base] = {}
        self.samples: dict[tuple[str, ...], tuple[str, ...]] = {}  # choices without the method: with the first method
        self.clock = OmegaConf.create() if like is None else like
        parsed = self.parser.parse_overrides(list(overrides))
        self.own = [str(o.input_line) for o in parsed if o.is_hydra_override()]  # of Hydra itself: alike in all jobs
        self.sweep = [o for o in parsed if not o.is_hydra_override()]
        self.search_path = [word for word in self.own if word.startswith(f"{SEARCH_PATH}=")]
        self.single = [str(o.input_line) for o in self.sweep if not o.is_sweep_override()]
        self.master = compose(NAME, [*self.own, *self.single], return_hydra_config=True)
        self.values = self._values()

    def _values(self) -> dict[str, list[str]]:
        """Return the overrides of each key: an experiment's own, replaced by those of the command line."""
        own = [f"{name}={value}" for name, value in (self.master.hydra.sweeper.params or {}).items()]
        values: dict[str, list[str]] = {}
        for override in [*self.parser.parse_overrides(own), *self.sweep]:
            key = override.get_key_element()
            if not override.is_sweep_override():
                values[key] = [f"{key}={override.get_value_element_as_str()}"]
            elif override.is_discrete_sweep():
                values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
            else:
                raise ValueError(f"Expected a list, range or glob of values to sweep, but got {override.input_line}.")
        return values

    def jobs(self) -> list[tuple[str, ...]]:
        """Return the overrides of each job, in Hydra's order."""
        return list(itertools.product(*self.values.values()))

    def cell(self, job: Sequence[str]) -> Cell:
        """Return the composed cell of one job."""
        overrides = [self.parse(word) for word in job]
        values = [o for o in overrides if isinstance(o.value(), dict) or not self.is_group(o)]
        groups = tuple(str(o.input_line) for o in overrides if o not in values)
        unsettled = any(OF_THIS_PROCESS.search(str(o.value())) for o in values)
        try:
            base = self.composed(groups) if unsettled else self.base(groups)
            config = base.copy()
            for override in values:
                set_value(config, override)
            if unsettled:
                self.settle(config, base.hydra)
        except (UnusualError, OmegaConfBaseException):
            config = self.composed(tuple(job)).copy()  # with Hydra's own words if it is wrong
        return Cell(config, (*self.search_path, *job))

    def base(self, groups: tuple[str, ...]) -> Base:
        """Return the configuration of these group choices, by way of a job with another method if that will do."""
        rest = tuple(word for word in groups if not word.startswith("method="))
        sample = self.samples.setdefault(rest, groups)
        if groups in self.bases or sample == groups or not {*groups, *sample} - {*rest} <= self.methods.keys():
            return self.composed(groups)
        base = self.composed(sample)
        (before,), (after,) = ({*words} - {*rest} for words in (sample, groups))
        chosen = OmegaConf.to_container(base.hydra.hydra.runtime.choices)
        others = [str(name) for group, name in chosen.items() if not group.startswith("method")]
        method = with_name(self.methods[before], before)
        changed = raw_without(base.config.method) != raw_without(method)
        if base.settled or changed or any(method.about.name in name for name in others):
            return self.composed(groups)
        config = base.copy()
        with open_dict(config):
            config.method = with_name(self.methods[after], after)
        self.bases[groups] = Base(config, None, False)
        return self.bases[groups]

    @cached_property
    def methods(self) -> dict[str, DictConfig]:
        """The node of each method of the sweep, by its override; none if a method's file reaches beyond its node."""
        found = {word: word.removeprefix("method=") for word in self.values.get("method", [])}
        if len(found) < 3 or not all(map(str.isidentifier, found.values())):
            return {}
        beside = [f"+method@{BESIDE}.{name}={name}" for name in found.values()]
        try:
            config = compose(NAME, [*self.own, *self.single, *beside], return_hydra_config=True)
        except HydraException:
            return {}
        with open_dict(config):
            nodes = config.pop(BESIDE)
        choices = config.hydra.runtime.choices
        same = all(choices[name] == choice for name, choice in self.master.hydra.runtime.choices.items())
        if not same or raw_without(config, "hydra") != raw_without(self.master, "hydra"):
            return {}
        return {word: nodes[name] for word, name in found.items() if "_target_" in nodes[name]}

    def composed(self, words: tuple[str, ...]) -> Base:
        """Return what Hydra composes."""
        if words not in self.bases:
            config = compose(NAME, [*self.own, *words], return_hydra_config=True)
            instance = HydraConfig.instance()
            before = instance.cfg
            instance.set_config(config)
            hydra, instance.cfg = instance.cfg, before
            with open_dict(config):
                config.method = with_name(config.method, config.hydra.runtime.choices["method"])
                del config["hydra"]
            self.bases[words] = Base(config, hydra, self.settle(config, hydra))
        return self.bases[words]

    def settle(self, config: DictConfig, hydra: Any) -> bool:
        """Resolve what only this process knows: Hydra's own values and the time, which is one for all cells."""
        instance = HydraConfig.instance()
        before, instance.cfg = instance.cfg, hydra
        OmegaConf.copy_cache(self.clock, config)
        try:
            settled = settle(OmegaConf.to_container(config), config)
        finally:
            instance.cfg = before
        OmegaConf.copy_cache(config, self.clock)
        return settled

    def parse(self, word: str) -> Override:
        if word not in self.parsed:
            self.parsed[word] = self.parser.parse_override(word)
        return self.parsed[word]

    def is_group(self, override: Override) -> bool:
        parent, _, name = override.key_or_group.rpartition("/")
        if parent not in self.groups:
            loader = GlobalHydra.instance().config_loader()
            self.groups[parent] = loader.get_group_options(parent, ObjectType.GROUP, NAME, self.search_path)
        return name in self.groups[parent]


class UnusualError(Exception):
    """An override that is left to Hydra."""


def set_value(config: DictConfig, override: Override) -> None:
    """Set one value as Hydra does after it has merged all files; `UnusualError` for the rare forms."""
    key, value = override.key_or_group, override.value()
    if override.package is not None or override.is_delete():
        raise UnusualError
    adds = override.is_add() or override.is_force_add()
    if override.is_add() and OmegaConf.select(config, key, throw_on_missing=False) is not None:
        raise UnusualError
    OmegaConf.update(config, key, value, merge=True, force_add=adds)


def with_name(method: DictConfig, choice: str) -> DictConfig:
    """Return a method's node with the name of its file in it; `choice` may be an override."""
    node = copy.deepcopy(method)
    OmegaConf.update(node, "about.name", choice.removeprefix("method="), force_add=True)
    return node


def raw_without(node: DictConfig, *names: str) -> dict[Any, Any]:
    """Return the node as plain values, interpolations as they stand, without some of its keys."""
    raw = OmegaConf.to_container(node)
    return {name: value for name, value in raw.items() if name not in names} if isinstance(raw, dict) else {}


def settle(raw: Any, node: Any) -> bool:
    """Replace the values of `node` that need this process and return whether there are any; `raw`: as they stand."""
    found = False
    for key, value in raw.items() if isinstance(raw, dict) else enumerate(raw):
        if isinstance(value, dict | list):
            found |= settle(value, node[key])
        elif isinstance(value, str) and OF_THIS_PROCESS.search(value):
            node[key] = node[key]
            found = True
    return found
