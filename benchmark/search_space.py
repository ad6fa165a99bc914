"""The hyper-parameters that a search varies, and the sampler that proposes them."""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from benchmark.cell import content
from datasets.seeding import derive_seed

KEYS = ("name", "low", "high", "log", "integer", "choices")


def search_space(parameters: Sequence[Mapping[str, Any]], method: DictConfig) -> dict[str, BaseDistribution]:
    """Return the distribution of each parameter, by its dotted path inside the method's configuration.

    Each parameter has `name` and either `low` and `high` (with `log: true` on a logarithmic scale, with
    `integer: true` whole numbers) or `choices`.
    """
    space: dict[str, BaseDistribution] = {}
    for values in parameters:
        unknown = sorted(values.keys() - set(KEYS))
        name = str(values.get("name"))
        if unknown or "name" not in values or name in space:
            got = f"the unknown {', '.join(unknown)}" if unknown else f"{name} twice" if name in space else "no name"
            raise ValueError(f"Expected search.parameters with {', '.join(KEYS)}, each name once, but got {got}.")
        if OmegaConf.select(method, name) is None or OmegaConf.is_config(OmegaConf.select(method, name)):
            known = ", ".join(dotted(content(method)))
            raise ValueError(f"Expected search.parameters to name values of the method ({known}), but got {name!r}.")
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


def distribution(values: Mapping[str, Any]) -> BaseDistribution:
    """Return Optuna's distribution; ValueError, KeyError or TypeError where the values describe none."""
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


def dotted(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted paths of all single values.

    >>> dotted({"_target_": "x", "a": 1, "b": {"c": 2}})
    ['a', 'b.c']
    """
    paths: list[str] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            paths += dotted(value, f"{prefix}{name}.")
        elif not name.startswith("_"):
            paths.append(prefix + name)
    return paths


def with_values(method: DictConfig, values: Mapping[str, Any]) -> DictConfig:
    """Return a copy of the method's configuration with other values at the dotted paths."""
    changed: DictConfig = OmegaConf.create(content(method))
    for name, value in values.items():
        OmegaConf.update(changed, name, value)
    return changed


class NumberedTPE(BaseSampler):
    """Optuna's TPE, seeded afresh by (seed, number of the trial).

    So no two trials of a study share random numbers, whichever process or restart runs them, and one process that is
    killed between trials proposes what an undisturbed one does. Running trials of other processes count as bad ones
    (constant liar), which keeps workers apart.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._sampler = TPESampler(seed=0)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        seed = derive_seed("search", self.seed, trial.number) % 2**32
        self._sampler = TPESampler(seed=seed, multivariate=True, constant_liar=True)
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._sampler.after_trial(study, trial, state, values)
