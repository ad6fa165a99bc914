import socket
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants as hub
from safetensors.torch import save_file
from torch import nn
from torchvision.models.resnet import BasicBlock

from benchmark.models import ResNet18, answers, build, read_state_dict, resnet18, timm_model, vit
from tests.conftest import Touching

VIT = "test_vit"  # timm's smallest: 300 356 parameters at 32 pixels and 4 classes


def test_resnet18_has_the_papers_size():
    model = resnet18(100, width=64)
    assert sum(p.numel() for p in model.parameters()) == 11_220_132
    assert model.get_classifier() is model.fc


def test_resnet18_equals_torchvisions_blocks_without_a_strided_1x1_convolution():
    ours = resnet18(3, width=2).eval()
    assert not any(m.kernel_size == (1, 1) and m.stride != (1, 1) for m in ours.modules() if isinstance(m, nn.Conv2d))
    theirs = torchvision.models.ResNet(BasicBlock, [2, 2, 2, 2], num_classes=3)
    theirs.conv1, theirs.maxpool, theirs.inplanes = nn.Conv2d(3, 2, 3, padding=1, bias=False), nn.Identity(), 2
    theirs.bn1 = nn.BatchNorm2d(2)
    for stage, (channels, stride) in enumerate([(2, 1), (4, 2), (8, 2), (16, 2)], start=1):
        setattr(theirs, f"layer{stage}", theirs._make_layer(BasicBlock, channels, 2, stride))
    theirs.fc = nn.Linear(16, 3)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    images = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(images), theirs.eval()(images))


@pytest.mark.gpu
def test_build_leaves_the_gpus_random_state():
    before = torch.cuda.get_rng_state()
    build(partial(ResNet18, width=4), 3, 5)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_an_unknown_name_is_answered_with_known_ones():
    for name in ("no_such_vit", "vit_base_patch16_224.no_such_tag"):
        with pytest.raises(ValueError, match=r"model\.timm_name .*vit_"):
            vit(4, name=name, image_size=32, pretrained=False, weights=None)


def of_timms(name, image_size=None, weights=None):
    return timm_model(4, name=name, image_size=image_size, pretrained=weights is not None, weights=weights)


def test_any_of_timms_models_is_built_by_name(tmp_path):
    model = of_timms("test_resnet", image_size=48)  # images of any size: scaled before they come here
    assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 4)
    assert model.get_classifier().out_features == 4
    assert of_timms(VIT, image_size=32).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 4)
    save_file(timm.create_model("test_resnet", num_classes=7).state_dict(), tmp_path / "w.safetensors")
    first, second = (of_timms("test_resnet", weights=str(tmp_path / "w.safetensors")).state_dict() for _ in range(2))
    assert {name for name in first if not torch.equal(first[name], second[name])} == {"fc.weight", "fc.bias"}


def test_a_model_for_one_size_of_images_asks_for_it_and_a_misspelt_one_is_answered():
    with pytest.raises(ValueError, match=r"model\.image_size for vit_tiny_patch16_224"):
        of_timms("vit_tiny_patch16_224")
    with pytest.raises(ValueError, match=r"but got 'resnet35'.* resnet34"):
        of_timms("resnet35")


@pytest.fixture(scope="module")
def state():
    """Weights of a small pretrained model: other classes, 32 pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(VIT, img_size=32, num_classes=7).state_dict()


def write(path: Path, state):
    match path.suffix:
        case ".safetensors":
            save_file(state, path)
        case ".npz":
            np.savez(path, **{name: value.numpy() for name, value in state.items()})
        case ".pth":
            torch.save({"state_dict": state} if path.stem == "nested" else state, path)
    return str(path)


def pretrained(weights, image_size=32):
    return vit(4, name=VIT, image_size=image_size, pretrained=True, weights=weights)


def test_vit_takes_everything_but_the_head_from_a_local_file(tmp_path, state):
    for file in ("w.safetensors", "w.npz", "w.pth", "nested.pth"):
        model = pretrained(write(tmp_path / file, state))
        loaded = model.state_dict()
        for name, value in state.items():
            assert name.startswith("head.") or torch.equal(loaded[name], value), (file, name)
        assert model.get_classifier().out_features == 4


def test_the_head_and_layer_norm_can_be_those_of_the_released_code(tmp_path, state):
    """`ViTModel` with `layer_norm_eps` 1e-12 and a plain `nn.Linear`; timm: 1e-6, a normal head and no bias."""
    weights = write(tmp_path / "w.safetensors", state)
    builder = partial(vit, name=VIT, image_size=32, pretrained=True, weights=weights)
    ours = build(partial(builder, linear_init=True, layer_norm_eps=1e-12), 4, 0)
    assert {m.eps for m in ours.modules() if isinstance(m, nn.LayerNorm)} == {1e-12}
    head = ours.get_classifier()
    bound = head.in_features**-0.5
    for values in (head.weight, head.bias):  # uniform in ±1/√n
        assert 0.5 * bound < values.abs().max() <= bound
    plain = build(builder, 4, 0)
    assert {m.eps for m in plain.modules() if isinstance(m, nn.LayerNorm)} == {1e-6}
    assert not plain.get_classifier().bias.any()
    assert all(torch.equal(ours.state_dict()[name], v) for name, v in state.items() if not name.startswith("head."))
    images = torch.randn(2, 3, 32, 32)
    assert not torch.equal(ours.eval().forward_features(images), plain.eval().forward_features(images))


def test_position_embeddings_are_fitted_to_the_image(tmp_path, state):
    # On a 2×2 grid that rises along x, the 4×4 grid rises along x too; the class token's own stays.
    rising = state["pos_embed"].clone()
    rising[0, 1:] = torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None]
    model = pretrained(write(tmp_path / "w.safetensors", {**state, "pos_embed": rising}), image_size=64)
    assert model.pos_embed.shape == (1, 1 + 16, 64)
    assert torch.equal(model.pos_embed[:, 0], rising[:, 0])
    grid = model.pos_embed[0, 1:].detach().view(4, 4, 64)
    assert (grid[:, 1:] > grid[:, :-1]).all()
    torch.testing.assert_close(grid, grid[:1].expand(4, 4, 64), atol=1e-5, rtol=0)
    assert torch.equal(model.blocks[0].attn.qkv.weight, state["blocks.0.attn.qkv.weight"])
    assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 4)


def test_a_pickle_is_refused_and_not_executed(tmp_path):
    trap, weights = tmp_path / "executed", tmp_path / "w.pth"
    torch.save({"x": Touching(trap)}, weights)
    torch.load(weights, weights_only=False)
    assert trap.exists()  # it is armed
    trap.unlink()
    with pytest.raises(ValueError, match=r"w\.pth to .*, but it holds other objects \([\w.]+\); save") as error:
        pretrained(str(weights))
    assert not trap.exists()
    assert "\n" not in str(error.value)
    assert "weights_only" not in str(error.value)  # torch's advice to execute it


@pytest.mark.parametrize(
    ("file", "prefix", "key"),
    [
        ("w.pth.tar", "module.", "state_dict"),  # of DataParallel
        ("pytorch_model.bin", "", None),
        ("W.PTH", "_orig_mod.", None),  # of torch.compile
        ("last.ckpt", "model.", "state_dict"),  # of Lightning
        ("w.pt", "module._orig_mod.", "state_dict_ema"),
        ("w.pt", "", "model"),
    ],
)
def test_checkpoints_of_other_programs_are_understood(file, prefix, key, tmp_path, state):
    wrapped = {f"{prefix}{name}": value for name, value in state.items()}
    torch.save(wrapped if key is None else {"epoch": 3, key: wrapped}, tmp_path / file)
    loaded = pretrained(str(tmp_path / file)).state_dict()
    assert all(name.startswith("head.") or torch.equal(loaded[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("deit_tiny_distilled_patch16_224", 32, r"one last layer, but .* has a tuple .* deit_\*"),
        ("test_resnet", 32, r"images of one size, but test_resnet takes any; set model\.image_size=null"),
    ],
)
def test_a_model_of_timms_that_does_not_fit_is_answered_with_those_that_do(name, size, expected):
    with pytest.raises(ValueError, match=expected):
        vit(4, name=name, image_size=size, pretrained=False, weights=None)


def test_weights_that_do_not_fit_are_refused(tmp_path, state):
    # Were any of them let through, a "pretrained" model would be a random one in part or in whole.
    without_last_block = {name: value for name, value in state.items() if not name.startswith("blocks.5.")}
    with_other_names = {f"encoder.{name}": value for name, value in state.items()}
    with_other_shape = {**state, "norm.weight": torch.zeros(3)}
    for wrong in (without_last_block, with_other_names, with_other_shape, {}):
        with pytest.raises(ValueError, match=r"w\.npz to hold"):
            pretrained(write(tmp_path / "w.npz", wrong))


@pytest.mark.parametrize("error", [OSError, RuntimeError])
def test_without_file_and_network_the_option_to_set_is_named(monkeypatch, error):
    def fail(*args, **kwargs):
        raise error("unreachable")

    monkeypatch.setattr("benchmark.models.timm.create_model", fail)
    monkeypatch.setattr("benchmark.models.answers", lambda address, seconds: True)
    with pytest.raises(FileNotFoundError, match=r"model\.weights=FILE .* model\.pretrained=false"):
        pretrained(None)


def test_without_a_network_there_is_one_quiet_attempt(monkeypatch, caplog, capfd):
    def nowhere(*args, **kwargs):
        raise OSError("no such host")

    monkeypatch.setattr("socket.getaddrinfo", nowhere)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waited to try again"))
    with pytest.raises(FileNotFoundError, match="pretrained weights of vit_tiny_patch16_224"):
        vit(4, name="vit_tiny_patch16_224", image_size=32, pretrained=True, weights=None)
    assert not hub.HF_HUB_OFFLINE
    assert [*caplog.text.splitlines(), *"".join(capfd.readouterr()).splitlines()] == []


def test_a_server_that_never_answers_is_given_up():
    with socket.create_server(("localhost", 0)) as silent:  # takes the connection, and says nothing
        start = time.monotonic()
        assert not answers(f"http://localhost:{silent.getsockname()[1]}", seconds=0.2)
    assert time.monotonic() - start < 5


def test_a_file_that_holds_no_weights_is_one_clear_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model\.weights .*none\.pth"):
        pretrained(str(tmp_path / "none.pth"))
    for name in ("w.safetensors", "w.npz", "w.pth"):
        (tmp_path / name).write_bytes(b"these are no tensors")
        with pytest.raises(ValueError, match="to hold tensors by name"):
            read_state_dict(tmp_path / name)
    (tmp_path / "w.h5").write_bytes(b"")
    with pytest.raises(ValueError, match=r"to end in \.safetensors, \.npz or \.pth"):
        read_state_dict(tmp_path / "w.h5")
