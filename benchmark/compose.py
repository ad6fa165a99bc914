"""stub"""

from pathlib import Path

from omegaconf import OmegaConf

from benchmark.cell import Cell

OmegaConf.register_new_resolver("gpus", lambda: 0, replace=True)
OmegaConf.register_new_resolver(
    "one_later", lambda epochs: OmegaConf.create([epoch + 1 for epoch in epochs]), replace=True
)
CONFIGS = str(Path(__file__).parent.parent.resolve() / "configs")


def cell_of(config):
    return Cell(config)


def cells_of(overrides):
    from hydra import compose
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create()
    single = [str(o.input_line) for o in parser.parse_overrides(list(overrides)) if not o.is_sweep_override()]
    params = compose("run", single, return_hydra_config=True).hydra.sweeper.params or {}
    own = [f"{name}={value}" for name, value in params.items()]
    batches = BasicSweeper.split_arguments(parser.parse_overrides([*own, *overrides]), None)
    return [Cell(compose("run", list(job)), tuple(job)) for batch in batches for job in batch]
