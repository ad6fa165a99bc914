"""Parameters, their distributions and the objectives, without any model."""

import pytest
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from benchmark.search.objective import gap_objective, measured_by, named, score_objective
from benchmark.search.space import search_space, with_values

METHOD = OmegaConf.create({"_target_": "x", "alpha": 10, "recipe": {"lr": 0.1, "name": "adam"}})


def test_parameters_become_distributions():
    parameters = [
        {"name": "alpha", "low": 1, "high": 10, "log": True},
        {"name": "recipe.lr", "low": 1, "high": 4, "integer": True},
        {"name": "recipe.name", "choices": ["adam", "sgd"]},
    ]
    assert search_space(parameters, METHOD) == {
        "alpha": FloatDistribution(1.0, 10.0, log=True),
        "recipe.lr": IntDistribution(1, 4),
        "recipe.name": CategoricalDistribution(["adam", "sgd"]),
    }


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ({"name": "beta", "low": 1, "high": 2}, r"values of the method \(alpha, recipe.lr, recipe.name\)"),
        ({"name": "recipe", "low": 1, "high": 2}, "values of the method"),
        ({"name": "alpha", "low": 0, "high": 2, "log": True}, "low > 0"),
        ({"name": "alpha", "low": 3, "high": 2}, "low <= high"),
        ({"name": "alpha", "low": 1}, "either low and high or choices"),
        ({"name": "alpha", "lo": 1, "high": 2}, "argument 'lo'"),
        ({"name": "alpha", "low": 1.5, "high": 2, "integer": True}, "bounds of an integer"),
        ({"name": "alpha", "low": 1, "high": 2, "choices": [1]}, "either low and high or choices"),
        ({"low": 1, "high": 2}, "argument: 'name'"),
    ],
)
def test_wrong_parameters_are_named(parameter, message):
    with pytest.raises(ValueError, match=message):
        search_space([parameter], METHOD)


def test_values_reach_nested_places_and_the_original_stays():
    changed = with_values(METHOD, {"recipe.lr": 0.5})
    assert (changed.recipe.lr, METHOD.recipe.lr, changed.alpha) == (0.5, 0.1, 10)


def test_the_gap_is_a_mean_of_distances():
    ours, retrained = {"retain_accuracy": 0.5, "mia": 0.25}, {"retain_accuracy": 1.0, "mia": 0.5, "zrf": 0.0}
    assert gap_objective(ours, retrained) == pytest.approx((0.5 + 0.25) / 2)


def test_a_weight_of_an_unmeasured_metric_is_named():
    with pytest.raises(ValueError, match="weights and targets of mia, but got zrf"):
        score_objective({"mia": 0.5}, {}, weights={"zrf": 1.0}, targets={})


def test_metrics_are_taken_by_name_and_defined():
    metrics = {"mia": lambda outputs: 0.5, "gap": lambda outputs: None}
    assert measured_by(named(["mia"], metrics), None) == {"mia": 0.5}
    with pytest.raises(ValueError, match="gap needs another model"):
        measured_by(metrics, None)
    with pytest.raises(ValueError, match="among mia, gap, but got f1"):
        named(["f1"], metrics)
