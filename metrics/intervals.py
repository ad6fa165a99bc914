"""Intervals of shares of images, alone and paired with the retrained model's, over the images of one run.

They do not cover the draw of the forget set, the method's seed or the training: only more runs show those.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from scipy.special import expit
from scipy.stats import binomtest

from metrics.base import EvalOutputs, SplitName
from metrics.membership import entropy, fit_attack

FIXED = 10_000  # members and non-members from which on drawing them again hardly moves the attack's threshold
ONE_STEP = 1000  # of them from which on one step of Newton's method fits the attack again
STEPS = 20
CHUNK = 400_000  # images of replicates in memory at a time
NAMES = ("low", "high", "difference", "difference_low", "difference_high")
Interval = dict[str, float | None]


def wilson(hits: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval of a share of `n` images, fractions.

    >>> [round(100 * end, 1) for end in wilson(4, 83)]
    [1.9, 11.7]
    """
    interval = binomtest(hits, n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def accuracy_interval(
    outputs: EvalOutputs, *, split: SplitName, wrong: bool, level: float, replicates: int, seed: int
) -> Interval:
    """Return intervals of the share of a split's images that the model gets right, or `wrong`.

    `low` and `high` are Wilson's; `difference` (ours − retrained model's, signed) has the percentile interval of a
    paired bootstrap, `difference_low` and `difference_high`: None without a retrained model and for itself.
    """
    retrained = retrained_of(outputs)
    models = [outputs] if retrained is None else [outputs, retrained]
    hits = [((x.logits[split].argmax(dim=1) == x.labels[split]) != wrong).numpy() for x in models]
    return hits_interval(hits, level=level, replicates=replicates, seed=seed)


def membership_interval(
    outputs: EvalOutputs, *, c: float, level: float, replicates: int, seed: int, fixed: int = FIXED
) -> Interval:
    """Return intervals of the share of D_f taken for members, `membership_inference`; see `accuracy_interval`.

    From `fixed` members and non-members on, the attack's threshold stays. Below, it is fitted again in each replicate:
    D_f, members and non-members are drawn separately, the same images for both models; then `low` and `high` are
    percentiles as well.
    """
    retrained = retrained_of(outputs)
    attacks = [Attack.on(x, c=c) for x in (outputs, retrained) if x is not None]
    hits, n = [attack.hits(attack.theta[None])[0] for attack in attacks], attacks[0].n
    if n >= fixed:
        return hits_interval(hits, level=level, replicates=replicates, seed=seed)
    random, cells = np.random.default_rng(seed), []
    for start in range(0, replicates, size := max(CHUNK // max(n, len(hits[0])), 1)):
        counts = attacks[0].draw(min(size, replicates - start), random)
        found = [attack.hits(attack.refitted(counts)) for attack in attacks]
        cells.append(paired_cells(found[0], found[-1]))
    values, differences = resampled(np.concatenate(cells), replicates=replicates, random=random)
    return named(ends(values, level), hits, differences, level)


def retrained_of(outputs: EvalOutputs) -> EvalOutputs | None:
    """Return the outputs of the retrained model; None without one, and for the retrained model itself."""
    retrained = outputs.others.get("retrained")
    if retrained is None or torch.equal(outputs.logits["retain_test"], retrained.logits["retain_test"]):
        return None
    return retrained


def hits_interval(hits: list[np.ndarray], *, level: float, replicates: int, seed: int) -> Interval:
    """Return the intervals of a share, from booleans (N,) of the model and, if there is one, of the retrained model."""
    cells, random = paired_cells(hits[0], hits[-1]), np.random.default_rng(seed)
    _, differences = resampled(cells, replicates=replicates, random=random)
    return named(wilson(int(hits[0].sum()), len(hits[0]), level=level), hits, differences, level)


def named(own: tuple[float, float], hits: list[np.ndarray], differences: np.ndarray, level: float) -> Interval:
    """Return the numbers under their names, those of the difference as None for a model alone."""
    if len(hits) == 1:
        return dict.fromkeys(NAMES) | dict(zip(NAMES, own, strict=False))
    return dict(zip(NAMES, (*own, float(hits[0].mean() - hits[1].mean()), *ends(differences, level)), strict=True))


def ends(values: np.ndarray, level: float) -> tuple[float, float]:
    """Return the percentile interval of replicates."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_cells(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return how many images are hits of (both, the first alone, the second alone, none), (…, 4), from (…, N)."""
    both, one, other = (x.sum(axis=-1) for x in (first & second, first & ~second, ~first & second))
    return np.stack([both, one, other, first.shape[-1] - both - one - other], axis=-1)


def resampled(cells: np.ndarray, *, replicates: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the first's share and its difference to the second's, (R,) each, with the images drawn again in pairs.

    Drawing N images with replacement is one draw of `cells` from a multinomial distribution. Each cell counts half an
    image more: without it the interval of a share of 0, or of two models that agree on every image, has no width.

    Args:
        cells: as `paired_cells` returns them, (4,), or (R, 4) from an attack per replicate.
    """
    n = int(cells.sum(axis=-1).flat[0])
    drawn = random.multinomial(n, (cells + 0.5) / (n + 2), size=replicates)
    return (drawn[:, 0] + drawn[:, 1]) / n, (drawn[:, 1] - drawn[:, 2]) / n


@dataclass(frozen=True, eq=False)
class Attack:
    """A fitted attack with its data, the feature in standard units.

    Attributes:
        feature: of the members, then of the non-members, (N,).
        forget: of D_f, (N_f,).
        n_members: how many of the N are members.
        theta: slope and intercept, (2,).
        c: inverse regularisation strength on this feature, see `fit_attack`.
    """

    feature: np.ndarray
    forget: np.ndarray
    n_members: int
    theta: np.ndarray
    c: float

    @classmethod
    def on(cls, outputs: EvalOutputs, *, c: float) -> Self:
        """Return the attack of `membership_inference` on a model's outputs."""
        members, others = entropy(outputs.logits["retain_train"]), entropy(outputs.test_logits)
        attack, raw = fit_attack(members, others, c=c), torch.cat([members, others]).numpy()
        shift, scale = raw.mean(), raw.std() or 1.0
        slope, intercept = attack.coef_[0, 0], attack.intercept_[0]
        forget = (entropy(outputs.logits["forget_train"]).numpy() - shift) / scale
        theta = np.array([slope * scale, intercept + slope * shift])
        return cls((raw - shift) / scale, forget, len(members), theta, c * scale**2)

    @property
    def n(self) -> int:
        return len(self.feature)

    def hits(self, theta: np.ndarray) -> np.ndarray:
        """Return which images of D_f the attacks (R, 2) take for members, (R, N_f)."""
        return np.asarray(theta[:, :1] * self.forget + theta[:, 1:] > 0)

    def draw(self, replicates: int, random: np.random.Generator) -> np.ndarray:
        """Return how often each member and non-member is drawn, (R, N); both kinds keep their number."""
        counts = np.zeros(replicates * self.n)
        for start, end in ((0, self.n_members), (self.n_members, self.n)):
            drawn = random.integers(start, end, size=(replicates, end - start))
            drawn += np.arange(replicates)[:, None] * self.n
            counts += np.bincount(drawn.ravel(), minlength=len(counts))
        return counts.reshape(replicates, self.n)

    def refitted(self, counts: np.ndarray) -> np.ndarray:
        """Return the attacks (R, 2) on the data drawn `counts` (R, N) times, by Newton's method from this one.

        From `ONE_STEP` images on a single step decides all but a few of them alike.
        """
        theta = np.tile(self.theta, (len(counts), 1))
        theta -= self.step(theta, counts @ self.sums(self.theta))
        for _ in range(STEPS if self.n < ONE_STEP else 0):
            step = self.step(theta, np.einsum("rn,rns->rs", counts, self.sums(theta)))
            theta -= step
            if np.abs(step).max() < 1e-6:
                return theta
        for row in range(len(theta)) if self.n < ONE_STEP else ():  # a step was too long
            data = torch.from_numpy(np.repeat(self.feature, counts[row].astype(int)))
            attack = fit_attack(data[: self.n_members], data[self.n_members :], c=self.c)
            theta[row] = attack.coef_[0, 0], attack.intercept_[0]
        return theta

    def sums(self, theta: np.ndarray) -> np.ndarray:
        """Return each image's part of the loss's gradient (2) and second derivatives (3), (…, N, 5)."""
        x, is_member = self.feature, np.arange(self.n) < self.n_members
        weight = self.n / 2 / np.where(is_member, self.n_members, self.n - self.n_members)
        p = expit(theta[..., :1] * x + theta[..., 1:])
        error, curve = weight * (p - is_member), weight * p * (1 - p)
        return np.stack([error * x, error, curve * x**2, curve * x, curve], axis=-1)

    def step(self, theta: np.ndarray, sums: np.ndarray) -> np.ndarray:
        """Return Newton's steps (R, 2); the slope carries the L2 penalty."""
        g, h, a, b, d = sums.T
        g, a = g + theta[:, 0] / self.c, a + 1 / self.c
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.stack([d * g - b * h, a * h - b * g], axis=1) / (a * d - b * b)[:, None])
