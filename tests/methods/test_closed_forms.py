"""The methods of the field on models whose gradients are known, and the laws that hold on any model."""

import copy
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from methods import scrub
from methods.assd import ASSD, alpha_of
from methods.ct import CT
from methods.delete import Delete, without_label
from methods.jit import JiT
from methods.l1_sparse import L1Sparse
from methods.lfssd import LFSSD, absolute_gradients
from methods.msg import MSG
from methods.neggrad import NegGrad
from methods.scrub import Scrub
from methods.training import Recipe
from tests.conftest import SIZE
from tests.methods.helpers import seeded

SGD = Recipe.constant("sgd", lr=0.01, epochs=1, batch_size=1000)  # a whole set at once
by_samples, by_batches = (partial(absolute_gradients, per_sample=value) for value in (True, False))
RANDOM_ORDER = {"order": "retain_shuffled", "batch_size": 16}


class Linear(nn.Module):
    """Flattened images, one linear layer."""

    def __init__(self, classes=3):
        super().__init__()
        self.fc = nn.Linear(3 * SIZE * SIZE, classes)

    def forward(self, images):
        return self.fc(images.flatten(1))


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return Linear()


def all_of(data, context):
    ((images, labels),) = context.batches(data, len(data))
    return images, labels


def parameters_of(model):
    return [p.detach().clone() for p in model.parameters()]


def close(found, expected, atol=1e-6):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=atol, rtol=1e-4)


# LFSSD


def test_lfssds_importance_of_a_linear_layer(linear, split, context):
    images, _ = all_of(split.forget_train, context)
    x, f = images.flatten(1), linear(images).detach()
    each = by_samples(linear, context.batches(split.forget_train, 7))
    close(each.values(), [2 * (f.abs().T @ x.abs()) / len(x), 2 * f.abs().mean(dim=0)], atol=1e-4)
    together = by_batches(linear, context.batches(split.forget_train, 1000))
    close(together.values(), [2 * (f.T @ x).abs() / len(x), 2 * f.mean(dim=0).abs()], atol=1e-4)


def test_lfssd_in_batches_of_one_is_per_sample_and_otherwise_at_most_that(cnn, split, context):
    each = by_samples(cnn, context.batches(split.forget_train, 7))
    alone, together = (by_batches(cnn, context.batches(split.forget_train, size)) for size in (1, 5))
    close(alone.values(), each.values(), atol=1e-5)
    assert all((together[name] <= value * 1.0001 + 1e-6).all() for name, value in each.items())
    assert any((together[name] < value * 0.9).any() for name, value in each.items())


@pytest.mark.parametrize("reduction", ["per_sample", "batch_mean"])
def test_lfssd_selects_nothing_above_the_share_of_the_forget_set(reduction, cnn, split, context):
    bound = (len(split.retain_train) + len(split.forget_train)) / len(split.forget_train)
    before = parameters_of(cnn)
    method = LFSSD(alpha=1.01 * bound, lam=1.0, reduction=reduction, **RANDOM_ORDER)
    if reduction == "per_sample":
        with pytest.warns(UserWarning, match="Nothing is selected"):
            method(cnn, split, context)
        assert all(map(torch.equal, before, cnn.parameters()))
    replace(method, alpha=0.1, lam=0.1)(cnn, split, context)
    assert not all(map(torch.equal, before, cnn.parameters()))


# ASSD


def test_assd_selects_its_share_of_the_ratios(cnn, split, context):
    before = torch.cat([p.flatten() for p in parameters_of(cnn)])
    after = ASSD(reduction="per_sample", over="all", **RANDOM_ORDER)(cnn, split, context)
    changed = int((torch.cat([p.flatten() for p in parameters_of(after)]) != before).sum())
    n_forget = len(split.forget_train)
    share = math.log1p(100 * n_forget / (n_forget + len(split.retain_train))) / 100
    assert changed == pytest.approx(share * len(before), abs=1)


def test_assds_threshold_does_not_depend_on_the_scale_and_needs_a_finite_ratio(split):
    full, forget = ({"w": torch.rand(500, generator=seeded(seed))} for seed in (0, 1))
    alpha = alpha_of(full, forget, split)
    assert alpha_of({"w": 3 * full["w"]}, {"w": 3 * forget["w"]}, split) == pytest.approx(alpha, rel=1e-5)
    zeros = {"w": torch.zeros(500)}
    with pytest.raises(ValueError, match="choose alpha yourself"):
        alpha_of(zeros, forget, split)


def test_assd_shares_importances_with_ssd_and_lfssd_does_not(cnn, split, context):
    asked = []

    def remembered(phase, options, make):
        asked.append((phase, tuple(sorted(options.items())), make.__module__))  # the module: of which code it is
        return make()

    from methods.ssd import SSD

    shared = {"reduction": "batch_mean", **RANDOM_ORDER}
    cached = replace(context, cache=remembered)
    methods = (
        SSD(alpha=1.1, lam=1.0, **shared), ASSD(over="all", **shared), ASSD(over="retain", **shared),
        LFSSD(alpha=1.1, lam=1.0, **shared),
    )  # fmt: skip
    for method in methods:
        method(copy.deepcopy(cnn), split, cached)
    ssd, assd, retain, loss_free = (asked[2 * i : 2 * i + 2] for i in range(4))
    assert ssd == assd
    assert (ssd[0] != retain[0], ssd[1] == retain[1]) == (True, True)
    assert {key[:2] for key in ssd}.isdisjoint(key[:2] for key in loss_free)
    assert {module for _, _, module in loss_free} == {"methods.lfssd"}


# NegGrad


def test_the_first_step_of_neggrad_plus(linear, split, context):
    before = parameters_of(linear)
    gradients = []
    for data in (split.retain_train, split.forget_train):
        images, labels = all_of(data, context)
        gradients.append(torch.autograd.grad(F.cross_entropy(linear(images), labels), list(linear.parameters())))
    NegGrad(SGD, forget_weight=0.3, forget_batch_size=1000, limit=None)(linear, split, context)
    expected = [p - 0.01 * (0.7 * r - 0.3 * f) for p, r, f in zip(before, *gradients, strict=True)]
    close(parameters_of(linear), expected)


def test_ascent_raises_the_error_on_the_forget_set_up_to_the_limit(linear, split, context):
    images, labels = all_of(split.forget_train, context)

    def error():
        return float(F.cross_entropy(linear(images), labels).detach())

    errors = [error()]
    for _ in range(3):
        NegGrad(SGD, forget_weight=1.0, forget_batch_size=1000, limit=None)(linear, split, context)
        errors.append(error())
    assert errors == sorted(errors)
    assert errors[0] < errors[-1]
    before = parameters_of(linear)
    NegGrad(SGD, forget_weight=1.0, forget_batch_size=1000, limit=1e-6)(linear, split, context)
    assert all(map(torch.equal, before, linear.parameters()))


# l1-sparse


def test_a_step_of_the_penalty_alone_goes_along_the_signs(split, context):
    model = Linear(classes=1)  # one class: the cross-entropy and its gradient are 0
    one = {name: getattr(split, name).relabelled(torch.zeros(len(getattr(split, name)), dtype=torch.int64))
           for name in ("forget_train", "retain_train")}  # fmt: skip
    before = parameters_of(model)
    recipe = replace(SGD, epochs=4, lr=1e-6)
    L1Sparse(recipe, gamma=0.5, dense_epochs=2)(model, replace(split, **one), context)
    close(parameters_of(model), [p - 1e-6 * (0.5 + 0.25) * p.sign() for p in before], atol=1e-9)


# SCRUB


def test_the_distance_of_scrub_is_a_scaled_divergence():
    one, other = torch.randn(5, 4, generator=seeded(0)), torch.randn(5, 4, generator=seeded(1))
    p, q = ((z / 2).softmax(dim=1) for z in (one, other))
    expected = 4 * (p * (p / q).log()).sum(dim=1).mean()
    assert float(scrub.distance(other, one, 2.0)) == pytest.approx(float(expected), rel=1e-5)
    assert float(scrub.distance(one + 7, one, 2.0)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("passes", [0, 1])
def test_at_the_original_the_divergence_has_no_gradient(passes, linear, split, context):
    before = parameters_of(linear)
    method = Scrub(SGD, 1000, ascent_epochs=passes, alpha=1.0, gamma=0.0, temperature=4.0)
    close(parameters_of(method(linear, split, context)), before, atol=1e-7)


def test_from_the_second_ascent_on_scrub_leaves_its_teacher(linear, split, context):
    method = Scrub(replace(SGD, epochs=3), 8, ascent_epochs=3, alpha=0.0, gamma=1.0, temperature=1.0)
    teacher = context.predict(linear, split.forget_train, 1000)
    distances = []
    for passes in (0, 3):
        student = replace(method, ascent_epochs=passes)(copy.deepcopy(linear), split, context)
        logits = context.predict(student, split.forget_train, 1000)
        distances.append(float(scrub.distance(logits, teacher, 1.0)))
    assert distances[0] < distances[1]


def test_scrub_r_returns_the_first_checkpoint_with_the_error_of_unseen_images(linear, split, context):
    recipe = replace(SGD, lr=0.003, epochs=4, batch_size=16)
    method = Scrub(recipe, 8, ascent_epochs=4, alpha=0.0, gamma=0.5, temperature=1.0)
    forget = split.forget_train
    checkpoints, errors = [linear], []
    for epochs in (1, 2, 3, 4):
        shorter = replace(method, recipe=replace(recipe, epochs=epochs))
        checkpoints.append(shorter(copy.deepcopy(linear), split, context))
    for model in checkpoints:
        predicted = context.predict(model, forget, 1000).argmax(dim=1)
        errors.append(int((predicted != forget.labels).sum()))
    assert len({*errors}) > 2
    for wrong in errors:
        labels = (predicted + (torch.arange(len(forget)) < wrong)) % 3  # so many are wrong of the final student's
        unseen = replace(split, validation=forget.relabelled(labels))
        found = replace(method, rewind=True)(copy.deepcopy(linear), unseen, context)
        close(parameters_of(found), parameters_of(checkpoints[errors.index(wrong)]), atol=0)


def test_scrub_r_applies_if_there_are_unseen_images(split):
    plain = Scrub(SGD, 8, ascent_epochs=1, alpha=0.0, gamma=1.0, temperature=1.0)
    method = replace(plain, rewind=True)
    assert plain.skip(split) is None
    assert "add +dataset.subset.validation=0.1" in method.skip(split)
    assert method.skip(replace(split, validation=split.retain_test.subset(torch.arange(0)))) is not None
    assert method.skip(replace(split, validation=split.retain_test)) is None


# DELETE


def test_the_target_of_delete_keeps_the_odds_of_the_other_classes():
    logits, labels = torch.randn(50, 5, generator=seeded()), torch.arange(50) % 5
    p, q = logits.softmax(dim=1), without_label(logits, labels)
    own = F.one_hot(labels, 5).bool()
    assert (q[own] == 0).all()
    torch.testing.assert_close(q.sum(dim=1), torch.ones(50))
    torch.testing.assert_close(q[~own].view(50, 4), (p[~own].view(50, 4) / (1 - p[own].unsqueeze(1))))
    two = without_label(logits[:, :2], labels % 2)
    assert torch.equal(two, F.one_hot(1 - labels % 2, 2).float())


def test_the_first_step_of_delete(linear, split, context):
    images, labels = all_of(split.forget_train, context)
    logits = linear(images).detach()
    push = (logits.softmax(dim=1) - without_label(logits, labels)) / len(images)
    expected = [linear.fc.weight - 0.01 * push.T @ images.flatten(1), linear.fc.bias - 0.01 * push.sum(dim=0)]
    close(parameters_of(Delete(SGD, norms="train")(linear, split, context)), expected)


# MSG and CT


def test_msg_renews_the_weights_with_the_least_gradient_and_no_others(cnn, recipe):
    method, before = MSG(recipe, share=0.3, factor=0.1, layers="conv"), cnn.conv.weight.detach().clone()
    n = before.numel()
    gradient = torch.randperm(n, generator=seeded()).view(before.shape).float()
    mask = method.renew({"conv": cnn.conv.weight}, {"conv.weight": gradient}, seeded())["conv"]
    assert torch.equal(mask, gradient < round(0.3 * n))
    assert torch.equal(cnn.conv.weight != before, mask)
    tied = method.renew({"conv": cnn.conv.weight}, {"conv.weight": torch.zeros_like(before)}, seeded())["conv"]
    assert torch.equal(tied.flatten(), torch.arange(n) < round(0.3 * n))


def test_the_gradient_of_msg_is_that_of_the_retained_less_that_of_the_forgotten(cnn, split, context, recipe):
    method = MSG(replace(recipe, batch_size=1000), share=0.3, factor=0.1, layers="conv")
    retain = split.retain_train
    same = copy.copy(split)
    object.__setattr__(same, "forget_train", retain)  # as large as D_r, so that all of D_r is drawn
    for value in method.difference(cnn, same, context).values():
        torch.testing.assert_close(value, torch.zeros_like(value), atol=1e-6, rtol=0)
    assert any(value.abs().max() > 1e-3 for value in method.difference(cnn, split, context).values())


def test_msg_slows_the_other_weights_down(cnn, split, context):
    one_step = replace(SGD, lr=0.001)
    steps = {}
    for factor in (1.0, 0.1):
        model = copy.deepcopy(cnn)
        before = parameters_of(model)
        MSG(one_step, share=0.0, factor=factor, layers="conv")(model, split, context)
        steps[factor] = [p - was for p, was in zip(parameters_of(model), before, strict=True)]
    for (name, _), full, slow in zip(cnn.named_parameters(), steps[1.0], steps[0.1], strict=True):
        torch.testing.assert_close(slow, full * (0.1 if name == "conv.weight" else 1), atol=1e-7, rtol=1e-3)


def test_ct_transposes_kernels_and_nothing_else(cnn, split, recipe):
    before = copy.deepcopy(cnn.state_dict())
    method = CT(recipe, convolutional=True)
    assert method.skip(split) is None
    method.transpose(cnn)
    assert torch.equal(cnn.conv.weight, before["conv.weight"].transpose(2, 3))
    method.transpose(cnn)
    assert all(torch.equal(value, before[name]) for name, value in cnn.state_dict().items())
    with pytest.raises(ValueError, match=r"square kernels to transpose, but 0 has \(1, 3\)"):
        method.transpose(nn.Sequential(nn.Conv2d(1, 1, (1, 3))))
    assert "convolutions" in replace(method, convolutional=False).skip(split)


# JiT


def options(**changes):
    return JiT(
        **{"lr": 0.01, "sigma": 0.5, "noises": 1, "batch_size": 64, "mode": "eval", "accumulate": False} | changes
    )


def test_a_step_of_jit_on_a_linear_layer(linear, split, context):
    images, _ = all_of(split.forget_train, context)
    noise = torch.randn(images.shape, generator=context.random("jit"))
    away = images - (images + 0.5 * noise).clamp(images.min(), images.max())
    distance = away.flatten(1).norm(dim=1, keepdim=True)
    difference = away.flatten(1) @ linear.fc.weight.detach().T
    assert ((difference.norm(dim=1) / distance[:, 0]) <= torch.linalg.matrix_norm(linear.fc.weight, 2)).all()
    push = difference / difference.norm(dim=1, keepdim=True) / distance  # through the clean side alone
    expected = [linear.fc.weight - 0.01 * push.T @ images.flatten(1), linear.fc.bias - 0.01 * push.sum(dim=0)]
    close(parameters_of(options()(linear, split, context)), expected, atol=1e-5)


def test_jit_leaves_a_constant_function_alone(linear, split, context):
    nn.init.zeros_(linear.fc.weight)
    before = parameters_of(linear)
    options(noises=3)(linear, split, context)
    assert all(map(torch.equal, before, linear.parameters()))


def test_jit_accumulates_from_the_second_batch_on(cnn, split, context):
    def result(**changes):
        return parameters_of(options(lr=1e-3, **changes)(copy.deepcopy(cnn), split, context))

    assert all(map(torch.equal, result(), result(accumulate=True)))
    assert not all(map(torch.equal, result(batch_size=8), result(batch_size=8, accumulate=True)))


# Several methods


@pytest.mark.parametrize("module", ["training", "jit"])
def test_the_parts_of_a_batch_change_no_penalty_and_no_noise(module, linear, split, context, recipe, monkeypatch):
    method = L1Sparse(recipe, gamma=0.01, dense_epochs=0) if module == "training" else options(noises=3)
    whole = method(copy.deepcopy(linear), split, context)
    monkeypatch.setattr(f"methods.{module}.microbatch_size", lambda model, images: 3)
    close(parameters_of(method(linear, split, context)), parameters_of(whole), atol=1e-5)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_delete_and_jit_move_running_statistics_only_in_train_mode(mode, cnn, split, context, recipe):
    for method in (Delete(recipe, norms=mode), options(mode=mode)):
        after = method(copy.deepcopy(cnn), split, context)
        assert torch.equal(after.norm.running_mean, cnn.norm.running_mean) == (mode == "eval")
        assert not torch.equal(after.fc.weight, cnn.fc.weight)


def test_a_diverging_ascent_is_an_error_and_no_number(cnn, split, context):
    fast = Recipe.constant("sgd", lr=1e20, epochs=5, batch_size=16, momentum=0.9)
    ascent = NegGrad(fast, forget_weight=1.0, forget_batch_size=16, limit=None)
    for method, lr in ((ascent, r"1e\+20"), (options(lr=1e30, batch_size=4), r"1e\+30")):
        with pytest.raises(FloatingPointError, match=rf"lower lr \(now {lr}\)"):
            method(copy.deepcopy(cnn), split, context)
