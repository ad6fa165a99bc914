"""Membership-inference attack (MIA): does the model still treat the forget set as training data?"""

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from metrics.base import EvalOutputs


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of the softmax in nats, (N,) float64, from logits (N, K); a probability of 0 adds 0.

    >>> entropy(torch.zeros(1, 2)).tolist()  # log 2
    [0.6931471805599453]
    """
    log_p = torch.log_softmax(logits.double(), dim=1)
    return -(log_p.exp() * log_p.clamp(min=-1e4)).sum(dim=1)


def fit_attack(members: Tensor, non_members: Tensor, *, c: float) -> LogisticRegression:
    """Return the class-balanced logistic regression (L2, lbfgs) on one feature, members being class 1.

    The published runs used the multinomial form with C = 1; the binary form with C = 2 is the same model.

    Args:
        members: feature of the training samples, (N,).
        non_members: feature of unseen samples, (M,).
        c: inverse regularisation strength of the binary form.
    """
    if not (isinstance(c, int | float) and c > 0):
        raise ValueError(f"Expected c of the attack to be a number above 0, but got {c!r}.")
    features = torch.cat([members, non_members]).cpu().numpy()[:, None]
    is_member = torch.cat([torch.ones(len(members)), torch.zeros(len(non_members))]).long().numpy()
    return LogisticRegression(C=c, class_weight="balanced", solver="lbfgs").fit(features, is_member)


def membership_inference(outputs: EvalOutputs, *, c: float) -> float:
    """Return the share of D_f (train) that the attack takes for training data, a fraction in [0, 1].

    The feature is the entropy of the prediction; members are all of D_r (train), non-members the whole test set.
    """
    attack = fit_attack(entropy(outputs.logits["retain_train"]), entropy(outputs.test_logits), c=c)
    forget = entropy(outputs.logits["forget_train"]).cpu().numpy()[:, None]
    return float(attack.predict(forget).mean())
