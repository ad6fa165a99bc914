"""How well the margin tells D_f from unseen images of the same distribution: AUC, its error, TPR at a FPR."""

import math

import numpy as np
import torch
from scipy.stats import norm, rankdata
from torch import Tensor

from metrics.base import EvalOutputs, SplitName
from metrics.margins import margin

FEWEST = 10  # non-members above the threshold without which a false-positive rate is not measured


def compared_margins(outputs: EvalOutputs) -> tuple[Tensor, Tensor] | None:
    """Return the margins of D_f (train), (n,), and of unseen images of its distribution, (m,), both float64.

    Unseen are the test images of the forgotten classes; in the random task, all test images. None for a class whose
    test images are its training images (Pins under `paper`).
    """
    unseen: SplitName = "retain_test" if outputs.forget_test_is_train else "forget_test"
    if torch.equal(outputs.logits["forget_train"], outputs.logits[unseen]):
        return None
    return (
        margin(outputs.logits["forget_train"], outputs.labels["forget_train"]),
        margin(outputs.logits[unseen], outputs.labels[unseen]),
    )


def placements(positives: np.ndarray, negatives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each positive the share of negatives below it, and for each negative that of positives above it.

    Ties count one half; the mean of either is the AUC.
    """
    n, m = len(positives), len(negatives)
    ranks = rankdata(np.concatenate([positives, negatives]))
    return (ranks[:n] - rankdata(positives)) / m, 1 - (ranks[n:] - rankdata(negatives)) / n


def placements_error(of_positives: np.ndarray, of_negatives: np.ndarray) -> float | None:
    """Return the standard error of an AUC, or of a difference of two, from its placements (DeLong et al., 1988).

    None for fewer than two samples of a kind, or if every pair is on its side: the error is then not measured.
    """
    if min(len(of_positives), len(of_negatives)) < 2:
        return None
    variance = of_positives.var(ddof=1) / len(of_positives) + of_negatives.var(ddof=1) / len(of_negatives)
    return math.sqrt(variance) if variance > 0 else None


def auc(outputs: EvalOutputs) -> float | None:
    """Return the share of pairs (D_f, unseen) in which the image of D_f has the larger margin; ties count ½.

    A model that never saw D_f has ½ in expectation, whatever the class. None if no image is unseen.
    """
    pair = compared_margins(outputs)
    if pair is None:
        return None
    return float(placements(*(x.numpy() for x in pair))[0].mean())


def auc_interval(outputs: EvalOutputs, *, level: float = 0.95) -> dict[str, float | None]:
    """Return the uncertainty of `auc` over the images: normal intervals with DeLong's standard errors.

    `se`; `null_se`, its value for a model that never saw D_f; `low`, `high`; and with a retrained model `difference`
    (ours − retrained model's), paired, with `difference_se`, `difference_low`, `difference_high`. A missing value is
    None.
    """
    names = ("se", "null_se", "low", "high", *(f"difference{end}" for end in ("", "_se", "_low", "_high")))
    found: dict[str, float | None] = dict.fromkeys(names)
    if (pair := compared_margins(outputs)) is None:
        return found
    ours, z = placements(*(x.numpy() for x in pair)), float(norm.ppf((1 + level) / 2))
    n, m = map(len, ours)
    value, error = float(ours[0].mean()), placements_error(*ours)
    found |= {"se": error, "null_se": math.sqrt((n + m + 1) / (12 * n * m))}
    if error is not None:
        found |= {"low": max(value - z * error, 0.0), "high": min(value + z * error, 1.0)}
    retrained = outputs.others.get("retrained")
    if retrained is None or (pair := compared_margins(retrained)) is None:
        return found
    goal = placements(*(x.numpy() for x in pair))
    found["difference"] = difference = value - float(goal[0].mean())
    error = placements_error(ours[0] - goal[0], ours[1] - goal[1])
    if error is not None:
        found |= {"difference_se": error, "difference_low": difference - z * error}
        found["difference_high"] = difference + z * error
    return found


def tpr_at_fpr(outputs: EvalOutputs, *, fpr: float) -> float | None:
    """Return the largest share of D_f above a threshold that at most a share `fpr` of unseen images exceed or reach.

    The thresholds are those of the empirical ROC, nothing is interpolated. None unless `fpr` of the unseen images are
    `FEWEST`: 1 % needs 1000 of them.
    """
    pair = compared_margins(outputs)
    if pair is None or len(pair[1]) * fpr < FEWEST:
        return None
    forget, unseen = pair
    allowed = math.floor(len(unseen) * fpr + 1e-9)
    limit = unseen.sort(descending=True).values[allowed]  # a threshold just above it lets `allowed` of them pass
    return float((forget > limit).double().mean())
