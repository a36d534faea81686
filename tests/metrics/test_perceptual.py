"""LPIPS is the library's or nothing: a clear error without it, its laws with it."""

import importlib.util

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hertzmap.core.errors import ConfigError, DataError
from hertzmap.metrics.perceptual import LAYERS, Lpips

HERE = importlib.util.find_spec("lpips") is not None
SHAPES = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}


@pytest.fixture
def backbone(tmp_path):
    """Random weights in AlexNet's shapes: enough for the laws, not for figures."""
    draw = torch.Generator().manual_seed(0)
    state = {}
    for number, (out, into, width) in SHAPES.items():
        scale = (into * width**2) ** -0.5
        state[f"features.{number}.weight"] = scale * torch.randn(
            out, into, width, width, generator=draw
        )
        state[f"features.{number}.bias"] = torch.zeros(out)
    save_file(state, tmp_path / "alexnet.safetensors")
    return tmp_path / "alexnet.safetensors"


@pytest.mark.skipif(HERE, reason="the library is installed")
def test_without_the_library_the_error_says_what_to_install(backbone):
    with pytest.raises(ConfigError, match="pip install lpips torchvision"):
        Lpips(backbone)


@pytest.mark.skipif(not HERE, reason="needs the package lpips")
@pytest.mark.filterwarnings("ignore")
def test_equal_pictures_are_at_distance_0_and_others_are_not(backbone):
    metric = Lpips(backbone)
    one = np.random.default_rng(0).random((96, 96))
    assert metric(one, one) == 0.0
    near, far = metric(one, np.clip(one + 0.05, 0, 1)), metric(one, one[::-1].copy())
    assert 0.0 < near < far
    assert metric(one, one[::-1].copy()) == pytest.approx(metric(one[::-1].copy(), one))


@pytest.mark.skipif(not HERE, reason="needs the package lpips")
@pytest.mark.filterwarnings("ignore")
def test_other_weights_are_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match="AlexNet"):
        Lpips(tmp_path / "other.safetensors")
    with pytest.raises(DataError, match="no file"):
        Lpips(tmp_path / "none.pth")


def test_every_convolution_has_a_place():
    assert set(LAYERS) == set(SHAPES)
