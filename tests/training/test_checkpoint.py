"""Law 28: a weights file is small, belongs to its card, and gives the network back."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hertzmap.core.errors import ConfigError, DataError
from hertzmap.core.grid import Grid
from hertzmap.core.types import Reports, SceneRaster
from hertzmap.core.units import GreyScale
from hertzmap.diffusion.denoisers import MapUNet, UNetConfig
from hertzmap.estimation._transmitter_search import TERMS, TermPrior
from hertzmap.estimation.kriging import Kriging
from hertzmap.estimation.radiodiff_inv2 import RadioDiffInv2
from hertzmap.training.checkpoint import (
    DEFAULT_WEIGHTS,
    WEIGHTS,
    digest,
    export,
    load_estimator,
    load_network,
    load_term_prior,
    weights_folder,
)
from hertzmap.training.prior import build

TINY = UNetConfig(
    patch=4, widths=(16, 16), condition_widths=(8, 8), embedding=16, heads=2, groups=4
)
TERM_PRIOR = TermPrior(np.linspace(-0.1, 0.1, len(TERMS)), 0.06**2 * np.eye(len(TERMS)))
LIMIT = 16 * 2**20
SHIPPED = sorted(weights_folder().glob("*.safetensors"))


def random_network(config=TINY):
    network = build(config)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return network.eval()


def state_of(network, path, step=123):
    """What the loop saves: live and averaged weights, optimiser, step."""
    average = {name: value.contiguous() for name, value in network.state_dict().items()}
    tensors = {f"average.{name}": value for name, value in average.items()}
    tensors |= {f"network.{name}": torch.zeros_like(value) for name, value in average.items()}
    tensors |= {"optimiser.step.stem.bias": torch.tensor(1.0), "step": torch.tensor(step)}
    save_file(tensors, path)
    return path


@pytest.fixture
def shipped(tmp_path):
    network = random_network()
    state = state_of(network, tmp_path / "state.safetensors")
    facts = {"cities": ["toy"], "seed": 3}
    target = tmp_path / "weights" / "tiny.safetensors"
    return network, export(state, target, TINY, facts, term_prior=TERM_PRIOR)


def test_weights_come_back_rounded_to_half_precision(shipped):
    network, path = shipped
    loaded = load_network(path)
    assert not loaded.training
    assert loaded.config == TINY
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.half().float()), name
    state, angle = torch.randn(1, 1, 32, 32), torch.tensor([1.0])
    planes, scalars = torch.rand(1, 5, 32, 32), torch.zeros(1, 2)
    with torch.no_grad():
        before, after = (net(state, angle, planes, scalars) for net in (network, loaded))
    torch.testing.assert_close(after, before, rtol=0.02, atol=0.02 * float(before.abs().max()))


def test_the_file_holds_averaged_weights_in_half_precision_only(shipped):
    network, path = shipped
    stored = load_file(path)
    assert set(stored) == set(network.state_dict())
    assert {value.dtype for value in stored.values()} == {torch.float16}
    assert any(bool(value.any()) for value in stored.values())


def test_the_card_tells_what_is_in_the_file(shipped):
    network, path = shipped
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["parameters"] == sum(p.numel() for p in network.parameters())
    assert card["steps"] == 123
    assert card["sha256"] == digest(path)
    assert GreyScale(**card["scale"]) == GreyScale()
    assert card["network"]["patch"] == TINY.patch
    assert tuple(card["network"]["widths"]) == TINY.widths
    assert card["cities"] == ["toy"]
    assert {"commit", "version", "torch", "target"} <= set(card)
    assert not list(path.parent.glob("*.part"))


def test_the_belief_about_the_unknowns_comes_back(shipped, tmp_path):
    network, path = shipped
    found = load_term_prior(path)
    assert found is not None
    np.testing.assert_array_equal(found.mean, TERM_PRIOR.mean)
    np.testing.assert_array_equal(found.covariance, TERM_PRIOR.covariance)
    bare = export(state_of(network, tmp_path / "s"), tmp_path / "bare.safetensors", TINY, {})
    assert load_term_prior(bare) is None
    card = path.with_suffix(".json")
    card.write_text(card.read_text().replace('"offset"', '"level"'))
    with pytest.raises(DataError, match="fit them again"):
        load_term_prior(path)


def test_a_changed_file_is_refused(shipped):
    _, path = shipped
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="SHA-256 differs"):
        load_network(path)


@pytest.mark.parametrize("missing", [".safetensors", ".json"])
def test_weights_or_card_alone_are_refused(shipped, missing):
    _, path = shipped
    path.with_suffix(missing).unlink()
    with pytest.raises(DataError, match="hertzmap train"):
        load_network(path)


def test_the_full_network_fits_the_limit(tmp_path):
    config = UNetConfig()
    state = state_of(MapUNet(config), tmp_path / "state.safetensors")
    path = export(state, tmp_path / "full.safetensors", config, {})
    assert path.stat().st_size <= LIMIT
    assert load_network(path).config == config


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_shipped_weights_fit_their_cards_and_the_limit(path):
    assert path.stat().st_size <= LIMIT
    network = load_network(path)
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["parameters"] == sum(p.numel() for p in network.parameters())
    assert card["scale"] == asdict(GreyScale())
    assert all(bool(torch.isfinite(p).all()) for p in network.parameters())


def test_an_estimator_comes_with_its_network(shipped):
    _, path = shipped
    made = load_estimator("radiodiff_inv2", "quick", weights=path, starts=1, iterations=1)
    assert isinstance(made, RadioDiffInv2)
    assert made.network is not None
    assert (made.config.starts, made.config.iterations) == (1, 1)
    grid = Grid(32, 32)
    site = SceneRaster(grid, np.zeros(grid.shape), np.ones(grid.shape, bool))
    place = np.random.default_rng(0).uniform(1.0, 31.0, (12, 2))
    reports = Reports(place, np.full(12, -80.0), np.ones(12), np.zeros((12, 2, 2)), 0.0)
    posterior = made.estimate(reports, site, seed=0)
    assert np.isfinite(posterior.mean_dbm()).all()


def test_methods_without_weights_need_none():
    made = load_estimator("kriging", "as_published")
    assert made == Kriging.from_preset("as_published")


def test_settings_of_any_method_can_be_changed():
    made = load_estimator("nearest", "default", same_place_m=2.0)
    assert made.config.same_place_m == 2.0  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("name", ["nearest", "radiodiff_inv2"])
def test_an_unknown_setting_is_refused(shipped, name):
    _, path = shipped
    preset = {"nearest": "default", "radiodiff_inv2": "quick"}[name]
    with pytest.raises(ConfigError, match="no such setting"):
        load_estimator(name, preset, weights=path, magic=True)


def test_unknown_methods_and_presets_are_refused(shipped):
    _, path = shipped
    with pytest.raises(ConfigError, match="no method 'oracle'"):
        load_estimator("oracle", "quick")
    with pytest.raises(ConfigError, match="no preset 'best'"):
        load_estimator("radiodiff_inv2", "best", weights=path)


def test_missing_weights_say_how_to_get_them(tmp_path):
    with pytest.raises(DataError, match="hertzmap train"):
        load_estimator("radiodiff_inv2", "quick", weights=tmp_path / "none.safetensors")


def test_the_published_preset_has_weights_of_its_own():
    assert WEIGHTS["radiodiff_inv2", "as_published"] != DEFAULT_WEIGHTS["radiodiff_inv2"]
