import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
import torch

from metrics.intervals import (
    NAMES,
    Attack,
    accuracy_interval,
    hits_interval,
    membership_interval,
    paired_cells,
    resampled,
    wilson,
)  # fmt: skip
from metrics.membership import fit_attack, membership_inference

OPTIONS = {"level": 0.95, "replicates": 2000, "seed": 0}


def test_wilsons_intervals_of_83_images():
    for hits, low, high in ((0, 0, 4.4), (4, 1.9, 11.7), (20, 16.2, 34.3), (41, 38.9, 59.9), (60, 61.8, 80.8),
                            (79, 88.3, 98.1), (83, 95.6, 100)):  # fmt: skip
        assert [100 * end for end in wilson(hits, 83)] == pytest.approx([low, high], abs=0.05)
    z, p, n = NormalDist().inv_cdf(0.95), 0.3, 50
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    assert wilson(15, 50, level=0.9) == pytest.approx((centre - half, centre + half))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.95])
def test_wilsons_interval_covers_the_share(share):
    """Exactly, over all numbers of hits; the mean over neighbouring shares, since single ones oscillate."""
    from scipy.stats import binom

    n, hits = 83, np.arange(84)
    ends = np.array([wilson(int(k), n) for k in hits])
    shares = np.linspace(share - 0.015, share + 0.015, 31)
    covered = [binom.pmf(hits, n, p)[(ends[:, 0] <= p) & (p <= ends[:, 1])].sum() for p in shares]
    assert np.mean(covered) >= 0.93


SHARES = [[0.05, 0.02, 0.02, 0.91], [0.6, 0.15, 0.05, 0.2], [0.0, 0.1, 0.0, 0.9], [0.01, 0.01, 0.0, 0.98]]


@pytest.mark.parametrize("repetitions", [150, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("shares", SHARES, ids=str)
def test_the_bootstrap_covers_the_difference_of_two_models(shares, repetitions):
    """`shares` of images: hits of both models, of the first, of the second, of none."""
    random, n, covered = np.random.default_rng(0), 83, 0
    for _ in range(repetitions):
        hit = random.choice(4, size=n, p=shares)
        found = hits_interval([hit < 2, (hit == 0) | (hit == 2)], level=0.95, replicates=600, seed=1)
        covered += found["difference_low"] - 1e-9 <= shares[1] - shares[2] <= found["difference_high"] + 1e-9
    assert covered / repetitions >= 0.93 - (0.03 if repetitions < 1000 else 0)


def test_images_are_drawn_in_pairs():
    random = np.random.default_rng(0)
    first = np.arange(400) % 2 == 0
    cells = paired_cells(first, first)
    assert cells.tolist() == [200, 0, 0, 200]
    values, differences = resampled(cells, replicates=4000, random=random)
    assert values.std() == pytest.approx(0.5 / 20, rel=0.1)
    assert differences.std() < 0.005
    _, independent = resampled(np.array([100, 100, 100, 100]), replicates=4000, random=random)
    assert independent.std() == pytest.approx(math.sqrt(0.5 / 400), rel=0.1)


def test_intervals_of_a_share_stand_around_it(compared):
    for wrong in (False, True):
        found = accuracy_interval(compared, split="forget_train", wrong=wrong, **OPTIONS)
        ours, goal = (
            float(((x.logits["forget_train"].argmax(1) == x.labels["forget_train"]) != wrong).double().mean())
            for x in (compared, compared.others["retrained"])
        )
        assert found["low"] < ours < found["high"]
        assert found["difference"] == pytest.approx(ours - goal)
        assert found["difference_low"] < ours - goal < found["difference_high"]
        assert found == accuracy_interval(compared, split="forget_train", wrong=wrong, **OPTIONS)


def test_the_retrained_model_and_a_model_alone_have_no_difference(compared):
    goal = compared.others["retrained"]
    for outputs in (goal, replace(goal, others={"retrained": goal})):
        for found in (
            accuracy_interval(outputs, split="retain_test", wrong=False, **OPTIONS),
            membership_interval(outputs, c=2, **OPTIONS | {"replicates": 50}),
        ):
            assert list(found) == list(NAMES)
            assert [name for name, value in found.items() if value is None] == list(NAMES[2:])


@pytest.mark.parametrize("sizes", [(30, 60, 20, 20), (30, 900, 20, 300)], ids=["newton", "one_step"])
def test_a_replicates_attack_is_the_attack_on_the_data_drawn(simulated, sizes):
    attack = Attack.on(simulated(0, sizes=sizes), c=2)
    counts = attack.draw(20, np.random.default_rng(0))
    assert (counts[:, : sizes[1]].sum(1) == sizes[1]).all()
    assert (counts[:, sizes[1] :].sum(1) == attack.n - sizes[1]).all()
    for row, theta in zip(counts, attack.refitted(counts), strict=True):
        data = torch.from_numpy(np.repeat(attack.feature, row.astype(int)))
        exact = fit_attack(data[: sizes[1]], data[sizes[1] :], c=attack.c)
        expected = np.array([[exact.coef_[0, 0], exact.intercept_[0]]])
        assert theta == pytest.approx(expected[0], abs=0.02 if attack.n > 1000 else 1e-8)
        assert (attack.hits(theta[None]) != attack.hits(expected)).sum() <= (1 if attack.n > 1000 else 0)


def test_refitting_widens_the_interval_of_a_small_attack_and_hardly_that_of_a_large_one(simulated):
    def width(sizes, fixed):
        found = membership_interval(simulated(0, sizes=sizes), c=2, fixed=fixed, **OPTIONS)
        return found["high"] - found["low"]

    few, many = (400, 20, 20, 30), (400, 4000, 20, 4000)
    assert width(few, fixed=math.inf) > 1.5 * width(few, fixed=0)
    assert width(many, fixed=math.inf) == pytest.approx(width(many, fixed=0), rel=0.3)


def test_an_attack_that_newtons_method_leaves_behind_is_fitted_as_ever(simulated, monkeypatch):
    monkeypatch.setattr("metrics.intervals.STEPS", 0)
    attack = Attack.on(simulated(0, sizes=(30, 30, 20, 20)), c=2)
    counts = attack.draw(3, np.random.default_rng(0))
    given_up = attack.refitted(counts)
    monkeypatch.undo()
    assert given_up == pytest.approx(attack.refitted(counts), abs=1e-6)


@pytest.mark.parametrize(("repetitions", "least"), [(10, 0.7), pytest.param(2000, 0.93, marks=pytest.mark.slow)])
def test_the_refitted_bootstrap_covers_a_simulated_attack(simulated, repetitions, least):
    """The truth is the score of an attack on so many images that it and D_f have no error."""
    n = 10_000 if repetitions < 100 else 200_000
    sizes, boosts = (60, 120, 20, 80), ((1.0, 2.0, 0.0, 0.0), (0.0, 2.0, 0.0, 0.0))
    large = [simulated(7, sizes=(n, n, 10, n), boosts=boost) for boost in boosts]
    truth = [membership_inference(outputs, c=2 * 200 / (2 * n)) for outputs in large]
    covered = 0
    for seed in range(repetitions):
        goal = simulated(2 * seed + 1000, sizes=sizes, boosts=boosts[1])
        ours = replace(simulated(2 * seed + 1001, sizes=sizes, boosts=boosts[0]), others={"retrained": goal})
        found = membership_interval(ours, c=2, level=0.95, replicates=400, seed=0)
        covered += np.array([
            found["low"] <= truth[0] <= found["high"],
            found["difference_low"] <= truth[0] - truth[1] <= found["difference_high"],
        ])  # fmt: skip
    assert (covered / repetitions >= least).all(), covered / repetitions
