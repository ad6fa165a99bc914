"""Sweeps expanded as Hydra expands them, and composed without composing each job anew."""

import itertools
import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from benchmark.cell import Cell, check_added, with_name
from benchmark.targets import check_targets

NAME = "run"  # of the primary configuration
SEARCH_PATH = "hydra.searchpath"
OF_THIS_PROCESS = re.compile(r"\$\{(hydra|now):")  # resolved at once: a cell means the same in any process, at any time
BESIDE = "methods_beside"  # where the methods of a sweep stand for a moment, all in one composition


@dataclass(frozen=True)
class Base:
    """A composition of Hydra's, for cells to copy.

    Attributes:
        movable: whether nothing but the method's node depends on the method.
    """

    config: DictConfig
    movable: bool

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
        self.parse = cache(self.parser.parse_override)
        self.groups = cache(lambda parent: options_of(parent, ObjectType.GROUP, self.search_path))
        self.bases: dict[tuple[str, ...], Base] = {}
        # choices without that of the method -> the method and the choices of the first job with them
        self.first: dict[tuple[str, ...], tuple[str, tuple[str, ...]]] = {}
        self.clock = OmegaConf.create() if like is None else like
        parsed = self.parser.parse_overrides(list(overrides))
        own = [str(o.input_line) for o in parsed if o.is_hydra_override()]  # of Hydra itself: alike in all jobs
        self.sweep = [o for o in parsed if not o.is_hydra_override()]
        self.search_path = search_path_of(own)
        self.own = [*(word for word in own if not word.startswith(f"{SEARCH_PATH}=")), *self.search_path]
        self.single = tuple(str(o.input_line) for o in self.sweep if not o.is_sweep_override())
        self.whole = self.compose(*self.single)
        self.method_values = str(self.whole.hydra.runtime.choices["values"])  # those of `self.methods`
        self.is_single = len(self.single) == len(self.sweep) and not self.whole.hydra.sweeper.params
        self.values = self._values()
        self.master: DictConfig = pickle.loads(pickle.dumps(self.whole))
        with open_dict(self.master):
            del self.master["hydra"]

    def _values(self) -> dict[str, list[str]]:
        """Return the overrides of each key: an experiment's own, replaced by those of the command line."""
        own = [f"{name}={value}" for name, value in (self.whole.hydra.sweeper.params or {}).items()]
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

    def compose(self, *words: str) -> DictConfig:
        """Return Hydra's composition with its own node."""
        plugins = [word for word in self.single if word.startswith("plugins=") and word not in words]
        return compose(NAME, [*self.own, *plugins, *words], return_hydra_config=True)

    def jobs(self) -> list[tuple[str, ...]]:
        """Return the overrides of each job, in Hydra's order."""
        return list(itertools.product(*self.values.values()))

    def cell(self, job: Sequence[str]) -> Cell:
        """Return the composed cell of one job."""
        overrides = [self.parse(word) for word in job]
        values = [o for o in overrides if isinstance(o.value(), dict) or not self.is_group(o)]
        groups = tuple(str(o.input_line) for o in overrides if o not in values)
        try:
            config = self.composed(self.single).copy() if self.is_single else self.chosen(groups)
            for override in () if self.is_single else values:
                set_value(config, override)
        except (UnusualError, OmegaConfBaseException):
            config = self.composed(tuple(job)).copy()  # with Hydra's own message if it is wrong
        if any("_target_" in word or "classes" in word for word in job):
            check_targets(plain(config), self.master.plugins)
        check_added(config, [o.key_or_group for o in values if o.is_add()])
        return Cell(config, (*self.search_path, *job))

    def chosen(self, groups: tuple[str, ...]) -> DictConfig:
        """Return the configuration of these choices: another job's with this method in it if that is the same."""
        word = next((word for word in groups if word in self.methods), None)
        if word is not None:
            rest = tuple(other for other in groups if other != word)
            first, theirs = self.first.setdefault(rest, (word, groups))
            base = self.composed(theirs)
            if base.movable and plain(base.config.method) == plain(self.methods[first]):
                config = base.copy()
                with open_dict(config):
                    config.method = self.methods[word]
                return config
        return self.composed(groups).copy()

    @cached_property
    def methods(self) -> dict[str, DictConfig]:
        """The node of each method of the sweep, by its override; none if a method's file reaches beyond its node."""
        found = {word: word.removeprefix("method=") for word in self.values.get("method", [])}
        if len(found) < 3 or not all(map(str.isidentifier, found.values())):
            return {}
        beside = [f"+method@{BESIDE}.{name}={name}" for name in found.values()]
        there = options_of(f"values/{self.method_values}", ObjectType.CONFIG, self.search_path)
        beside += [f"+values@{BESIDE}.{x}={self.method_values}/{x}" for x in found.values() if x in there]
        try:
            config = self.compose(*self.single, *beside)
        except HydraException:
            return {}
        with open_dict(config):
            del config["hydra"]
            nodes = config.pop(BESIDE)
        if plain(config) != plain(self.master):
            return {}
        own = {word: with_name(nodes[name], name) for word, name in found.items() if "_target_" in nodes[name]}
        return {word: node for word, node in own.items() if not OF_THIS_PROCESS.search(str(plain(node)))}

    def composed(self, words: tuple[str, ...]) -> Base:
        """Return Hydra's composition, its own values and the time resolved: a cell means the same in any process."""
        if words not in self.bases:
            config = self.whole if words == self.single else self.compose(*words)
            choices = {str(group): str(choice) for group, choice in config.hydra.runtime.choices.items()}
            name = choices["method"]
            own = [group for group in choices if group.partition("@")[0] == "method" or group == "values@method"]
            fixed = any(name in choice for group, choice in choices.items() if group not in own)
            fixed |= choices["values"] != self.method_values
            with_name(config.method, name)
            instance = HydraConfig.instance()
            before = instance.cfg
            instance.set_config(config)
            OmegaConf.copy_cache(self.clock, config)
            with open_dict(config):
                del config["hydra"]
            try:
                settled = settle(OmegaConf.to_container(config), config)
            finally:
                instance.cfg = before
            OmegaConf.copy_cache(config, self.clock)
            self.bases[words] = Base(config, movable=not settled and not fixed)
        return self.bases[words]

    def is_group(self, override: Override) -> bool:
        parent, _, name = override.key_or_group.rpartition("/")
        return name in self.groups(parent)


def options_of(group: str, kind: ObjectType, search_path: Sequence[str]) -> list[str]:
    """Return the files or folders of a configuration group; Hydra is initialised."""
    return GlobalHydra.instance().config_loader().get_group_options(group, kind, NAME, list(search_path))


def search_path_of(words: Sequence[str]) -> list[str]:
    """Return the search paths among overrides as one, or none: Hydra takes the first alone.

    >>> search_path_of(["hydra.searchpath=[file://a]", "method=ssd", "hydra.searchpath=[file://b]"])
    ['hydra.searchpath=[file://a,file://b]']
    """
    start = f"{SEARCH_PATH}="
    given = [word.removeprefix(start) for word in words if word.startswith(start)]
    places = [value.removeprefix("[").removesuffix("]") for value in given]
    return [f"{start}[{','.join(filter(None, places))}]"] if given else []


class UnusualError(Exception):
    """An override that is left to Hydra."""


def set_value(config: DictConfig, override: Override) -> None:
    """Set one value as Hydra does after it has merged all files; `UnusualError` for the rare forms."""
    key, value = override.key_or_group, override.value()
    if override.package is not None or override.is_delete() or OF_THIS_PROCESS.search(str(value)):
        raise UnusualError
    adds = override.is_add() or override.is_force_add()
    if override.is_add() and OmegaConf.select(config, key, throw_on_missing=False) is not None:
        raise UnusualError
    OmegaConf.update(config, key, value, merge=True, force_add=adds)


def plain(node: DictConfig) -> Any:
    """Return a node as plain values, interpolations as they stand."""
    return OmegaConf.to_container(node)


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
