import pytest
import torch
from omegaconf import OmegaConf

from benchmark.reproducibility import resolve_device

CONFIG = {"device": "cpu", "precision": "auto", "channels_last": "auto", "threads": None}
BACKENDS = (torch.backends.cuda.matmul, torch.backends.cudnn)


@pytest.fixture(autouse=True)
def _settings_are_put_back():
    before = [backend.allow_tf32 for backend in BACKENDS]
    yield
    for backend, value in zip(BACKENDS, before, strict=True):
        backend.allow_tf32 = value


@pytest.mark.parametrize("tf32", [True, False])
def test_float32_products_are_rounded_only_on_request(tf32):
    for backend in BACKENDS:
        backend.allow_tf32 = not tf32
    resolve_device(OmegaConf.create(CONFIG | {"tf32": tf32}))
    assert [backend.allow_tf32 for backend in BACKENDS] == [tf32, tf32]
