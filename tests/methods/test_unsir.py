"""UNSIR: the noise, the retained samples, what the impair epoch sees, the quirks."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from datasets.digits import load_digits
from datasets.splits import class_split
from methods.base import skip_reason
from methods.training import Recipe
from methods.unsir import Unsir, learn_noise
from tests.methods.helpers import left_alone, make_context, tiny_net, tiny_split

SHORT = Recipe.constant("adam", lr=1e-3, epochs=1, batch_size=32)
METHOD = Unsir(
    noise_batch=4, noise_images=4, noise_mode="eval", noise_steps=5, noise_lr=0.1, noise_penalty=0.1, repetitions=3,
    samples_per_class=6, impair=SHORT, repair=SHORT,
)  # fmt: skip


def noise_start(n: int = 4) -> torch.Tensor:
    return torch.randn((n, 3, 16, 16), generator=torch.Generator().manual_seed(0))


def test_noise_raises_the_error_on_its_label_and_leaves_the_model_alone():
    model, start, label = tiny_net(0), noise_start(), torch.full((4,), 3)
    with left_alone(model):
        noise = learn_noise(model, start, 3, steps=40, lr=0.1, penalty=0.0)
    assert F.cross_entropy(model(noise), label) > F.cross_entropy(model(start), label) + 1
    assert not noise.requires_grad


@pytest.mark.parametrize("task", ["class", "subclass"])
def test_retained_samples_are_the_first_of_every_retained_group(task):
    split = tiny_split(task)
    retained, groups = METHOD.retained(split), split.groups(split.retain_train)
    literal = []
    for group in groups.unique():
        literal += [int(row) for row in split.retain_train.index[groups == group][:6]]
    assert sorted(literal) == retained.index.tolist()
    assert len(replace(METHOD, samples_per_class=100).retained(split)) == len(groups)  # no group has as many
    assert len(split.groups(retained).unique()) == 19  # fine classes, one of twenty is forgotten


def released_loop(split, context):
    """The released code on one tiny model, in plain torch: `zero_grad` only after each step of the optimiser."""
    model, label = tiny_net(1).train(), int(split.forget_train.labels[0])
    start = torch.randn((4, 3, 16, 16), generator=context.random("unsir noise"))
    noise, n_used = nn.Parameter(start), 3
    optimizer = torch.optim.Adam([noise], lr=0.1)
    for _ in range(5):
        loss = -F.cross_entropy(model(noise), torch.full((4,), label)) + 0.1 * (noise**2).sum([1, 2, 3]).mean()
        optimizer.zero_grad()  # of the noise alone
        loss.backward()
        optimizer.step()
    retained = METHOD.retained(split)
    images = context.preprocessing(retained.storage[retained.index])
    shown = noise.detach()[:n_used].repeat(3, 1, 1, 1)  # 3 repetitions
    impair = torch.cat([shown, images]), torch.cat([torch.full((len(shown),), label), retained.labels])
    for name, (x, y) in {"unsir impair": impair, "unsir repair": (images, retained.labels)}.items():
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for batch in torch.randperm(len(x), generator=context.random("train", name)).split(32):
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.state_dict()


@pytest.mark.parametrize("task", ["class", "subclass"])
def test_with_the_quirks_of_the_released_code_it_is_the_released_loop(task):
    split, context = tiny_split(task), make_context(tiny_net)
    quirky = replace(METHOD, noise_images=3, noise_mode="train", stale_gradient=True)
    ours, expected = quirky(tiny_net(1), split, context), released_loop(split, context)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, expected[name], msg=lambda text, name=name: f"{name}: {text}")
    assert all(p.grad is None for p in ours.parameters())
    for option, value, least in (
        ("stale_gradient", False, 1e-3),
        ("noise_images", 4, 1e-4),
        ("noise_mode", "eval", 1e-4),
        ("noise_steps", 6, 1e-4),
    ):
        other = replace(quirky, **{option: value})(tiny_net(1), split, context)
        assert (other.fc.weight - expected["fc.weight"]).abs().max() > least, option  # 1e-3: a step of Adam


def test_microbatches_of_noise_keep_the_same_gradients(monkeypatch):
    options = {"steps": 3, "lr": 0.1, "penalty": 0.1, "keep_gradient": True}
    models = [tiny_net(0), tiny_net(0)]
    noises = [learn_noise(models[0], noise_start(), 3, **options)]
    monkeypatch.setattr("methods.unsir.microbatch_size", lambda model, noise: 3)
    noises.append(learn_noise(models[1], noise_start(), 3, **options))
    torch.testing.assert_close(*noises)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_it_skips_where_no_single_class_is_forgotten():
    digits = load_digits("fine")
    assert "several" in skip_reason(METHOD, class_split(digits, target=[3, 6]))
    assert "class" in skip_reason(METHOD, tiny_split("random"))
    assert skip_reason(METHOD, tiny_split("class")) is None
    assert skip_reason(METHOD, tiny_split("subclass")) is None
