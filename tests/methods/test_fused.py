"""Training in bfloat16 on a CPU through own kernels, beside torch's own operations in float64."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmark.models import build, resnet18
from methods.delete import Delete
from methods.fused import SHORT, Columns, fused
from methods.last_layers import LastLayers
from methods.norm_relu import NormReLU, NormReLUFunction, can_compile
from methods.training import Compute, Recipe
from tests.methods.helpers import make_context, tiny_split, tiny_vit

pytestmark = pytest.mark.skipif(not can_compile(), reason="the kernels need gcc")
ROUNDING = 2**-8  # of bfloat16: half a unit in the last place
COMPUTE = Compute(torch.device("cpu"), "bfloat16", channels_last=True, fused=True)


def activations(*shape, seed=0):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2 + 0.7
    return x.bfloat16().to(memory_format=torch.channels_last)


def normalisation(channels):
    norm, random = nn.BatchNorm2d(channels), torch.Generator().manual_seed(1)
    for p in norm.parameters():
        nn.init.uniform_(p, 0.5, 1.5, generator=random)
    return norm


def relative(found, expected):
    return float((found.detach().double() - expected.detach()).norm() / expected.detach().norm())


def network(width=8):
    return COMPUTE.place(build(partial(resnet18, width=width), 10, 0)).train()


def outputs(model, network, *, autocast):
    """Return the logits of a batch and all gradients of its cross-entropy, in one vector."""
    model.zero_grad()
    images = activations(32, 3, 32, 32).to(model.fc.weight.dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        logits = network(images)
        F.cross_entropy(logits, torch.arange(32) % 10).backward()
    return torch.cat([t.flatten() for t in (logits.detach(), *(p.grad for p in model.parameters()))])


@pytest.mark.parametrize("users", [1, 2])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("channels", [16, 24, 512])  # 24 does not divide the length of the inner loop
@pytest.mark.parametrize("summand", [True, False])
def test_the_kernel_is_batch_normalisation_then_a_sum_then_relu(channels, summand, relu, users):
    norm = normalisation(channels)
    own, torchs = NormReLU(norm, relu=relu), copy.deepcopy(norm).double()
    inputs = [activations(8, channels, 4, 4, seed=seed).requires_grad_() for seed in range(1 + summand)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    gradients = [activations(8, channels, 4, 4, seed=seed) for seed in (5, 6)[:users]]
    found = own(*inputs)[:users]
    assert isinstance(found[0].grad_fn, NormReLUFunction._backward_cls)
    torch.autograd.backward(found, gradients)
    y = torchs(exact[0]) + (exact[1] if summand else 0)
    y = F.relu(y) if relu else y
    y.backward(sum(g.double() for g in gradients))
    for one in found:
        torch.testing.assert_close(one.double(), y, rtol=ROUNDING, atol=1e-6)
    assert all(relative(x.grad, e.grad) < ROUNDING for x, e in zip(inputs, exact, strict=True))
    for p, e in zip(norm.parameters(), torchs.parameters(), strict=True):
        torch.testing.assert_close(p.grad.double(), e.grad, rtol=ROUNDING, atol=ROUNDING * float(e.grad.abs().max()))
    for name, value in norm.named_buffers():
        torch.testing.assert_close(value, torchs.get_buffer(name).to(value.dtype))


def test_the_number_of_threads_changes_no_result():
    x, threads, results = activations(64, 16, 32, 32), torch.get_num_threads(), []
    for number in (1, 2):
        torch.set_num_threads(number)
        leaf, norm = x.clone().requires_grad_(), normalisation(16)
        y, _ = NormReLU(norm, relu=True)(leaf)
        y.backward(activations(64, 16, 32, 32, seed=1))
        results.append([y, leaf.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var])
    torch.set_num_threads(threads)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


def test_a_number_that_is_none_stays_visible():
    x = activations(8, 16, 4, 4)
    x[0, 3, 0, 0] = float("nan")
    y, _ = NormReLU(normalisation(16), relu=True)(x)
    assert y[:, 3].isnan().all()
    assert y.isnan().sum() == y[:, 3].numel()


def test_evaluation_and_float32_take_torchs_own_operations():
    norm, x = normalisation(16), activations(8, 16, 4, 4)
    assert torch.equal(NormReLU(copy.deepcopy(norm), relu=True)(x.float())[0], F.relu(copy.deepcopy(norm)(x.float())))
    norm.eval()
    assert torch.equal(NormReLU(norm, relu=True)(x, x)[0], F.relu(norm(x) + x))


@pytest.mark.parametrize(
    ("inputs", "outputs", "size", "stride"),
    [(16, 24, 4, 1), (16, 24, 8, 2), (256, 32, 3, 1), (256, 16, 7, 2), (16, 256, 8, 1), (16, 256, 15, 2)],
)
def test_a_convolution_by_columns_has_the_same_gradients(inputs, outputs, size, stride):
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    x = activations(4, inputs, size, size).requires_grad_()
    exact, weight = (t.detach().bfloat16().double().requires_grad_() for t in (x, conv.weight))
    found, expected = Columns(conv)(x), F.conv2d(exact, weight, stride=stride, padding=1)
    gradient = activations(*found.shape, seed=1)
    found.backward(gradient)
    expected.backward(gradient.double())
    assert type(found.grad_fn).__name__ == "ColumnsFunctionBackward"
    pairs = ((found, expected), (x.grad, exact.grad), (conv.weight.grad, weight.grad))
    assert all(relative(one, other) < ROUNDING for one, other in pairs)


def test_a_fused_network_is_the_same_function():
    model = network()
    expected, own = outputs(model, model, autocast=False), fused(model)
    modules = [own.get_submodule(node.target) for node in own.graph.nodes if node.op == "call_module"]
    assert not any(isinstance(module, nn.BatchNorm2d | nn.ReLU) for module in modules)
    assert [type(module) for module in modules].count(NormReLU) == 20
    torch.testing.assert_close(outputs(model, own, autocast=False), expected)  # in float32, by torch's own operations


def test_a_fused_network_is_as_near_to_float64_as_the_plain_one():
    model, exact = network(), network().double()
    expected = outputs(exact, exact, autocast=False)
    plain, own = (outputs(model, forward, autocast=True) for forward in (model, fused(model)))
    assert 0 < relative(own, expected) < 1.2 * relative(plain, expected)


@pytest.mark.parametrize("tokens", [5, SHORT, SHORT + 1])
def test_attention_among_few_tokens_is_by_products_and_as_near_to_float64(tokens):
    class Attention(nn.Module):
        def forward(self, x):
            return F.scaled_dot_product_attention(x[0], key=x[1], value=x[2])

    model, x = Attention(), torch.randn(3, 2, 1, tokens, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = {}
    for way, forward in {"own": fused(model), "plain": model, "exact": model}.items():
        inputs = (x.double() if way == "exact" else x.clone()).requires_grad_()
        output = forward(inputs)
        output.sum().backward()
        found[way] = (output, inputs.grad)
        by_products = "Flash" not in type(output.grad_fn).__name__
        assert by_products == (way == "own" and tokens <= SHORT)
    for own, plain, exact in zip(*found.values(), strict=True):
        assert relative(own, exact) <= 1.2 * relative(plain, exact)


def test_a_vision_transformer_by_products_is_as_near_to_float32():
    model, images = tiny_vit(0).train(), activations(8, 3, 8, 8).float()

    def gradients(forward, *, autocast=True):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            F.cross_entropy(forward(images), torch.arange(len(images)) % 4).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    plain, own, exact = gradients(model), gradients(fused(model)), gradients(model, autocast=False)
    assert not torch.equal(own, plain)
    assert relative(own, exact) < 1.2 * relative(plain, exact)


def test_a_network_that_decides_by_its_input_stays_as_it_is():
    class Deciding(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x):
            return self.norm(x) if x.sum() > 0 else x

    model = Deciding()
    assert fused(model) is model


def test_frozen_layers_and_norms_in_eval_mode_stay_as_they_are_in_a_fused_network():
    recipe = Recipe.constant("sgd", lr=0.01, epochs=1, batch_size=16, momentum=0.9, weight_decay=0.1)
    context = replace(make_context(lambda seed: network()), compute=COMPUTE)
    original = COMPUTE.place(build(partial(resnet18, width=8), 20, 0))
    parameters = dict(original.named_parameters())
    for method, kept in (
        (
            LastLayers(recipe, k=6, reset=False),
            lambda name: name in parameters and not name.startswith(("fc.", "layer4.")),
        ),
        (Delete(recipe, norms="eval"), lambda name: "running" in name),
    ):
        before = copy.deepcopy(original.state_dict())
        after = method(copy.deepcopy(original), tiny_split("class"), context).state_dict()
        trained = {name for name, value in after.items() if not torch.equal(value, before[name])}
        assert "fc.weight" in trained
        assert not [name for name in trained if kept(name)]
        assert all(torch.isfinite(value).all() for value in after.values())
