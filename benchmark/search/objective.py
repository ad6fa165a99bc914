"""What a search optimises: functions of a trial's metrics and the retrained model's; see configs/search/objective."""

from collections.abc import Mapping

Numbers = Mapping[str, float]  # by name, fractions


def gap_objective(measured: Numbers, reference: Numbers) -> float:
    """Return the mean of |ours - retrained model's| over the metrics, in [0, 1].

    >>> gap_objective({"retain_accuracy": 0.75, "mia": 0.5}, {"retain_accuracy": 1.0, "mia": 0.5})
    0.125
    """
    return sum(abs(value - reference[name]) for name, value in measured.items()) / len(measured)


def score_objective(measured: Numbers, reference: Numbers, *, weights: Numbers, targets: Numbers) -> float:
    """Return Σ weight · metric; a metric with a target counts by its distance |metric − target|. No `reference`.

    >>> weights = {"retain_accuracy": 1.0, "mia": -0.5}
    >>> score_objective({"retain_accuracy": 0.9, "mia": 0.1}, {}, weights=weights, targets={"mia": 0.3})
    0.8
    """
    unknown = sorted({*weights, *targets} - measured.keys())
    if unknown:
        raise ValueError(f"Expected weights and targets of {', '.join(measured)}, but got {', '.join(unknown)}.")
    parts = {name: abs(value - targets[name]) if name in targets else value for name, value in measured.items()}
    return sum(weight * parts[name] for name, weight in weights.items())
