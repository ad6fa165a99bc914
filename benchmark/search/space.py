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

KEYS = ("name", "low", "high", "log", "integer", "choices")
Distribution = FloatDistribution | IntDistribution | CategoricalDistribution
Space = dict[str, Distribution]


def search_space(parameters: Sequence[Mapping[str, Any]], method: DictConfig) -> Space:
    """Return the distribution of each parameter, by its dotted path inside the method's configuration.

    Each parameter has `name` and either `low` and `high` (with `log: true` on a logarithmic scale, with
    `integer: true` whole numbers) or `choices`. ValueError for anything else.
    """
    space: Space = {}
    for values in parameters:
        unknown = sorted(values.keys() - set(KEYS))
        name = str(values.get("name"))
        if unknown or "name" not in values or name in space:
            got = f"the unknown {', '.join(unknown)}" if unknown else f"{name} twice" if name in space else "no name"
            raise ValueError(f"Expected search.parameters with {', '.join(KEYS)}, each name once, but got {got}.")
        known = dotted(content(method))
        if name not in known:
            raise ValueError(
                f"Expected search.parameters to name values of the method ({', '.join(known)}), but got {name!r}."
            )
        try:
            space[name] = distribution(values)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"Expected low < high or choices for {name} in search.parameters, but got "
                f"{ {key: value for key, value in values.items() if key != 'name'} } ({error})."
            ) from error
    if not space:
        raise ValueError("Expected search.parameters to name at least one hyper-parameter, but got none.")
    return space


def distribution(values: Mapping[str, Any]) -> Distribution:
    """Return Optuna's distribution; ValueError, KeyError or TypeError if the values describe none."""
    if values.get("choices") is not None:
        if "low" in values or "high" in values:
            raise ValueError("choices have no low and high")
        return CategoricalDistribution(list(values["choices"]))
    low, high, log = values["low"], values["high"], bool(values.get("log", False))
    if low >= high:
        raise ValueError("low is not below high")
    if not values.get("integer", False):
        return FloatDistribution(float(low), float(high), log=log)
    if low != int(low) or high != int(high):
        raise ValueError("the bounds of an integer are none")
    return IntDistribution(int(low), int(high), log=log)


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
