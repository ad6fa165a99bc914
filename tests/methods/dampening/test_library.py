"""The library on models, batches and losses of one's own."""

import copy
from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from methods.dampening import Change, Importance, cross_entropy, dampen, percentile_alpha, unlearn
from methods.dampening.importance import raw_names
from tests.methods.helpers import assert_same, in_batches, left_alone, literal_importance, seeded

REDUCTIONS = ("batch_mean", "per_sample")


def samples(n=12, features=4, classes=3):
    return torch.randn(n, features, generator=seeded()), torch.arange(n) % classes


def network(features=4, outputs=3):
    return nn.Sequential(nn.Linear(features, 8), nn.Tanh(), nn.Linear(8, outputs))


def parts(model, n_forget=3):
    """I_D of twelve samples and I_Df of the first ones."""
    x, y = samples()
    return Importance.of(model, in_batches(x, y)), Importance.of(model, [(x[:n_forget], y[:n_forget])])


Output = namedtuple("Output", "logits hidden")
OUTPUTS = {
    "tuple": lambda logits: (logits, "more"),
    "named tuple": lambda logits: Output(logits, None),
    "mapping": lambda logits: {"logits": logits},
    "object": lambda logits: SimpleNamespace(logits=logits),
}


class Wrapped(nn.Module):
    """A network with an output of another kind, that takes named inputs and a mask."""

    def __init__(self, inner, output=lambda logits: logits):
        super().__init__()
        self.inner, self.output = inner, output

    def forward(self, x, mask=None):
        return self.output(self.inner(x if mask is None else x * mask))


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_outputs_may_be_tensors_tuples_mappings_or_objects(kind, reduction):
    model, data = network(), in_batches(*samples())
    expected = {f"inner.{name}": value for name, value in Importance.of(model, data, reduction=reduction).items()}
    assert_same(Importance.of(Wrapped(model, OUTPUTS[kind]), data, reduction=reduction), expected)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_batches_may_be_mappings_or_hold_several_inputs(reduction):
    x, y = samples()
    mask = (torch.rand(x.shape, generator=seeded(1)) < 0.7).float()
    model = Wrapped(network())
    expected = Importance.of(model, in_batches(x * mask, y), reduction=reduction)
    of_three = zip(x.split(4), mask.split(4), y.split(4), strict=True)
    named = [{"x": a, "mask": b, "labels": c} for a, b, c in zip(x.split(4), mask.split(4), y.split(4), strict=True)]
    assert_same(Importance.of(model, of_three, reduction=reduction), expected)
    assert_same(Importance.of(model, named, reduction=reduction), expected)


LOSSES = {
    "one logit": (1, lambda z, y: F.binary_cross_entropy_with_logits(z[:, 0], (y == 1).float(), reduction="none")),
    "regression": (1, lambda z, y: (z[:, 0] - y) ** 2),
    "several labels": (3, lambda z, y: F.softplus(z * (1 - 2 * F.one_hot(y, 3))).sum(dim=1)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_any_loss_of_each_sample_will_do(name):
    outputs, of_outputs = LOSSES[name]
    model, (x, y) = network(outputs=outputs), samples()

    def loss(model, batch):
        return of_outputs(model(batch[0]), batch[1])

    expected = literal_importance(model, loss(model, (x, y)))
    assert_same(Importance.of(model, in_batches(x, y), loss=loss), expected)
    assert_same(Importance.of(model, in_batches(x, y, 1), loss=loss, reduction="batch_mean"), expected)


def mean_loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


X, Y = samples()
WRONG = {
    "labels in a column": ((X, Y[:, None]), r"labels \(12,\), one integer per sample, but got \(12, 1\)"),
    "one hot": ((X, F.one_hot(Y)), r"labels \(12,\), one integer per sample, but got \(12, 3\)"),
    "too few labels": ((X, Y[:11]), r"labels \(12,\), one integer per sample, but got \(11,\)"),
    "float labels": ((X, Y.float()), r"integers, but got torch.float32"),
    "bool labels": ((X, Y > 0), r"integers, but got torch.bool"),
    "labels from 1": ((X, Y + 1), r"from 0 to 2, as the model has 3 logits, but got 1 to 3"),
    "labels to ignore": ((X, Y - 100), r"from 0 to 2, as the model has 3 logits, but got -100 to -98"),
    "no labels": ({"x": X}, r"mapping with labels, but got names x"),
    "inputs alone": (X, r"\(inputs, labels\) or a mapping with labels, but got Tensor"),
    "an empty batch": ((X[:0], Y[:0]), r"at least one sample, but got an empty one"),
}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", WRONG)
def test_wrong_batches_are_errors_in_one_line(name, reduction):
    batch, message = WRONG[name]
    with pytest.raises((ValueError, TypeError), match=message) as error:
        Importance.of(network(), [batch], reduction=reduction)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_wrong_models_and_losses_are_errors_in_one_line(reduction):
    with pytest.raises(ValueError, match=r"at least two classes, but got \(1, 1\); .*pass your own loss"):
        Importance.of(network(outputs=1), in_batches(X, Y), reduction=reduction)
    with pytest.raises(TypeError, match="to return logits, but got str"):
        Importance.of(Wrapped(network(), str), in_batches(X, Y), reduction=reduction)
    with pytest.raises(ValueError, match=r"\(4,\), a loss per sample, but got \(\)|got \(\)"):
        Importance.of(network(), in_batches(X, Y), loss=mean_loss, reduction=reduction)
    with pytest.raises(ValueError, match="finite and at least 0, but got nan"):
        Importance.of(network(), [(X * torch.inf, Y)], reduction=reduction)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_it_works_without_gradients_around_it(mode, reduction):
    model = network()
    expected = Importance.of(model, in_batches(X, Y), reduction=reduction)
    with mode():
        data = in_batches(X * 1, Y * 1)  # in inference mode autograd cannot use these as they are
        assert_same(Importance.of(model, data, reduction=reduction), expected)
        assert unlearn(model, data[:1], data, alpha=0.1, reduction=reduction).selected


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_frozen_model_has_importance_0(reduction):
    model = network().requires_grad_(False)
    importance = Importance.of(model, in_batches(X, Y), reduction=reduction)
    assert importance.n == 12
    assert not any(value.any() for value in importance.values())
    assert importance.keys() == dict(model.named_parameters()).keys()


class Counter(nn.Module):
    """Changes its buffers when it is called, even in eval mode."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(4))

    def forward(self, x):
        self.calls += 1
        self.last = self.last + 1
        return self.inner(x)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_buffers_are_as_before(reduction):
    model = Counter()
    before = dict(model.named_buffers())
    Importance.of(model, in_batches(X, Y), reduction=reduction)
    assert {name: buffer is before[name] for name, buffer in model.named_buffers()} == {"calls": True, "last": True}
    assert not any(buffer.any() for buffer in before.values())


def test_small_gradients_of_float16_do_not_vanish_in_their_squares():
    model = nn.Linear(4, 3).half()
    for reduction in REDUCTIONS:
        with pytest.warns(UserWarning, match=r"is in torch.float16: .*copy.deepcopy\(model\).float\(\)"):
            importance = Importance.of(model, [(1e-3 * X[:1].half(), Y[:1])], reduction=reduction)
        assert (importance["weight"] > 0).all()  # 1e-7 and less, below float16's numbers


def test_names_are_those_of_the_raw_model(make_cnn):
    model, data = make_cnn(1), [(torch.randn(6, 3, 8, 8, generator=seeded()), torch.arange(6) % 3)]
    expected = Importance.of(model, data)
    for wrapped in (nn.DataParallel(model), torch.compile(model), torch.compile(nn.DataParallel(model))):
        importance = Importance.of(wrapped, data)
        assert_same(importance, expected)
        forget = {name: 3 * value for name, value in importance.items()}
        one, other = copy.deepcopy(model), copy.deepcopy(wrapped)
        dampen(one, dict(importance), forget, alpha=2.0)
        change = dampen(other, {f"module.{name}": value for name, value in importance.items()}, forget, alpha=2.0)
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(p, q)
        change.undo(one)
        assert all(torch.equal(p, q) for p, q in zip(one.parameters(), model.parameters(), strict=True))


def test_names_stay_if_raw_ones_would_meet():
    assert raw_names({"module.a": 1, "a": 2}) == {"module.a": 1, "a": 2}


def test_importances_without_a_part_and_of_two_parts_are_those_of_the_rest_and_of_all():
    model, (x, y) = network(), samples()
    whole, forget = parts(model)
    rest = Importance.of(model, [(x[3:], y[3:])])
    assert (whole.n, forget.n, rest.n) == (12, 3, 9)
    assert_same(whole.without(forget), rest)
    assert_same(rest.merged(forget), whole)
    assert (whole.without(forget).n, rest.merged(forget).n) == (9, 12)
    assert all((value >= 0).all() for value in whole.without(forget).values())
    by_batch = [
        Importance.of(model, in_batches(x[a:b], y[a:b]), reduction="batch_mean") for a, b in ((0, 12), (0, 4), (4, 12))
    ]
    assert_same(by_batch[1].merged(by_batch[2]), by_batch[0])  # a batch counts as much as any other
    with pytest.raises(ValueError, match="does not tell what each sample adds"):
        by_batch[0].without(by_batch[1])
    with pytest.raises(ValueError, match="smaller than D"):
        whole.without(whole)
    with pytest.raises(ValueError, match="same reduction, but got per_sample and batch_mean"):
        whole.merged(by_batch[0])
    with pytest.raises(ValueError, match=r"same parameters, but they differ in 0\.bias"):
        whole.merged(Importance({**whole, "0.bias": torch.ones(3)}, n=1, batches=1, reduction="per_sample"))


def test_a_stored_importance_is_the_same(tmp_path):
    importance, _ = parts(network())
    importance.save(tmp_path / "importance.pt")
    again = Importance.load(tmp_path / "importance.pt")
    assert_same(again, importance, rtol=0, atol=0)
    assert vars(again).keys() == vars(importance).keys()
    assert (again.n, again.batches, again.reduction, again.weights) == (12, 3, "per_sample", importance.weights)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_change_says_what_it_did_and_is_undone_bit_for_bit(tmp_path):
    model = network().to(torch.float32)
    before = state(model)
    full, forget = parts(model)
    change = dampen(model, full, forget, alpha=1.1, lam=0.7)
    moved = {name: int((value != before[name]).sum()) for name, value in state(model).items()}
    assert {name: part.selected for name, part in change.parts.items()} == moved
    assert change.selected == sum(moved.values()) > 0
    for name, part in change.parts.items():
        ratio = (forget[name] / full[name])[forget[name] > 1.1 * full[name]]
        assert part.mean_beta == (pytest.approx(float((0.7 / ratio).mean())) if len(ratio) else None)
    assert f"{change.selected:,}" in str(change).splitlines()[-1]
    assert "0.weight" in str(change)
    change.save(tmp_path / "change.pt")
    second = dampen(model, *parts(model), alpha=1.1)
    with left_alone(model), pytest.raises(ValueError, match="undo later changes first"):
        change.undo(model)
    second.undo(model)
    Change.load(tmp_path / "change.pt").undo(model)
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())


def test_tensors_in_any_layout_are_dampened_and_undone(make_cnn):
    model = make_cnn(1).to(memory_format=torch.channels_last)
    plain = make_cnn(1)
    full = {name: torch.rand(p.shape, generator=seeded()) for name, p in plain.named_parameters()}
    forget = {name: torch.rand(p.shape, generator=seeded(1)) for name, p in plain.named_parameters()}
    before = state(model)
    change = dampen(model, full, forget, alpha=1.0, lam=0.5)
    dampen(plain, full, forget, alpha=1.0, lam=0.5)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), plain.parameters(), strict=True))
    change.undo(model)
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())


def changed(values, **new):
    """A copy with other values, without those that are None."""
    return {name: value for name, value in ({**values} | new).items() if value is not None}


W = torch.rand(3, 4, generator=seeded())
PAIR = {"weight": W, "bias": W[:, 0]}
UNFIT = {
    "missing": (changed(PAIR, bias=None), "bias is missing"),
    "extra": (changed(PAIR, gamma=W), "the model has no parameter gamma"),
    "shape": (changed(PAIR, bias=W), r"bias is \(3, 4\), not \(3,\)"),
    "broadcast": (changed(PAIR, weight=W[:1]), r"weight is \(1, 4\), not \(3, 4\)"),
    "nan": (changed(PAIR, bias=W[:, 0] / 0 * 0), "finite and at least 0, but got nan to nan for bias"),
    "infinite": (changed(PAIR, bias=W[:, 0] / 0), "finite and at least 0, but got inf to inf for bias"),
    "negative": (changed(PAIR, bias=-W[:, 0]), "finite and at least 0, but got -"),
}


@pytest.mark.parametrize("name", UNFIT)
@pytest.mark.parametrize("which", [0, 1])
def test_unfit_importances_are_refused_before_anything_changes(name, which):
    model = nn.Linear(4, 3)
    wrong, message = UNFIT[name]
    pair = [{name: value / 2 for name, value in PAIR.items()}, PAIR]
    pair[which] = wrong
    with left_alone(model), pytest.raises(ValueError, match=message):
        dampen(model, *pair, alpha=1.0)


def test_nothing_selected_is_a_warning_with_the_bound_on_alpha():
    model = network()
    with pytest.warns(UserWarning, match=r"is selected: α = 10, .* at most N/N_f = 4, which α has to stay below"):
        assert dampen(model, *parts(model), alpha=10).selected == 0
    with pytest.warns(UserWarning, match=r"Nothing is selected: α = 2, and the largest I_Df/I_D is 1\."):
        dampen(nn.Linear(4, 3), PAIR, PAIR, alpha=2)


@pytest.mark.filterwarnings("error")
def test_swapped_importances_and_those_of_the_retain_set_are_refused():
    model, (x, y) = network(), samples()
    full, forget = parts(model)
    with pytest.raises(ValueError, match="I_D of D and then I_Df of its part D_f, but got 3 samples and then 12"):
        dampen(model, forget, full, alpha=1.0)
    retain = Importance.of(model, [(x[3:], y[3:])])
    assert retain.n > forget.n
    for use in (lambda: dampen(model, retain, forget, alpha=1.0), lambda: percentile_alpha(retain, forget),
                lambda: retain.without(forget)):  # fmt: skip
        with pytest.raises(ValueError, match=r"I_Df ≤ \(N/N_f\)·I_D = 3·I_D, since D contains D_f, .*of D_r, not D"):
            use()
    assert dampen(copy.deepcopy(model), dict(retain), forget, alpha=1.0).selected  # who knows may


def test_a_kept_importance_is_a_warning_at_most():
    model, (x, y) = network(), samples()
    kept, _ = parts(model)
    with torch.no_grad():
        model[0].weight.mul_(-3)
        model[2].weight.mul_(3)
    later = Importance.of(model, [(x[:3], y[:3])])
    with pytest.warns(UserWarning, match="possible for an I_D from before the model changed"):
        assert dampen(model, kept, later, alpha=1.0).selected


@pytest.mark.filterwarnings("error")
def test_rounding_is_no_reason_to_refuse(make_cnn):
    x, y = torch.randn(40, 3, 8, 8, generator=seeded()), torch.arange(40) % 3
    model = make_cnn(1)
    full = Importance.of(model, in_batches(x, y, 40))
    for n in (1, 10, 40):
        full.merged(Importance.of(model, in_batches(x, y, 7)))
        percentile_alpha(full, Importance.of(model, in_batches(x[:n], y[:n], 3)))


@pytest.mark.parametrize("number", [np.float32(1.5), np.float64(1.5), np.array(1.5), torch.tensor(1.5), 1.5])
def test_alpha_and_lambda_may_be_scalars_of_numpy_and_torch(number):
    model = nn.Linear(4, 3)
    change = dampen(model, PAIR, {name: 2 * value for name, value in PAIR.items()}, alpha=number, lam=number)
    assert (change.alpha, change.lam, change.selected) == (1.5, 1.5, 15)
    assert type(change.alpha) is float


@pytest.mark.parametrize(
    "value", [True, np.bool_(True), torch.tensor(True), "1", None, torch.ones(1), 1j, 0, -1.0, np.nan, np.inf]
)
def test_booleans_and_values_that_are_not_positive_are_no_alpha(value):
    for name in ("alpha", "lam"):
        with pytest.raises(ValueError, match=f"Expected {name} to be a finite number above 0"):
            dampen(nn.Linear(4, 3), PAIR, PAIR, **{"alpha": 1.0, name: value})


@pytest.mark.parametrize("n", [1, 3])
def test_the_percentile_rule_is_that_of_assd(n):
    model = network()
    full, forget = parts(model, n)
    full["0.bias"][0] = forget["0.bias"][0] = 0  # 0/0 does not count
    ratios = np.concatenate([(forget[name] / full[name]).flatten().numpy() for name in full])
    expected = np.percentile(ratios[np.isfinite(ratios)].astype(float), 100 - np.log(1 + 100 * n / 12))
    alpha = percentile_alpha(full, forget)
    assert alpha == pytest.approx(expected)
    selected = dampen(copy.deepcopy(model), full, forget, alpha=alpha).selected
    assert selected == (ratios > expected).sum()
    assert selected == pytest.approx(np.log(1 + 100 * n / 12) / 100 * (len(ratios) - 1), abs=1)


def test_the_percentile_rule_needs_a_forget_set_that_reaches_parameters():
    full = Importance({"w": torch.ones(100)}, n=10, batches=1, reduction="per_sample")
    none = Importance({"w": torch.zeros(100)}, n=1, batches=1, reduction="per_sample")
    with pytest.raises(ValueError, match=r"above 0 for more than 2.40% of the parameters, but got 0 of 100"):
        percentile_alpha(full, none)


def test_all_in_one_call_equals_the_steps():
    x, y = samples()
    model = network()
    by_steps, with_loader, with_importance = (copy.deepcopy(model) for _ in range(3))
    full, forget = parts(model)
    dampen(by_steps, full, forget, alpha=percentile_alpha(full, forget))
    unlearn(with_loader, [(x[:3], y[:3])], in_batches(x, y))
    unlearn(with_importance, [(x[:3], y[:3])], full)
    for other in (with_loader, with_importance):
        assert all(torch.equal(p, q) for p, q in zip(by_steps.parameters(), other.parameters(), strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(by_steps.parameters(), model.parameters(), strict=True))


def test_the_default_loss_is_that_of_torch():
    model, (x, y) = network(), samples()
    assert torch.equal(cross_entropy(model, (x, y)), F.cross_entropy(model(x), y, reduction="none"))
    assert torch.equal(cross_entropy(model, (x, y.int())), F.cross_entropy(model(x), y, reduction="none"))


class Recurrent(nn.Module):
    """A recurrent layer and a head on its last state."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.layer(x.unsqueeze(1).repeat(1, 3, 1))[0][:, -1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.filterwarnings("ignore:.*one sample at a time")
def test_recurrent_layers_have_gradients_on_a_gpu_too(reduction):
    model = Recurrent()
    expected = Importance.of(model, in_batches(X, Y), reduction=reduction)
    found = Importance.of(model.cuda(), in_batches(X, Y), reduction=reduction)
    assert_same({name: value.cpu() for name, value in found.items()}, expected, rtol=1e-3, atol=1e-7)
