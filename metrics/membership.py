"""Membership-inference attack (MIA): does the model still treat the forget set as training data?"""

import warnings
from typing import Annotated

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from metrics.base import EvalOutputs

CONVERGED = 1e-10  # largest gradient of the loss per sample at the optimum
ROUNDING = 1e-14  # log-odds that are no larger are those of equal entropies


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of the softmax in nats, (N,) float64, from logits (N, K); a probability of 0 adds 0.

    >>> entropy(torch.zeros(1, 2)).tolist()  # log 2
    [0.6931471805599453]
    """
    log_p = torch.log_softmax(logits.double(), dim=1)
    return -(log_p.exp() * log_p.clamp(min=-1e4)).sum(dim=1)


def fit_attack(members: Tensor, non_members: Tensor, *, c: float) -> LogisticRegression:
    """Return the class-balanced logistic regression (L2, Newton's method) on one feature, members being class 1.

    Features that are equal tell nobody apart: slope and intercept are 0 then, and nobody is a member.
    The published runs used the multinomial form with C = 1; the binary form with C = 2 is the same model.
    The feature is not standardised: under the L2 penalty that would be another optimum.

    Args:
        members: feature of the training samples, (N,).
        non_members: feature of unseen samples, (M,).
        c: inverse regularisation strength of the binary form.

    Raises:
        ValueError: `c` is not a number above 0.
        RuntimeError: the solver stopped before the optimum.
    """
    if not (isinstance(c, int | float) and c > 0):
        raise ValueError(f"Expected c of the attack to be a number above 0, but got {c!r}.")
    features = torch.cat([members, non_members]).cpu().double().numpy()[:, None]
    is_member = torch.cat([torch.ones(len(members)), torch.zeros(len(non_members))]).long().numpy()
    attack = LogisticRegression(C=c, class_weight="balanced", solver="newton-cholesky", tol=CONVERGED / 100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # also given at the optimum itself; checked below
        attack.fit(features, is_member)
    error = is_member - attack.predict_proba(features)[:, 1]
    sizes = np.array([len(non_members), len(members)])
    pull = (error / sizes[is_member]) @ np.insert(features, 0, 1, axis=1)  # on the intercept and the slope
    gradient = float(np.abs(pull - [0, attack.coef_[0, 0] / (c * len(error) / 2)]).max())
    if not gradient <= CONVERGED:
        raise RuntimeError(
            f"Expected the attack's logistic regression to converge (gradient at most {CONVERGED:g}), but got a "
            f"gradient of {gradient:.1e} after {attack.n_iter_[0]} steps on {len(members)} members and "
            f"{len(non_members)} non-members; look at their entropies, or raise max_iter in fit_attack."
        )
    if np.abs(attack.decision_function(features)).max() <= ROUNDING:
        attack.coef_[:], attack.intercept_[:] = 0, 0
    return attack


def membership_inference(outputs: EvalOutputs, *, c: Annotated[float, "(0, inf)"]) -> float:
    """Return the share of D_f (train) that the attack takes for training data, a fraction in [0, 1].

    The feature is the entropy of the prediction; members are all of D_r (train), non-members the whole test set.
    """
    attack = fit_attack(entropy(outputs.logits["retain_train"]), entropy(outputs.test_logits), c=c)
    forget = entropy(outputs.logits["forget_train"]).cpu().numpy()[:, None]
    return float(attack.predict(forget).mean())
