"""The hyper-parameters that a search varies, and the sampler that proposes them."""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from optuna import Study
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, Trial

from benchmark.cell import content
from datasets.seeding import derive_seed

Distribution = FloatDistribution | IntDistribution | CategoricalDistribution
Space = dict[str, Distribution]


def search_space(parameters: Sequence[Mapping[str, Any]], method: Any) -> Space:
    """Return the distribution of each parameter, by its dotted path inside the method's configuration.

    Each parameter has `name` and either `low` and `high` (with `log: true` on a logarithmic scale, with
    `integer: true` whole numbers) or `choices`. ValueError for anything else.
    """
    space: Space = {}
    known = dotted(content(method))
    for options in parameters:
        try:
            name, found = distribution(**options)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"Expected search.parameters with name and low < high (log, integer) or choices, but got "
                f"{dict(options)} ({str(error).removeprefix('distribution() ')})."
            ) from error
        if name not in known or name in space:
            raise ValueError(
                f"Expected search.parameters to name values of the method ({', '.join(known)}), each once, but got "
                f"{name!r}."
            )
        space[name] = found
    if not space:
        raise ValueError("Expected search.parameters to name at least one hyper-parameter, but got none.")
    return space


def distribution(
    *, name: str, low: Any = None, high: Any = None, log: bool = False, integer: bool = False, choices: Any = None
) -> tuple[str, Distribution]:
    """Return the name and Optuna's distribution; ValueError or TypeError if the options describe none."""
    if choices is not None and low is None and high is None:
        return name, CategoricalDistribution(choices)
    if choices is not None or low is None or high is None:
        raise ValueError("either low and high or choices")
    if not integer:
        return name, FloatDistribution(low, high, log=log)
    if low != int(low) or high != int(high):
        raise ValueError("the bounds of an integer are none")
    return name, IntDistribution(low, high, log=log)


def suggest(trial: Trial, name: str, distribution: Distribution) -> Any:
    """Return a trial's value of one parameter."""
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)
    return trial.suggest_categorical(name, distribution.choices)


def dotted(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted paths of all single values that are set.

    >>> dotted({"_target_": "x", "a": 1, "b": {"c": 2}, "d": None})
    ['a', 'b.c']
    """
    paths: list[str] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            paths += dotted(value, f"{prefix}{name}.")
        elif not name.startswith("_") and value is not None:
            paths.append(prefix + name)
    return paths


def with_values(method: Any, values: Mapping[str, Any]) -> DictConfig:
    """Return a copy of the method's configuration with other values at the dotted paths."""
    changed: DictConfig = OmegaConf.create(content(method))
    for name, value in values.items():
        OmegaConf.update(changed, name, value)
    return changed


class NumberedTPE(TPESampler):
    """Optuna's TPE, seeded afresh by (seed, number of the trial); Optuna itself seeds a sampler once a process.

    So no two trials of a study share random numbers, whichever process or restart runs them, and a search that is
    killed between trials proposes the same as an undisturbed one. Running trials of other processes count as bad ones
    (constant liar), which keeps processes apart.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed, multivariate=True, constant_liar=True)
        self._search_seed = seed

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        seed = derive_seed("search", self._search_seed, trial.number) % 2**32
        super().__init__(seed=seed, multivariate=True, constant_liar=True)
        super().before_trial(study, trial)
