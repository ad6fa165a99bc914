import copy
import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from datasets.batches import Augmentation
from methods import training
from methods.training import Compute, Pass, Recipe, train
from tests.methods.helpers import seeded

ORIGINAL = Recipe(
    "sgd", lr=0.1, momentum=0.9, weight_decay=5e-4, batch_size=64, epochs=20, milestones=(8, 12, 16), decay=0.2,
    warmup_epochs=1, warmup_ramp=1, augmentation=None,
)  # fmt: skip
RETRAIN_PAPER = replace(ORIGINAL, lr=0.01, warmup_epochs=2, milestones=tuple(m + 1 for m in ORIGINAL.milestones))


def rate(recipe, epoch, step):
    """The learning rate of a step of ten; epochs count from 1."""
    return recipe.learning_rate((epoch - 1) * 10 + step, 10)


def test_learning_rate_of_the_original():
    assert [rate(ORIGINAL, 1, step) for step in range(10)] == pytest.approx([0.01 * step for step in range(10)])
    assert {rate(ORIGINAL, epoch, step) for epoch in range(2, 8) for step in range(10)} == {0.1}
    for epochs, expected in (((8, 11), 0.02), ((12, 15), 0.004), ((16, 20), 0.0008)):
        assert [rate(ORIGINAL, epoch, step) for epoch in epochs for step in (0, 9)] == pytest.approx([expected] * 4)


def test_learning_rate_of_the_papers_retraining_overshoots():
    assert rate(RETRAIN_PAPER, 1, 0) == 0
    of_step = {(1, 5): 0.005, (2, 0): 0.01, (2, 5): 0.015, (2, 9): 0.019, (3, 0): 0.01, (8, 9): 0.01, (9, 0): 0.002}
    for (epoch, step), expected in (of_step | {(17, 0): 0.00008}).items():
        assert rate(RETRAIN_PAPER, epoch, step) == pytest.approx(expected)


def test_learning_rates_of_the_other_schedules():
    def rates(schedule, epochs):
        recipe = replace(ORIGINAL, schedule=schedule, epochs=epochs, warmup_epochs=0)
        assert len({rate(recipe, 1, step) for step in range(10)}) == 1  # one per epoch
        return [rate(recipe, epoch, 0) / recipe.lr for epoch in range(1, epochs + 1)]

    assert rates("triangle", 5) == pytest.approx([1 / 3, 2 / 3, 1, 2 / 3, 1 / 3])
    assert rates("triangle", 4) == pytest.approx([1 / 2, 1, 2 / 3, 1 / 3])
    assert rates("triangle", 1) == rates("cosine", 1) == [1]
    assert rates("cosine", 3) == pytest.approx([1, 0.75, 0.25])
    assert replace(ORIGINAL, schedule="cosine").learning_rate(5, 10) == pytest.approx(0.05)  # the warm-up comes first


def test_a_wrong_recipe_is_refused():
    wrong = {"epochs": 0, "batch_size": 0, "milestones": (0.5,), "lr": 0.0, "momentum": 1.0, "weight_decay": -1.0}
    wrong |= {"decay": -1.0, "warmup_ramp": 0, "warmup_epochs": -1, "optimizer": "lion", "schedule": "linear"}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=f"Expected {name}.* to be "):
            replace(ORIGINAL, **{name: value})


def test_the_optimizer_is_the_named_one_and_skips_frozen_parameters(cnn):
    cnn.fc.bias.requires_grad_(False)
    for name, expected in (("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        built = replace(ORIGINAL, optimizer=name).build_optimizer(cnn)
        assert type(built) is expected
        (group,) = built.param_groups
        assert group["weight_decay"] == 5e-4
        assert not any(p is cnn.fc.bias for p in group["params"])


def plain_sgd(model, data, recipe, preprocessing, random):
    """The loop written out: permutation, schedule, momentum and weight decay by hand."""
    model.train()
    velocity = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    steps = -(-len(data) // recipe.batch_size)
    for epoch in range(1, recipe.epochs + 1):
        order = torch.randperm(len(data), generator=random)
        for k in range(steps):
            rows = order[k * recipe.batch_size : (k + 1) * recipe.batch_size]
            ramp = k / steps if epoch == 1 else 0.5 if epoch >= 3 else 1.0
            loss = F.cross_entropy(model(preprocessing(data.storage[data.index[rows]])), data.labels[rows])
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for (name, p), gradient in zip(model.named_parameters(), gradients, strict=True):
                    velocity[name].mul_(recipe.momentum).add_(gradient + recipe.weight_decay * p)
                    p -= recipe.lr * ramp * velocity[name]
    return model.eval()


@pytest.mark.parametrize(
    ("precision", "channels_last", "close"),
    [("float32", False, 1e-6), ("bfloat16", True, 0.02)],
)
def test_train_equals_the_plain_loop(cnn, dataset, preprocessing, compute, precision, channels_last, close):
    compute = replace(compute, precision=precision, channels_last=channels_last)
    recipe = Recipe("sgd", 0.05, 0.9, 5e-4, 16, 3, (3,), 0.5, 1, 1, None)
    data, original = dataset.train.subset(torch.arange(50)), copy.deepcopy(cnn)
    expected = plain_sgd(copy.deepcopy(cnn), data, recipe, preprocessing, seeded())
    ours = train(compute.place(cnn), data, recipe, preprocessing=preprocessing, random=seeded(), compute=compute)
    assert ours is cnn
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, atol=close, rtol=10 * close)
    assert not torch.allclose(ours.conv.weight, original.conv.weight, atol=1e-3)


@pytest.fixture
def fit(dataset, preprocessing, compute, recipe):
    """model, changes of the recipe -> the model, trained on all 60 images with a generator of this seed."""

    def run(model, *, seed=0, data=dataset.train, compute=compute, recipe=recipe, **options):
        return train(model, data, recipe, preprocessing=preprocessing, random=seeded(seed), compute=compute, **options)

    return run


def test_train_augments_only_if_the_recipe_says_so(make_cnn, fit, recipe):
    augmented = replace(recipe, augmentation=Augmentation(0, False, 0))
    # Even an augmentation that changes no pixel draws an angle per sample, so the second epoch's order differs.
    assert not torch.equal(fit(make_cnn(), recipe=augmented).fc.weight, fit(make_cnn()).fc.weight)


def test_after_epoch_sees_the_model_in_eval_mode_and_training_goes_on(cnn, fit):
    seen = []
    fit(cnn, after_epoch=lambda epoch: seen.append((epoch, cnn.training, int(cnn.norm.num_batches_tracked))))
    assert seen == [(1, False, 4), (2, False, 8)]  # 60 samples in batches of 16; batch norm counted every step
    assert not cnn.training


def test_a_loss_that_is_not_finite_stops_the_training(cnn, fit, recipe):
    epochs = []
    with pytest.raises(FloatingPointError, match=r"in epoch 1; lower lr \(now 1e\+30\)"):
        fit(cnn, recipe=replace(recipe, lr=1e30), after_epoch=epochs.append)
    assert epochs == []


class Kept:
    """The training state of a killed process, in memory: of every epoch, and the one to start after."""

    def __init__(self):
        self.states, self.start = {}, 0

    def resume(self, model, optimizer, random):
        if self.start:
            weights, moments, draws = self.states[self.start]
            model.load_state_dict(weights)
            optimizer.load_state_dict(moments)
            random.set_state(draws)
        return self.start

    def keep(self, epoch, model, optimizer, random):
        assert not model.training
        self.states[epoch] = copy.deepcopy((model.state_dict(), optimizer.state_dict(), random.get_state()))


def continued(run, make_model, epochs):
    """Return the weights after a whole training; one continued from any of its states ends with the same."""
    kept = Kept()
    whole = run(make_model(0), training_state=kept).state_dict()
    assert list(kept.states) == list(range(1, epochs + 1))
    for kept.start in range(1, epochs + 1):  # another network and generator, before the state is loaded
        after = run(make_model(7), seed=7, training_state=kept).state_dict()
        assert all(torch.equal(value, whole[name]) for name, value in after.items())
    return whole


def test_a_training_continues_from_its_state_bit_for_bit(make_cnn, fit, recipe):
    recipe = replace(recipe, epochs=3, milestones=(3,), decay=0.1, augmentation=Augmentation(1, True, 15))
    whole = continued(partial(fit, recipe=recipe), make_cnn, epochs=3)
    assert torch.equal(fit(make_cnn(), recipe=recipe).fc.weight, whole["fc.weight"])


def test_dropout_draws_by_the_seed_alone_and_goes_on_in_a_continued_training(fit, dataset):
    n_pixels = dataset.train.storage[0].numel()

    def network(draws=0):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(n_pixels, 4))
        torch.rand(draws)  # whatever the process drew before
        return model

    whole = continued(fit, network, epochs=2)["2.weight"]
    model = network(5)
    before = torch.get_rng_state()
    assert torch.equal(fit(model)[2].weight, whole)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(fit(network(), seed=7)[2].weight, whole)


def test_every_epoch_has_dropout_masks_of_its_own(fit, dataset, recipe):
    class Masked(torch.nn.Linear):
        def forward(self, images):
            masks.append(F.dropout(torch.ones(len(images), 8), training=self.training))
            return super().forward(images.flatten(1))

    masks = []
    fit(Masked(dataset.train.storage[0].numel(), 4), recipe=replace(recipe, batch_size=60, epochs=3))
    masks = [mask for mask in masks if len(mask) == 60]  # a batch, no trial of its memory
    assert len(masks) == 3
    assert not any(torch.equal(masks[a], masks[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


def test_passes_share_one_optimiser_and_follow_the_number_of_the_epoch(make_cnn, fit, dataset, recipe, preprocessing):
    first, second = (dataset.train.subset(torch.arange(60) % 2 == part) for part in (0, 1))
    seen = []

    def counted(name, data):
        def loss(model, images, positions):
            seen.append((name, len(positions)))
            return F.cross_entropy(model(images), data.labels[positions])

        return loss

    def passes(epoch):
        both = [Pass(first, counted("first", first), 8), Pass(second, counted("second", second))]
        return both if epoch == 1 else both[1:]

    model = fit(make_cnn(), data=passes)
    assert seen == [*[("first", 8)] * 3, ("first", 6), *[("second", 16), ("second", 14)] * 2]
    expected, random = make_cnn(), seeded()
    optimizer = recipe.build_optimizer(expected)
    expected.train()
    for data, size in ((first, 8), (second, 16), (second, 16)):
        for rows in torch.randperm(30, generator=random).split(size):
            optimizer.zero_grad()
            images = preprocessing(data.storage[data.index[rows]]).contiguous()
            F.cross_entropy(expected(images), data.labels[rows]).backward()
            optimizer.step()
    assert all(map(torch.equal, model.parameters(), expected.parameters()))


def test_warm_up_and_milestones_count_epochs_whatever_their_steps(make_cnn, fit, dataset, recipe):
    rates = []

    def passes(epoch):
        return [Pass(dataset.train)] * epoch

    warm = replace(recipe, epochs=3, warmup_epochs=1, milestones=(3,), decay=0.1)
    fit(
        make_cnn(), data=passes, recipe=warm, after_step=lambda optimizer: rates.append(optimizer.param_groups[0]["lr"])
    )
    assert rates == pytest.approx([0.05 * k / 4 for k in range(4)] + [0.05] * 8 + [0.005] * 12)


def test_the_batch_beside_starts_again_and_adds_its_gradient(make_cnn, fit, dataset, recipe):
    few, sizes = dataset.train.subset(torch.arange(20)), []

    def negative(model, images, positions):
        sizes.append(len(positions))
        return -F.cross_entropy(model(images), few.labels[positions])

    def passes(epoch):
        return [Pass(dataset.train, beside=Pass(few, negative, 8, seeded(epoch)))]

    plain = replace(recipe, momentum=0.0, weight_decay=0.0, epochs=1)
    fit(make_cnn(), data=passes, recipe=plain)
    assert sizes == [8, 8, 4, 8]
    twice = [Pass(dataset.train, beside=Pass(dataset.train, None, 60, seeded(1)))]
    whole = replace(plain, batch_size=60)
    one, other = fit(make_cnn(), data=lambda epoch: twice, recipe=whole), fit(make_cnn(), recipe=replace(whole, lr=0.1))
    torch.testing.assert_close(one.fc.weight, other.fc.weight)


def test_a_training_of_several_passes_continues_bit_for_bit(make_cnn, fit, dataset, recipe):
    first, second = (dataset.train.subset(torch.arange(60) % 2 == part) for part in (0, 1))
    recipe = replace(recipe, epochs=4, schedule="cosine", augmentation=Augmentation(1, True, 15))

    def passes(epoch):
        shuffled = first.labels[torch.randperm(30, generator=seeded(epoch))]
        early = [Pass(first.relabelled(shuffled), None, 8)] if epoch < 3 else []
        return [*early, Pass(second, beside=Pass(first, random=seeded(100 + epoch)))]

    def run(model, **options):
        def before_step():
            model.conv.weight.grad.mul_(0.1)

        def after_step(optimizer):
            optimizer.state[model.fc.bias]["momentum_buffer"].zero_()

        return fit(model, data=passes, recipe=recipe, before_step=before_step, after_step=after_step, **options)

    continued(run, make_cnn, epochs=4)


def test_parts_of_the_batches_of_a_step_add_up(make_cnn, fit, dataset, monkeypatch):
    def passes(epoch):
        return [Pass(dataset.train, beside=Pass(dataset.train, None, 7, seeded(epoch)))]

    # Batch normalisation must not see the parts, so that its layer is left out.
    def plain():
        model = make_cnn()
        model.norm = torch.nn.Identity()
        return model

    whole = fit(plain(), data=passes)
    monkeypatch.setattr(training, "microbatch_size", lambda model, images: 3)
    torch.testing.assert_close(fit(plain(), data=passes).state_dict(), whole.state_dict(), atol=1e-5, rtol=1e-4)


def test_only_whole_batches_of_the_full_size_are_compiled(make_cnn, fit, compute, dataset, monkeypatch):
    compiled, compiling = [], replace(compute, compile=True)
    monkeypatch.setattr(Compute, "compiled", lambda _, model: lambda x: compiled.append(len(x)) or model(x))
    fit(make_cnn(), compute=compiling)
    assert compiled == [16, 16, 16] * 2  # 60 images, two epochs; the 12 left over are not worth a compilation
    compiled.clear()
    beside = Pass(dataset.train, random=seeded())
    fit(make_cnn(), compute=compiling, data=lambda epoch: [Pass(dataset.train, beside=beside)])
    assert compiled == [16, 16, 16] * 2  # the batch beside adds to gradients
    compiled.clear()
    monkeypatch.setattr(training, "microbatch_size", lambda model, images: 3)
    fit(make_cnn(), compute=compiling)
    assert compiled == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_training_gives_the_same_model(make_cnn, fit, compute):
    eager, compiled = (fit(make_cnn(), compute=replace(compute, compile=value)) for value in (False, True))
    torch.testing.assert_close(compiled.state_dict(), eager.state_dict(), rtol=1e-4, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
