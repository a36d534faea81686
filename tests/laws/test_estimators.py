"""What every registered estimator obeys: the form, the grid's shape, same seed same bytes."""

import importlib
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from hertzmap.core import registry
from hertzmap.core.errors import ConfigError, ReportsError
from hertzmap.core.grid import Grid
from hertzmap.core.types import Reports, SceneRaster
from hertzmap.core.units import GreyScale
from hertzmap.diffusion.denoisers import MapUNet, UNetConfig
from hertzmap.estimation._radio_unet import RadioUNetLayout, RadioUNetNetwork
from hertzmap.estimation.amortised_unet import AmortisedNetwork
from hertzmap.estimation.base import AbstractEstimator

NAMES = registry.names("estimation")
BRIEF = {"iterations": 2, "starts": 1, "steps": 2}
"""Settings that make an iterative method short, where it has them."""


def small_network():
    torch.manual_seed(0)
    config = UNetConfig(widths=(16, 16, 16), condition_widths=(8, 8, 8), embedding=16, heads=2)
    return MapUNet(config).eval()


def small_network_of_reports():
    torch.manual_seed(0)
    config = UNetConfig(10, 6, 8, (16, 16, 16), (8, 8, 8), 16, 2, 8, 2)
    return AmortisedNetwork(config).eval()


def small_radio_unet():
    torch.manual_seed(0)
    return RadioUNetNetwork(RadioUNetLayout(share=0.05)).eval()


NETWORKS = {
    "amortised_unet": small_network_of_reports,
    "radiounet": small_radio_unet,
    "rme_gan": small_radio_unet,
}
"""Untrained networks of the methods whose network is no denoiser."""


def build(name, preset=None):
    """A method by name; with an untrained network if it wants one, and few iterations."""
    module = importlib.import_module(f"hertzmap.estimation.{name}")
    method = module.METHOD.from_preset(preset or next(iter(module.PRESETS)))
    wanted = {field.name for field in fields(method)}
    if "network" in wanted:
        method = replace(method, network=NETWORKS.get(name, small_network)())
    if "term_prior" in wanted:
        search = importlib.import_module("hertzmap.estimation._transmitter_search")
        terms = len(search.TERMS)
        method = replace(method, term_prior=search.TermPrior(np.zeros(terms), np.eye(terms)))
    if "config" in wanted:
        known = {field.name for field in fields(method.config)}
        brief = {key: value for key, value in BRIEF.items() if key in known}
        method = replace(method, config=replace(method.config, **brief))
    return method


def world(count=24, *, reference_dbm=5.0, shift_m=(0.0, 0.0)):
    """Reports about one transmitter on a 32 x 40 grid with one building."""
    draw = np.random.default_rng(1)
    grid = Grid(32, 40, 1.0, shift_m)
    free = np.ones(grid.shape, bool)
    free[12:20, 14:24] = False
    cell = draw.choice(np.flatnonzero(free), count, replace=False)
    place = grid.centres_m().reshape(-1, 2)[cell]
    gap = np.hypot(*(place - np.array(shift_m) - 6.0).T)
    power = -55.0 - 28.0 * np.log10(gap + 1.0) + 2.0 * draw.standard_normal(count)
    drift = np.tile(np.eye(2), (count, 1, 1))
    reports = Reports(place, power, np.full(count, 2.0), drift, reference_dbm)
    return reports, SceneRaster(grid, np.where(free, 0.0, 15.0), free)


def answer(name, reports, site, seed=3):
    posterior = build(name).estimate(reports, site, seed=seed)
    return posterior, [a.tobytes() for a in (posterior.maps_dbm, posterior.spread_db)]


@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_the_form(name):
    method = registry.get("estimation", name)
    assert issubclass(method, AbstractEstimator)
    assert vars(method)["__final__"]
    assert vars(method)["__dataclass_params__"].frozen


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_builds_and_others_are_refused(name):
    module = importlib.import_module(f"hertzmap.estimation.{name}")
    for preset in module.PRESETS:
        assert isinstance(module.METHOD.from_preset(preset), module.METHOD)
    with pytest.raises(ConfigError, match=next(iter(module.PRESETS))):
        module.METHOD.from_preset("no such preset")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reference_dbm", [5.0, None])
def test_the_answer_lives_on_the_grid_of_the_site(name, reference_dbm):
    reports, site = world(reference_dbm=reference_dbm)
    posterior, _ = answer(name, reports, site)
    assert posterior.grid == site.grid
    assert posterior.maps_dbm.shape[1:] == site.grid.shape
    assert posterior.weight.sum() == pytest.approx(1.0)
    assert np.isfinite(posterior.mean_dbm()).all()
    assert (posterior.spread_db[:, ~site.free] == 0.0).all()


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_bytes(name):
    reports, site = world()
    assert answer(name, reports, site)[1] == answer(name, reports, site)[1]


@pytest.mark.parametrize("name", NAMES)
def test_a_known_reference_keeps_the_map_on_the_scale(name):
    reports, site = world(reference_dbm=5.0)
    mean_dbm = answer(name, reports, site)[0].mean_dbm()
    scale = GreyScale()
    assert mean_dbm.min() >= scale.min_db + 5.0 - 1e-3
    assert mean_dbm.max() <= scale.max_db + 5.0 + 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_the_frame_has_no_privileged_origin(name):
    here, there = world(), world(shift_m=(512.0, -256.0))
    mean, moved = answer(name, *here)[0].mean_dbm(), answer(name, *there)[0].mean_dbm()
    np.testing.assert_allclose(mean, moved, atol=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_no_reports_are_refused_in_words(name):
    reports, site = world()
    with pytest.raises(ReportsError):
        answer(name, reports.select(np.zeros(len(reports), bool)), site)
