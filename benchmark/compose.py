"""The cells of a command line, inside `hydra.main` and without it."""

import pickle
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial, wraps
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf

from benchmark.cell import Cell
from benchmark.composer import NAME, SEARCH_PATH, Composer, options_of, search_path_of
from benchmark.targets import check_composed

CONFIGS = str(Path(__file__).parent.parent.resolve() / "configs")


def cells_of(overrides: Sequence[str], *, like: DictConfig | None = None) -> list[Cell]:
    """Return the composed cells of a sweep, an experiment's own parameters included, in Hydra's order.

    Works inside `hydra.main` and without it. All cells share one time in `${now:…}`.

    Args:
        overrides: as on the command line, those of `hydra.…` too; for `--config-dir` see `cli.with_search_path`.
        like: Hydra's configuration of the same sweep: the cells share its `${now:…}` and its overrides of Hydra.
    """
    if like is not None and "hydra" in like:
        own: Any = OmegaConf.to_container(like.hydra.overrides.hydra)
        overrides = [*own, *overrides]
    with initialised():
        composer = Composer(overrides, like)
        return [composer.cell(job) for job in composer.jobs()]


def choices(group: str, overrides: Sequence[str] = ()) -> list[str]:
    """Return the choices of a configuration group, sorted by name; those of the overrides' search path too."""
    with initialised():
        return sorted(options_of(group, ObjectType.CONFIG, search_path_of(overrides)))


def own_overrides(hydra: Any) -> tuple[str, ...]:
    """Return the overrides that compose the job with this node of Hydra's, the folder of `--config-dir` among them."""
    given = [one.path for one in hydra.runtime.config_sources if one.provider == "command-line"]
    task: Any = OmegaConf.to_container(hydra.overrides.task)
    return (*search_path_of([*(f"{SEARCH_PATH}=[file://{x}]" for x in given), *hydra.overrides.hydra]), *task)


def varying(cells: Sequence[Cell]) -> dict[Cell, str]:
    """Return the overrides that tell cells of the same name apart, as `method.alpha=3`."""
    shared: dict[str, set[str]] = {}
    for cell in cells:
        shared.setdefault(str(cell), set(cell.overrides)).intersection_update(cell.overrides)
    return {cell: shlex.join(word for word in cell.overrides if word not in shared[str(cell)]) for cell in cells}


@contextmanager
def initialised() -> Iterator[None]:
    """Have Hydra initialised, as it is inside `hydra.main`, and what it composes checked for foreign code."""
    guard_hydra()
    if GlobalHydra.instance().is_initialized():
        yield
        return
    with initialize_config_dir(CONFIGS, version_base="1.3", job_name=NAME):
        yield


def guard_hydra() -> None:
    """Have Hydra check each configuration that it composes before it builds anything of it, its callbacks included.

    It also parses each file once per initialisation of Hydra, not for each composition: almost half of its time. And
    sweepers do not compose every job before the first one starts: the callback has done that already.
    """
    load = ConfigLoaderImpl.load_configuration
    if hasattr(load, "__wrapped__"):
        return

    @wraps(load)
    def checked(
        self: ConfigLoaderImpl, config_name: str | None, overrides: list[str], *rest: Any, **more: Any
    ) -> DictConfig:
        for source in self.get_sources():
            vars(source).setdefault("load_config", partial(parsed_once, source))
        config = load(self, config_name, overrides, *rest, **more)
        check_composed(config, overrides)
        return config

    ConfigLoaderImpl.load_configuration = checked  # type: ignore[method-assign]
    Sweeper.validate_batch_is_legal = lambda *_: None  # type: ignore[method-assign]


def parsed_once(source: ConfigSource, config_path: str) -> ConfigResult:
    """Return a new copy of a configuration file, parsed again only if it changed."""
    file = Path(source.path, f"{config_path.removesuffix('.yaml')}.yaml")
    modified = file.stat().st_mtime_ns if file.is_file() else 0
    result: ConfigResult = pickle.loads(pickled(type(source), source.provider, source.path, config_path, modified))
    return result


@cache
def pickled(kind: type[ConfigSource], provider: str, folder: str, config_path: str, modified: int) -> bytes:
    return pickle.dumps(kind(provider, f"{kind.scheme()}://{folder}").load_config(config_path))
