"""The bad teacher: targets, the part of D_r, and whose weights are random."""

import copy
import math
from dataclasses import replace

import torch
from torch import nn

from methods.bad_teacher import BadTeacher, distillation_loss
from methods.training import Recipe
from tests.methods.helpers import make_context, tiny_net, tiny_split, tiny_vit

RECIPE = Recipe.constant("adam", lr=1e-3, epochs=1, batch_size=16)
METHOD = BadTeacher("head", 0.3, 1.0, RECIPE)


def pretrained_vit(seed: int, *, pretrained: bool = True) -> nn.Module:
    """Return a ViT as `benchmark` builds it: body from weights that no seed changes, a head from `seed`."""
    model = tiny_vit(seed)
    if pretrained:
        body = {name: value for name, value in tiny_vit(99).state_dict().items() if not name.startswith("head")}
        model.load_state_dict(body, strict=False)
    return model


def is_pretrained(model: nn.Module, name: str) -> bool:
    return torch.equal(model.state_dict()[name], tiny_vit(99).state_dict()[name])


def test_the_loss_is_the_mean_over_samples_and_classes():
    logits, teacher = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), torch.eye(5)[:3]
    expected = -torch.log_softmax(logits, dim=1).diagonal().sum() / (3 * 5)  # KL to a one-hot target is −log q
    torch.testing.assert_close(distillation_loss(logits, teacher), expected)
    uniform = torch.full((3, 5), 0.2)
    expected = 0.2 * (math.log(0.2) - torch.log_softmax(logits, dim=1)).sum() / (3 * 5)
    torch.testing.assert_close(distillation_loss(logits, uniform), expected)


def test_the_student_sees_all_of_the_forget_set_and_a_part_of_the_rest():
    split, context = tiny_split("class"), make_context(tiny_net)
    part = METHOD.draw_retain(split, context)
    assert len(part) == int(0.3 * len(split.retain_train))
    rows = part.index.tolist()
    assert len(set(rows)) == len(rows)
    assert set(rows) <= set(split.retain_train.index.tolist())
    assert rows != METHOD.draw_retain(split, make_context(tiny_net, seed=4)).index.tolist()


def test_targets_are_the_teachers_predictions(monkeypatch):
    """With a step that changes nothing, the loss is that of the original against both teachers."""
    split, context, seen = tiny_split("class"), make_context(tiny_net), []
    original = tiny_net(1)
    student = copy.deepcopy(original)

    def record(logits, target):
        seen.append(target)
        return distillation_loss(logits, target)

    monkeypatch.setattr("methods.bad_teacher.distillation_loss", record)
    method = replace(METHOD, recipe=Recipe.constant("sgd", lr=1e-12, epochs=1, batch_size=1000))
    method(student, split, context)
    retain = method.draw_retain(split, context)
    teacher = METHOD.incompetent_teacher(context)

    def predict(model, data):
        return model(context.preprocessing(data.storage[data.index])).softmax(dim=1).detach()

    expected = torch.cat([predict(teacher, split.forget_train), predict(original, retain)])
    (targets,) = seen  # one batch, shuffled
    torch.testing.assert_close(targets.sort(dim=0).values, expected.sort(dim=0).values)


def test_the_head_alone_or_every_layer_of_the_incompetent_teacher_is_random():
    context = make_context(pretrained_vit)
    head, everything = (replace(METHOD, incompetent=x).incompetent_teacher(context) for x in ("head", "all"))
    for name in ("pos_embed", "blocks.0.attn.qkv.weight"):
        assert is_pretrained(head, name)
        assert not is_pretrained(everything, name)
    assert not is_pretrained(head, "head.weight")
