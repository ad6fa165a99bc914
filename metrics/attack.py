"""The membership-inference attack itself: how good it is, and what it goes by."""

from metrics.base import EvalOutputs
from metrics.membership import entropy, fit_attack


def attack_quality(outputs: EvalOutputs, *, c: float) -> dict[str, float | None]:
    """Return what stands behind `membership_inference`; one feature makes the attack a threshold on the entropy.

    `threshold` in nats (None if the slope is 0: then no image is a member) and `inverted`, 1 if members have the
    *higher* entropy, else 0. Shares in [0, 1] of images taken for members: `members` of D_r (train), `non_members` of
    the test set; `balanced_accuracy` on the two, near ½ if the attack's score of D_f says nothing.
    """
    members, non_members = entropy(outputs.logits["retain_train"]), entropy(outputs.test_logits)
    attack = fit_attack(members, non_members, c=c)
    slope, intercept = float(attack.coef_[0, 0]), float(attack.intercept_[0])
    hit, false = (float(attack.predict(x.cpu().numpy()[:, None]).mean()) for x in (members, non_members))
    return {
        "threshold": -intercept / slope if slope else None,
        "inverted": float(slope > 0),
        "members": hit,
        "non_members": false,
        "balanced_accuracy": (hit + 1 - false) / 2,
    }
