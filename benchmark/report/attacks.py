"""Attacks and distances that need the models of many seeds, from margins of the true label: pure functions.

A margin is the log-odds of the true label, in nats: the label's probability is expit(margin). Arrays are (T, X), a row
per model and a column per image; NaN where the model's forget set does not hold the image.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy.special import log_expit, logsumexp
from scipy.stats import mannwhitneyu

FPR, FEWEST = 0.01, 10  # a false-positive rate; below so many others above the threshold it is not measured
REPLICATES = 1000  # of a bootstrap
LEAST_MODELS = 16  # of U-LiRA, and half as many for an image
OWN_VARIANCE = 32  # models from which on each image has a variance of its own
PRIOR = 4  # models that the variance over all images counts as
CLAMP, LEAST_VARIANCE = 30.0, 1e-12  # nats; nats²: of images whose margin never changes
LEAST_KLOM, BINS, CLIP, EMPTY = 50, 20, 100.0, 1e-5  # models per image; of a histogram; nats; share of an empty bin


def auc(members: np.ndarray, others: np.ndarray) -> float:
    """Return the share of pairs in which the member has the larger score; ties count ½."""
    return float(mannwhitneyu(members, others).statistic / (len(members) * len(others)))


def tpr(members: np.ndarray, others: np.ndarray) -> float | None:
    """Return the largest share of members above a threshold that at most 1 % of the others exceed or reach.

    Nothing is interpolated. None for fewer than 1000 others.
    """
    if len(others) * FPR < FEWEST:
        return None
    allowed = math.floor(len(others) * FPR + 1e-9)
    return float((members > np.sort(others)[-allowed - 1]).mean())


def log_ratio(margins: np.ndarray, references: np.ndarray, a: float) -> np.ndarray:
    """Return RMIA's log p(y|x) − log ½[(1 + a)·p̄(x) + 1 − a], p̄ the mean over the references; NaN without one.

    With a threshold of 1 on the ratio of two images the score of RMIA, the share of a population with a smaller ratio,
    orders the images as the ratio itself does.

    Args:
        margins: of one model, (X,).
        references: of models that never saw the image, (R, X).
        a: 0 … 1; 0 takes ½(1 + p̄) for p(x), 1 takes p̄ itself.
    """
    known = np.isfinite(references)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = logsumexp(np.where(known, log_expit(references), -np.inf), axis=0) - np.log(known.sum(axis=0))
        ratio = log_expit(margins) - np.logaddexp(np.log1p(a) + mean, np.log1p(-a)) + math.log(2)
    return np.where(known.any(axis=0), ratio, np.nan)


def rmia(
    forget: np.ndarray, unseen: np.ndarray, references: np.ndarray, unseen_references: np.ndarray, a: float
) -> list[tuple[float, float | None]]:
    """Return AUC and TPR of offline RMIA on D_f against unseen images, per model (Zarifzadeh et al., ICML 2024).

    A reference that is the model itself is left out. Models without any have no entry.

    Args:
        forget, unseen: of the models, (T, X) and (T, Z).
        references, unseen_references: of retrained models, (R, X) and (R, Z).
    """
    found = []
    for own, others in zip(forget, unseen, strict=True):
        is_other = (unseen_references != others).any(axis=1)
        if not is_other.any():
            continue
        members = log_ratio(own, references[is_other], a)
        population = log_ratio(others, unseen_references[is_other], a)
        if len(members := members[np.isfinite(members)]):
            found.append((auc(members, population), tpr(members, population)))
    return found


def gaussians(margins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance per image, (X,); the variance is drawn to that over all images.

    s² ← (ν·s² + ν₀·s̄²) / (ν + ν₀), ν one less than the image's models; s̄² itself with few models. An image without a
    model has a mean of NaN.
    """
    n = np.isfinite(margins).sum(axis=0)
    with np.errstate(invalid="ignore"):
        mean = np.nansum(margins, axis=0) / n
    squares, freedom = np.nansum((margins - mean) ** 2, axis=0), np.maximum(n - 1, 0)
    pooled = squares.sum() / max(freedom.sum(), 1)
    own = (squares + PRIOR * pooled) / (freedom + PRIOR)
    variance = own if len(margins) + 1 >= OWN_VARIANCE else np.full(len(mean), pooled)
    return mean, np.maximum(variance, LEAST_VARIANCE)


def likelihood_ratios(unlearned: np.ndarray, retrained: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return U-LiRA's log N_U(φ) − log N_R(φ) of the unlearned and of the retrained models, (T, X) each.

    The two models of a row are left out of both Gaussians. NaN where the image is not forgotten, or by no other row.

    Args:
        unlearned, retrained: models of the same forget set in the same row.
    """
    pair = np.clip(unlearned, -CLAMP, CLAMP), np.clip(retrained, -CLAMP, CLAMP)
    ratios = np.full((2, *unlearned.shape), np.nan)
    for row in range(len(unlearned)):
        fits = [gaussians(np.delete(margins, row, axis=0)) for margins in pair]
        for side, margins in enumerate(pair):
            of_u, of_r = (-np.log(v) / 2 - (margins[row] - mean) ** 2 / (2 * v) for mean, v in fits)
            ratios[side, row] = of_u - of_r
    return ratios[0], ratios[1]


def ulira(unlearned: np.ndarray, retrained: np.ndarray) -> dict[str, tuple[float, float, float] | None]:
    """Return U-LiRA's `accuracy` and `tpr`, each with the ends of a 95 % interval; None for too few models or images.

    A model was unlearned if N_U(φ) > N_R(φ); accuracy is over images and over unlearned and retrained models, ½ for
    perfect unlearning (Hayes et al., SaTML 2025). The interval is a percentile bootstrap over rows; the Gaussians stay.

    Args:
        unlearned, retrained: as for `likelihood_ratios`; rows of independent trainings.
    """
    nothing: dict[str, tuple[float, float, float] | None] = {"accuracy": None, "tpr": None}
    models = np.isfinite(unlearned).sum(axis=0)
    if len(unlearned) < LEAST_MODELS or models[models > 0].mean() < LEAST_MODELS / 2:
        return nothing
    positive, negative = likelihood_ratios(unlearned, retrained)
    scored = np.isfinite(positive)
    hits = np.where(scored, ((np.sign(positive) - np.sign(negative)) / 2 + 1) / 2, 0).sum(axis=1)
    sizes = scored.sum(axis=1)

    def accuracy(rows: np.ndarray) -> float | None:
        return float(hits[rows].sum() / sizes[rows].sum())

    def rate(rows: np.ndarray) -> float | None:
        return tpr(*(ratios[rows][scored[rows]] for ratios in (positive, negative)))

    return {name: bootstrap(of, len(unlearned)) for name, of in (("accuracy", accuracy), ("tpr", rate))}


def bootstrap(statistic: Callable[[np.ndarray], float | None], n: int) -> tuple[float, float, float] | None:
    """Return a statistic of n rows and its 95 % percentile interval over rows drawn with replacement; None for None."""
    if (value := statistic(np.arange(n))) is None:
        return None
    random = np.random.default_rng(0)
    values = [x for _ in range(REPLICATES) if (x := statistic(random.integers(n, size=n))) is not None]
    low, high = np.percentile(values, [2.5, 97.5])
    return value, float(low), float(high)


def klom(unlearned: np.ndarray, retrained: np.ndarray) -> np.ndarray:
    """Return KL(unlearned ‖ retrained) of the margins per image, in nats, of images with enough models of both kinds.

    From histograms over the common range (Rinberg et al., EasyDUB; there the largest margin is in no bin). An empty bin
    of the retrained models counts as 1e-5, so disjoint histograms give ln(1e5) = 11.5 less the entropy of the unlearned
    models'. Few models alone give more than 0: read it beside that of other retrained models.

    Args:
        unlearned, retrained: (T, X) and (R, X).
    """
    pair = np.clip(unlearned, -CLIP, CLIP), np.clip(retrained, -CLIP, CLIP)
    enough = np.min([np.isfinite(x).sum(axis=0) for x in pair], axis=0) >= LEAST_KLOM
    distances = []
    for column in np.flatnonzero(enough):
        values = [x[:, column][np.isfinite(x[:, column])] for x in pair]
        ends = np.min(np.concatenate(values)), np.max(np.concatenate(values))
        p, q = (np.histogram(x, bins=BINS, range=ends)[0] / len(x) for x in values)
        full = p > 0
        distances.append(float((p[full] * np.log(p[full] / np.maximum(q[full], EMPTY))).sum()))
    return np.array(distances)
