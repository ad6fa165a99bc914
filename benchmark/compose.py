"""The cells of a command line: sweeps expanded as Hydra expands them, and composed without composing each one anew."""

import copy
import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from benchmark.cell import Cell

CONFIGS = str(Path(__file__).parent.parent.resolve() / "configs")
NAME = "run"
OF_THIS_PROCESS = re.compile(r"\$\{(hydra|now):")  # resolved at once: a cell means the same in any process, at any time
SEARCH_PATH = "hydra.searchpath"


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


class Composer:
    """Composes the jobs of one sweep.

    Hydra composes once per distinct set of group choices, which is slow; plain values are then set on a copy, in
    Hydra's order. Anything unusual is left to Hydra as a whole.
    """

    def __init__(self, overrides: Sequence[str], like: DictConfig | None = None) -> None:
        self.parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        self.parsed: dict[str, Override] = {}
        self.groups: dict[str, list[str]] = {}
        self.bases: dict[tuple[str, ...], tuple[DictConfig, Any]] = {}
        self.clock = OmegaConf.create() if like is None else like
        parsed = self.parser.parse_overrides(list(overrides))
        self.own = [str(o.input_line) for o in parsed if o.is_hydra_override()]  # of Hydra itself: alike in all jobs
        self.sweep = [o for o in parsed if not o.is_hydra_override()]
        self.search_path = [word for word in self.own if word.startswith(f"{SEARCH_PATH}=")]

    def jobs(self) -> list[list[str]]:
        """Return the overrides of each job; later ones replace earlier ones of the same key."""
        single = [str(o.input_line) for o in self.sweep if not o.is_sweep_override()]
        params = compose(NAME, [*self.own, *single], return_hydra_config=True).hydra.sweeper.params or {}
        values: dict[str, list[str]] = {}
        for override in [*self.parser.parse_overrides([f"{k}={v}" for k, v in params.items()]), *self.sweep]:
            key = override.get_key_element()
            if not override.is_sweep_override():
                values[key] = [f"{key}={override.get_value_element_as_str()}"]
            elif override.is_discrete_sweep():
                values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
            else:
                raise ValueError(f"Expected a list, range or glob of values to sweep, but got {override.input_line}.")
        return [list(job) for job in itertools.product(*values.values())]

    def cell(self, job: Sequence[str]) -> Cell:
        """Return the composed cell of one job."""
        overrides = [self.parse(word) for word in job]
        values = [o for o in overrides if isinstance(o.value(), dict) or not self.is_group(o)]
        try:
            base, hydra = self.base([str(o.input_line) for o in overrides if o not in values])
            config = copy.deepcopy(base)
            for override in values:
                set_value(config, override)
            if any(OF_THIS_PROCESS.search(str(o.input_line)) for o in values):
                self.settle(config, hydra)
        except (UnusualError, OmegaConfBaseException):
            config = copy.deepcopy(self.base(job)[0])  # with Hydra's own words if it is wrong
        return Cell(config, (*self.search_path, *job))

    def base(self, job: Sequence[str]) -> tuple[DictConfig, Any]:
        """Return what Hydra composes, without its own node, and that node."""
        key = tuple(job)
        if key not in self.bases:
            config = compose(NAME, [*self.own, *job], return_hydra_config=True)
            instance = HydraConfig.instance()
            before = instance.cfg
            instance.set_config(config)
            hydra, instance.cfg = instance.cfg, before
            with open_dict(config):
                OmegaConf.update(config, "method.about.name", config.hydra.runtime.choices["method"], force_add=True)
                del config["hydra"]
            self.settle(config, hydra)
            self.bases[key] = config, hydra
        return self.bases[key]

    def settle(self, config: DictConfig, hydra: Any) -> None:
        """Resolve what only this process knows: Hydra's own values and the time, which is one for all cells."""
        instance = HydraConfig.instance()
        before, instance.cfg = instance.cfg, hydra
        OmegaConf.copy_cache(self.clock, config)
        try:
            settle(OmegaConf.to_container(config), config)
        finally:
            instance.cfg = before
        OmegaConf.copy_cache(config, self.clock)

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


def settle(raw: Any, node: Any) -> None:
    """Replace the values of `node` that need this process; `raw` is its content without interpolations resolved."""
    for key, value in raw.items() if isinstance(raw, dict) else enumerate(raw):
        if isinstance(value, dict | list):
            settle(value, node[key])
        elif isinstance(value, str) and OF_THIS_PROCESS.search(value):
            node[key] = node[key]
