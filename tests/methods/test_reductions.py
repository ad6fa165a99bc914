"""Special cases of methods that are other methods, bit for bit, and data that methods do not look at."""

import copy
from dataclasses import replace

import pytest
import torch

from methods.amnesiac import Amnesiac
from methods.assd import ASSD, alpha_of
from methods.ct import CT
from methods.delete import Delete
from methods.finetune import Finetune
from methods.jit import JiT
from methods.l1_sparse import L1Sparse
from methods.last_layers import LastLayers
from methods.lfssd import LFSSD
from methods.msg import MSG
from methods.neggrad import NegGrad
from methods.random_labels import RandomLabels
from methods.retrain import Retrain
from methods.scrub import Scrub
from methods.ssd import SSD
from tests.methods.helpers import poison

IMPORTANCE = {"reduction": "per_sample", "order": "retain_shuffled", "batch_size": 16}
FINETUNE = {
    "l1-sparse without a penalty": lambda recipe: L1Sparse(recipe, gamma=0.0, dense_epochs=0),
    "SCRUB without a teacher": lambda recipe: Scrub(recipe, 8, ascent_epochs=0, alpha=0.0, gamma=1.0, temperature=4.0),
    "CF-k of all layers": lambda recipe: LastLayers(recipe, k=99, reset=False),
    "MSG that renews nothing": lambda recipe: MSG(recipe, share=0.0, factor=1.0, layers="conv_linear"),
    "NegGrad without D_f": lambda recipe: NegGrad(recipe, forget_weight=0.0, forget_batch_size=8, limit=None),
}
UNREAD = {
    "DELETE": ("retain_train", lambda recipe: Delete(recipe, norms="train")),
    "NegGrad": ("retain_train", lambda recipe: NegGrad(recipe, forget_weight=1.0, forget_batch_size=8, limit=None)),
    "JiT": ("retain_train", lambda recipe: JiT(0.01, 0.5, noises=2, batch_size=16, mode="eval", accumulate=False)),
    "Finetune": ("forget_train", Finetune),
    "Retrain": ("forget_train", lambda recipe: Retrain("all", recipe)),
    "Retrain head": ("forget_train", lambda recipe: Retrain("head", recipe)),
}
LABEL_FREE = {
    "LFSSD": lambda recipe: LFSSD(alpha=0.1, lam=0.1, **IMPORTANCE),
    "LFSSD in batches": lambda recipe: LFSSD(alpha=0.1, lam=0.1, **IMPORTANCE | {"reduction": "batch_mean"}),
    "JiT": UNREAD["JiT"][1],
}


@pytest.fixture
def unlearnt(cnn, split, context):
    """(method, split) -> the parameters and buffers after the method on a copy of the network."""

    def run(method, split=split, context=context):
        return method(copy.deepcopy(cnn), split, context).state_dict()

    return run


def differing(one, other):
    return {name for name, value in one.items() if not torch.equal(value, other[name])}


@pytest.mark.parametrize("name", FINETUNE)
def test_it_is_finetuning(name, unlearnt, recipe):
    differ = differing(unlearnt(FINETUNE[name](recipe)), unlearnt(Finetune(recipe)))
    running = {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}  # they see D_f's batches
    assert differ == (running if name == "NegGrad without D_f" else set())


def test_random_labels_drawn_once_for_all_weights_are_amnesiac(unlearnt, recipe):
    options = {"saliency": 1.0, "own_label": False, "redraw": "once", "order": "joint"}
    amnesiac = unlearnt(Amnesiac(recipe))
    assert differing(unlearnt(RandomLabels(recipe, **options)), amnesiac) == set()
    for change in ({"saliency": 0.9}, {"own_label": True}, {"redraw": "epoch"}, {"order": "forget_first"}):
        assert differing(unlearnt(RandomLabels(recipe, **options | change)), amnesiac)


@pytest.mark.parametrize("reduction", ["per_sample", "batch_mean"])
@pytest.mark.parametrize("over", ["all", "retain"])
def test_assd_is_ssd_at_its_alpha(reduction, over, unlearnt, split, context):
    kept = {}
    cached = replace(context, cache=lambda phase, options, make: kept.setdefault(phase, make()))
    options = IMPORTANCE | {"reduction": reduction}
    ours = unlearnt(ASSD(over=over, **options), context=cached)
    alpha = alpha_of(kept["importance_full"], kept["importance_forget"], split)
    assert differing(unlearnt(SSD(alpha=alpha, lam=1.0, **options), context=cached), ours) == set()


@pytest.mark.parametrize("name", UNREAD)
def test_a_method_of_one_part_never_reads_the_other(name, unlearnt, split, recipe):
    part, make = UNREAD[name]
    poisoned = copy.copy(split)
    object.__setattr__(poisoned, part, poison(getattr(split, part)))
    assert differing(unlearnt(make(recipe), poisoned), unlearnt(make(recipe))) == set()


@pytest.mark.parametrize("name", LABEL_FREE)
def test_a_method_without_labels_does_not_see_them(name, unlearnt, split, recipe, cnn):
    wrong = {
        part: getattr(split, part).relabelled((getattr(split, part).labels + 1) % 3)
        for part in ("forget_train", "retain_train")
    }
    found = unlearnt(LABEL_FREE[name](recipe))
    assert differing(found, unlearnt(LABEL_FREE[name](recipe), replace(split, **wrong))) == set()
    assert differing(found, cnn.state_dict())


def test_scrub_weighs_the_retain_loss_as_a_learning_rate_does(unlearnt, recipe):
    plain = replace(recipe, weight_decay=0.0)
    options = {"forget_batch_size": 8, "ascent_epochs": 0, "alpha": 0.0, "temperature": 4.0}
    half = unlearnt(Scrub(plain, gamma=0.5, **options))
    assert differing(half, unlearnt(Scrub(replace(plain, lr=plain.lr / 2), gamma=1.0, **options))) == set()


def test_ct_without_kernels_to_transpose_is_finetuning(cnn, unlearnt, recipe):
    assert differing(unlearnt(CT(recipe, convolutional=True)), unlearnt(Finetune(recipe)))
    with torch.no_grad():
        cnn.conv.weight.copy_(cnn.conv.weight + cnn.conv.weight.transpose(2, 3))
    assert differing(unlearnt(CT(recipe, convolutional=True)), unlearnt(Finetune(recipe))) == set()
