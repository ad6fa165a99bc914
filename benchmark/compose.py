"""The cells of a command line, inside `hydra.main` and without it."""

import pickle
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

from benchmark.cell import Cell
from benchmark.composer import NAME, SEARCH_PATH, Composer

CONFIGS = str(Path(__file__).parent.parent.resolve() / "configs")


def cells_of(
    overrides: Sequence[str], *, config_dir: str | Path | None = None, like: DictConfig | None = None
) -> list[Cell]:
    """Return the composed cells of a sweep, an experiment's own parameters included, in Hydra's order.

    Works inside `hydra.main` and without it. All cells share one time in `${now:…}`.

    Args:
        overrides: as on the command line, those of `hydra.…` too.
        config_dir: a folder of configuration files beside the suite's, as `--config-dir` names it.
        like: Hydra's configuration of the same sweep: the cells share its `${now:…}` and its overrides of Hydra.
    """
    if like is not None and "hydra" in like:
        own: Any = OmegaConf.to_container(like.hydra.overrides.hydra)
        overrides = [*own, *overrides]
    with initialised(), files_read_once():
        composer = Composer(with_config_dir(overrides, config_dir), like)
        return [composer.cell(job) for job in composer.jobs()]


def first_cell(overrides: Sequence[str]) -> Cell:
    """Return the first of `cells_of`: enough for the names that all cells of a command line share."""
    with initialised():
        composer = Composer(overrides)
        return composer.cell(composer.jobs()[0])


def choices(group: str, *, config_dir: str | Path | None = None) -> list[str]:
    """Return the choices of a configuration group, sorted by name."""
    with initialised():
        loader = GlobalHydra.instance().config_loader()
        return sorted(loader.get_group_options(group, ObjectType.CONFIG, NAME, with_config_dir([], config_dir)))


def own_overrides() -> tuple[str, ...]:
    """Return the overrides that compose the job that Hydra runs, the folder of `--config-dir` among them."""
    hydra = HydraConfig.get()
    folder = next((source.path for source in hydra.runtime.config_sources if source.provider == "command-line"), None)
    search_path = [word for word in hydra.overrides.hydra if word.startswith(f"{SEARCH_PATH}=")]
    task: Any = OmegaConf.to_container(hydra.overrides.task)
    return tuple(with_config_dir([*search_path, *task], folder))


def varying(cells: Sequence[Cell]) -> dict[str, str]:
    """Return, by scientific hash, the overrides that tell cells of the same name apart, as `method.alpha=3`."""
    shared: dict[str, set[str]] = {}
    for cell in cells:
        shared.setdefault(str(cell), set(cell.overrides)).intersection_update(cell.overrides)
    return {
        cell.scientific_hash: shlex.join(word for word in cell.overrides if word not in shared[str(cell)])
        for cell in cells
    }


@contextmanager
def initialised() -> Iterator[None]:
    """Have Hydra initialised, as it is inside `hydra.main`."""
    if GlobalHydra.instance().is_initialized():
        yield
        return
    with initialize_config_dir(CONFIGS, version_base="1.3", job_name=NAME):
        yield


@contextmanager
def files_read_once() -> Iterator[None]:
    """Have Hydra parse each configuration file once, not for each composition: almost half of its time."""
    sources = GlobalHydra.instance().config_loader().get_sources()
    for source in sources:
        vars(source)["load_config"] = parsed_once(source.load_config)
    try:
        yield
    finally:
        for source in sources:
            vars(source).pop("load_config", None)


def parsed_once(load: Callable[[str], ConfigResult]) -> Callable[[str], ConfigResult]:
    """Return a function that loads each file once and returns a new copy every time."""

    @cache
    def pickled(config_path: str) -> bytes:
        return pickle.dumps(load(config_path))

    def copy_of(config_path: str) -> ConfigResult:
        result: ConfigResult = pickle.loads(pickled(config_path))
        return result

    return copy_of


def with_config_dir(overrides: Sequence[str], config_dir: str | Path | None) -> list[str]:
    """Return the overrides with a folder on Hydra's search path; ValueError if it is none."""
    if config_dir is None:
        return list(overrides)
    folder = Path(config_dir).resolve()
    if not folder.is_dir():
        raise ValueError(f"Expected --config-dir to name a folder, but {folder} is none.")
    rest = [word for word in overrides if not word.startswith(f"{SEARCH_PATH}=")]
    given = [word for word in overrides if word.startswith(f"{SEARCH_PATH}=")]
    values: list[Any] = [override.value() for override in OverridesParser.create().parse_overrides(given)]
    paths = [*(path for value in values for path in value), f"file://{folder}"]
    return [f"{SEARCH_PATH}=[{','.join(map(repr, paths))}]", *rest]
