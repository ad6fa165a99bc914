"""What a search optimises: functions of a trial's metrics, chosen by configs/search/objective."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from metrics.base import EvalOutputs, Metric


@dataclass(frozen=True)
class Objective:
    """What a trial is judged by.

    Attributes:
        metrics: the metrics it looks at, by name; nothing else is measured.
        value: metrics of the trial, `reference` -> the number to optimise.
        reference: metrics of the retrained model; empty if `value` needs none.
    """

    metrics: Mapping[str, Metric]
    value: Callable[[Mapping[str, float], Mapping[str, float]], float]
    reference: Mapping[str, float]

    def __call__(self, outputs: EvalOutputs) -> tuple[float, dict[str, float]]:
        """Return the value and the metrics behind it, fractions."""
        measured = measured_by(self.metrics, outputs)
        return self.value(measured, self.reference), measured


def measured_by(metrics: Mapping[str, Metric], outputs: EvalOutputs) -> dict[str, float]:
    """Return the metrics of the outputs; ValueError if one is not defined for them."""
    measured = {name: metric(outputs) for name, metric in metrics.items()}
    undefined = [name for name, value in measured.items() if value is None]
    if undefined:
        raise ValueError(
            f"Expected metrics of the outputs alone, but {', '.join(undefined)} needs another model; "
            f"leave it out of search.objective.metrics."
        )
    return {name: value for name, value in measured.items() if value is not None}


def named(names: Sequence[str], metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """Return the named metrics; ValueError for a name that the configuration does not have."""
    unknown = [name for name in names if name not in metrics]
    if unknown or not names:
        got = ", ".join(unknown) or "none"
        raise ValueError(f"Expected search.objective.metrics among {', '.join(metrics)}, but got {got}.")
    return {name: metrics[name] for name in names}


def gap_objective(measured: Mapping[str, float], reference: Mapping[str, float]) -> float:
    """Return the mean of |ours - retrained model's| over the metrics, in [0, 1].

    >>> gap_objective({"retain_accuracy": 0.75, "mia": 0.5}, {"retain_accuracy": 1.0, "mia": 0.5})
    0.125
    """
    return sum(abs(value - reference[name]) for name, value in measured.items()) / len(measured)


def score_objective(
    measured: Mapping[str, float],
    reference: Mapping[str, float],
    *,
    weights: Mapping[str, float],
    targets: Mapping[str, float],
) -> float:
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
