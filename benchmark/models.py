"""ResNet18 in its CIFAR form and timm's vision transformers."""

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from difflib import get_close_matches
from pathlib import Path
from pickle import UnpicklingError
from threading import Thread
from typing import Annotated, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import timm
import torch
from huggingface_hub import constants as hub
from safetensors.torch import load_file
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from methods.base import get_classifier
from methods.training import drawing_from

Whole = Annotated[int, "[1, inf)"]
TORCH_FILES = (".pth", ".pt", ".pth.tar", ".bin", ".ckpt")
WEIGHT_FILES = ".safetensors, .npz or .pth (.pt, .pth.tar, .bin, .ckpt)"
STATES = ("state_dict", "model", "state_dict_ema")  # names under which a checkpoint holds its tensors
WRAPPED = re.compile(r"^(?:(?:module|_orig_mod|model)\.)+")  # before each name, of a model inside another one
HUB_SECONDS = 3.0  # for an answer of the server with timm's weights


class ResNet18(nn.Module):
    """ResNet18 for small images: 3×3 stem with stride 1, no max-pool; 11.2 M parameters at width 64, 100 classes."""

    def __init__(self, num_classes: int, *, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._stage(width, width, stride=1)
        self.layer2 = self._stage(width, 2 * width, stride=2)
        self.layer3 = self._stage(2 * width, 4 * width, stride=2)
        self.layer4 = self._stage(4 * width, 8 * width, stride=2)
        self.fc = nn.Linear(8 * width, num_classes)

    @staticmethod
    def _stage(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
        shortcut = None
        if stride != 1 or inputs != outputs:
            # A pool of one pixel is the stride: oneDNN's strided 1×1 convolution writes out of bounds in channels-last.
            shortcut = nn.Sequential(
                nn.AvgPool2d(1, stride), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
            )
        return nn.Sequential(BasicBlock(inputs, outputs, stride, shortcut), BasicBlock(outputs, outputs))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K) of images (B, 3, H, W)."""
        x = torch.relu(self.bn1(self.conv1(images)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits

    def get_classifier(self) -> nn.Module:
        """Return the last layer, as timm's models do."""
        return self.fc


def resnet18(num_classes: int, *, width: Whole) -> nn.Module:
    """Return a ResNet18 whose first stage has `width` channels (64 in the paper)."""
    return ResNet18(num_classes, width=width)


def vit(
    num_classes: int, *, name: str, image_size: Whole | None, pretrained: bool, weights: str | None,
    linear_init: bool = False, layer_norm_eps: Annotated[float, "(0, inf)"] | None = None,
) -> nn.Module:  # fmt: skip
    """Return timm's model `name` for square images of `image_size` pixels with a new linear head.

    Args:
        pretrained: start from pretrained weights: `weights` if given, else timm's own download.
        weights: a local file, see `read_state_dict`; its position embeddings are fitted to `image_size`.
        linear_init: the head starts as `nn.Linear` does, not as timm's.
        layer_norm_eps: of every layer normalisation; None: timm's.

    Raises:
        ValueError: timm does not know `name`, it is no model with one linear last layer for images of `image_size`, or
            the file does not fit it.
        FileNotFoundError: there are no weights.
    """
    if not timm.is_model(name) or ("." in name and not timm.is_model_pretrained(name)):
        near = timm.list_pretrained(f"*{name.split('.')[0]}*")[:5] or get_close_matches(name, timm.list_models(), n=5)
        near = near or timm.list_models("vit_*")[:5]
        raise ValueError(
            f"Expected model.timm_name to be a timm model, but got {name!r}; timm has {', '.join(near)}, …"
        )
    options: dict[str, Any] = {"num_classes": num_classes} | ({} if image_size is None else {"img_size": image_size})
    download = pretrained and weights is None
    try:
        with offline_without_network() if download else nullcontext():
            model: nn.Module = timm.create_model(name, pretrained=download, **options)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        raise ValueError(
            f"Expected model.timm_name to be a model for images of one size, but {name} takes any; set "
            f"model.image_size=null, or take a vit_*, deit_* or swin_*."
        ) from error
    except (RuntimeError, OSError, ValueError) as error:
        if not download:
            raise
        raise missing_weights(name, error) from error
    head = get_classifier(model)
    if not isinstance(head, nn.Linear | nn.Conv2d):
        raise ValueError(
            f"Expected model.timm_name to be a model with one last layer, but {name} has a {type(head).__name__} there "
            f"(a distilled one has two); take a vit_*, deit_* or deit3_*, a resnet* or a convnext*."
        )
    if pretrained and weights is not None:
        load_body(model, name, Path(weights))
    if linear_init:
        get_classifier(model).reset_parameters()  # type: ignore[operator]
    for module in model.modules():
        if layer_norm_eps is not None and isinstance(module, nn.LayerNorm):
            module.eps = layer_norm_eps
    return model


def timm_model(
    num_classes: int, *, name: str, image_size: Whole | None, pretrained: bool, weights: str | None
) -> nn.Module:
    """Return any of timm's classifiers, as `vit` does; ValueError if it needs an `image_size` and there is none."""
    model_name, _, tag = name.partition(".")
    known = timm.get_pretrained_cfg(name if tag else model_name) if timm.is_model(model_name) else None
    fixed = bool(known and known.fixed_input_size)  # the others take images of any size, and no such option
    if fixed and image_size is None:
        raise ValueError(f"Expected model.image_size for {name}, which takes images of one size; set it in pixels.")
    size = image_size if fixed else None
    return vit(num_classes, name=name, image_size=size, pretrained=pretrained, weights=weights)


def load_body(model: nn.Module, name: str, path: Path) -> None:
    """Load everything but the last layer from `path`; ValueError unless the file holds all of it."""
    state = read_state_dict(path)
    head = tuple(f"{part}." for part, module in model.named_modules() if module is get_classifier(model))
    try:
        body = {part: v for part, v in checkpoint_filter_fn(state, model).items() if not part.startswith(head)}
        missing = [part for part in model.load_state_dict(body, strict=False).missing_keys if not part.startswith(head)]
        if missing:
            raise ValueError(f"it lacks {len(missing)} tensors, {missing[0]} for one")
    except (RuntimeError, KeyError, ValueError) as error:
        raise ValueError(f"Expected {path} to hold weights of {name}, but they do not fit: {error}") from error


def missing_weights(name: str, error: Exception) -> FileNotFoundError:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return FileNotFoundError(
        f"Expected pretrained weights of {name}, but timm could not get them ({reason}); set "
        f"model.weights=FILE to a local {WEIGHT_FILES} file, or model.pretrained=false."
    )


@contextmanager
def offline_without_network() -> Iterator[None]:
    """Have the hub of timm's weights look into its cache alone if its server does not answer: it tries for a minute."""
    before = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = before or not answers(hub.ENDPOINT, HUB_SECONDS)
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before


def answers(address: str, seconds: float) -> bool:
    """Return whether a server answers in time, whatever it says."""
    found: list[bool] = []

    def ask() -> None:
        try:
            with urlopen(Request(address, method="HEAD"), timeout=seconds):
                found.append(True)
        except HTTPError:
            found.append(True)
        except OSError:
            found.append(False)

    thread = Thread(target=ask, daemon=True)  # to look up a name has no time limit of its own
    thread.start()
    thread.join(seconds)
    return found == [True]


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read tensors by name from a `.safetensors`, `.npz` or torch file, in any case; no pickle is ever executed.

    Of a checkpoint it is the first of `STATES`. Names lose what wraps a model: `module.`, `_orig_mod.`, `model.`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, or holds anything but tensors by name.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Expected model.weights to be a file, but there is none at {path}.")
    name = path.name.lower()
    if not name.endswith((".safetensors", ".npz", *TORCH_FILES)):
        raise ValueError(f"Expected model.weights to end in {WEIGHT_FILES}, but got {path}.")
    try:
        if name.endswith(".safetensors"):
            found: Mapping[str, Any] = load_file(path)
        elif name.endswith(".npz"):
            with np.load(path, allow_pickle=False) as file:
                found = {key: torch.from_numpy(file[key]) for key in file.files}
        else:
            with warnings.catch_warnings(action="ignore"):  # torch's, about pickles that it will refuse
                found = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(found, Mapping):
                raise TypeError(f"it holds a {type(found).__name__}")
            found = next((found[key] for key in STATES if isinstance(found.get(key), Mapping)), found)
        return {WRAPPED.sub("", str(key)): value for key, value in found.items() if isinstance(value, Tensor)}
    except UnpicklingError as error:  # torch would tell how to execute it
        other = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it holds other objects ({other[1]}); save its state_dict alone" if other else "it is none of torch's"
        raise ValueError(f"Expected {path} to hold tensors by name, but {reason}.") from error
    except Exception as error:
        raise ValueError(f"Expected {path} to hold tensors by name, but it cannot be read: {error}") from error


def build(builder: Any, num_classes: int, seed: int) -> nn.Module:
    """Return `builder(num_classes)` initialised from `seed`; the global random state is left as it was."""
    with drawing_from(seed, torch.device("cpu")):
        model: nn.Module = builder(num_classes)
    return model
