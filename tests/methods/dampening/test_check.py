"""`check` agrees with the suite's metrics and with textbook intervals."""

import pytest
import torch
from scipy.stats import binomtest
from torch import nn

from methods.dampening import check
from methods.dampening.check import Share, fit_attack
from metrics.membership import entropy
from metrics.membership import fit_attack as reference
from tests.methods.helpers import seeded

SIZES = {"forget": 30, "retain": 200, "unseen": 90}


@pytest.fixture(scope="module")
def parts():
    """Samples of three classes that a network knows, knows well, or does not know."""
    random = seeded()
    scale = {"forget": 1.0, "retain": 2.0, "unseen": 0.3}
    return {
        name: (
            scale[name] * torch.eye(3)[torch.arange(n) % 3] + torch.randn(n, 3, generator=random),
            torch.arange(n) % 3,
        )
        for name, n in SIZES.items()
    }


def test_accuracies_and_attack_are_those_of_the_suite(parts):
    model = nn.Linear(3, 3)
    with torch.no_grad():
        model.weight.copy_(2 * torch.eye(3))
    found = check(model.train(), *([part] for part in parts.values()))
    assert model.training
    logits = {name: model(x).detach() for name, (x, _) in parts.items()}
    attack = reference(entropy(logits["retain"]), entropy(logits["unseen"]), c=2.0)
    for name, (_, y) in parts.items():
        assert found.accuracy[name] == (int((logits[name].argmax(dim=1) == y).sum()), SIZES[name])
        assert found.attack[name] == (int(attack.predict(entropy(logits[name]).numpy()[:, None]).sum()), SIZES[name])
    assert 0 < found.attack["forget"].k < SIZES["forget"]
    lines = str(found).splitlines()
    assert lines[0] == f"accuracy, forget: {found.accuracy['forget']}"
    assert len(lines) == 6


@pytest.mark.parametrize(("members", "others", "scale"), [(200, 70, 1.0), (20, 50, 5.0), (9, 9, 1e-6), (40, 4, 0.1)])
def test_newton_finds_the_optimum_of_scikit_learn(members, others, scale):
    a, b = (scale * torch.rand(n, generator=seeded(n)).double() for n in (members, others))
    for shift in (0.0, scale, 10 * scale):  # the last two are apart
        attack = reference(a, b + shift, c=2.0)
        expected = [attack.intercept_[0], attack.coef_[0, 0]]
        assert fit_attack(a, b + shift, c=2.0) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("k", "n"), [(0, 83), (4, 83), (41, 83), (83, 83), (1, 1)])
def test_the_interval_is_that_of_wilson(k, n):
    expected = binomtest(k, n).proportion_ci(method="wilson")
    assert Share(k, n).interval == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_wrong_labels_and_empty_parts_are_errors(parts):
    good = [parts["retain"]]
    with pytest.raises(ValueError, match="from 0 to 2, as the model has 3 logits, but got 1 to 3"):
        check(nn.Linear(3, 3), [(parts["forget"][0], parts["forget"][1] + 1)], good, good)
    with pytest.raises(ValueError, match="at least one sample of each part"):
        check(nn.Linear(3, 3), [], good, good)
