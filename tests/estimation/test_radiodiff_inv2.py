"""RadioDiff-Inv2 on a small world, with a tiny network whose prior is known or random."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hertzmap.core.errors import ConfigError, ReportsError
from hertzmap.core.grid import Grid
from hertzmap.core.posteriors import MapPosterior
from hertzmap.core.types import Reports, SceneRaster
from hertzmap.core.units import GreyScale
from hertzmap.diffusion.denoisers import MapUNet, UNetConfig
from hertzmap.estimation._transmitter_search import TERMS, TermPrior
from hertzmap.estimation.base import AbstractEstimator
from hertzmap.estimation.radiodiff_inv2 import METHOD, PRESETS, RadioDiffInv2
from hertzmap.scenes.wayfinding import transmitter_planes

TINY = UNetConfig(
    patch=4, widths=(16, 16), condition_widths=(8, 8), embedding=16, heads=2, groups=4
)
SCALE = GreyScale()
BRIEF = {
    "starts": 2,
    "iterations": 4,
    "steps": 2,
    "coarse_step_m": 64.0,
    "outside_m": 0.0,
    "residual": False,
}
"""Enough to go through every line."""
TERM_PRIOR = TermPrior(np.zeros(len(TERMS)), 0.04**2 * np.eye(len(TERMS)))
PLACE = (20.0, 42.0)


def random_network(std=0.05):
    torch.manual_seed(0)
    network = MapUNet(TINY).eval()
    for weight in network.parameters():  # some layers start at zero and would hide their input
        torch.nn.init.normal_(weight, std=std)
    return network


def known_network():
    """Mean map grey = 0.85 - 0.7 distance - 0.2 detour, and a little of the state."""
    torch.manual_seed(0)
    network = MapUNet(TINY).eval()
    area = TINY.patch**2
    assert network.head.bias is not None
    with torch.no_grad():
        for term, value in ((0, 2.0 * 0.85 - 1.0), (2, -1.4), (3, -0.4), (6, 0.02)):
            network.head.bias[term * area : (term + 1) * area] = value
    return network


def site_of(rows=64, cols=64):
    free = np.ones((rows, cols), bool)
    free[10:22, 8:24] = False
    free[34:46, 36:52] = False
    return SceneRaster(Grid(rows, cols), np.where(free, 0.0, 15.0), free)


def known_map(site):
    planes = transmitter_planes(site.free, site.grid, PLACE)
    return SCALE.to_db(0.85 - 0.7 * planes[0].astype(float) - 0.2 * planes[1])


def world(rows=64, cols=64, *, count=80, noise_db=2.0, drift_m=0.8, reference_dbm=0.0, seed=1):
    site, draw = site_of(rows, cols), np.random.default_rng(seed)
    truth = known_map(site)
    cell = draw.choice(np.flatnonzero(site.free), count, replace=False)
    power = truth.ravel()[cell] + noise_db * draw.standard_normal(count)
    drift = np.tile(drift_m**2 * np.eye(2), (count, 1, 1))
    place = site.grid.centres_m().reshape(-1, 2)[cell]
    return Reports(place, power, np.full(count, noise_db), drift, reference_dbm), site, truth


def method(preset="quick", *, network=None, **options):
    made = RadioDiffInv2(PRESETS[preset], network or random_network(), TERM_PRIOR)
    return made.with_options(**{**BRIEF, **options})


class Told(AbstractEstimator):
    """Knows the map."""

    @classmethod
    def from_preset(cls, preset):
        raise NotImplementedError(preset)

    def estimate(self, reports, site, *, seed):
        del reports, seed
        maps = known_map(site)[None]
        return MapPosterior(site.grid, maps, np.zeros(1), np.zeros_like(maps))


def rms(values):
    return float(np.sqrt(np.mean(values**2)))


def test_the_three_presets_exist_and_the_published_one_has_no_addition_of_ours():
    assert set(PRESETS) >= {"quick", "thorough", "as_published"}
    for name, config in PRESETS.items():
        assert METHOD.from_preset(name).config == config
    paper = PRESETS["as_published"]
    assert (paper.data_term, paper.transmitter, paper.z_prior) == ("paper", "agnostic", "none")
    assert not paper.residual
    assert paper.initial == "random"
    assert PRESETS["thorough"].checkpoint
    assert PRESETS["thorough"].iterations > PRESETS["quick"].iterations


def test_a_prior_that_knows_the_map_finds_it_and_its_transmitter():
    reports, site, truth = world(noise_db=4.0)
    posterior = method(network=known_network(), starts=1).estimate(reports, site, seed=0)
    assert rms((posterior.mean_dbm() - truth)[site.free]) < 2.0


def test_an_unknown_link_budget_is_found():
    reports, site, truth = world()
    louder = replace(reports, power_dbm=reports.power_dbm + 17.0, reference_dbm=None)
    posterior = method(network=known_network(), starts=1).estimate(louder, site, seed=0)
    error = (posterior.mean_dbm() - truth - 17.0)[site.free]
    assert abs(error.mean()) < 3.0
    assert rms(error) < 4.0


def test_a_known_reference_only_shifts_the_answer():
    reports, site, _ = world()
    estimator = method(starts=1)
    shifted = replace(reports, power_dbm=reports.power_dbm + 20.0, reference_dbm=20.0)
    first, second = (estimator.estimate(r, site, seed=0) for r in (reports, shifted))
    np.testing.assert_allclose(second.maps_dbm - 20.0, first.maps_dbm, atol=1e-2)


def test_what_the_prior_leaves_is_taken_up():
    reports, site, truth = world(count=150, drift_m=0.0)
    hill = 12.0 * np.exp(-((site.grid.centres_m() - [45.0, 15.0]) ** 2).sum(axis=-1) / 300.0)
    cell = site.grid.cell(reports.reported_m)
    raised = replace(reports, power_dbm=reports.power_dbm + hill[cell[:, 0], cell[:, 1]])
    options = {"network": known_network(), "starts": 1}
    plain = method(**options).estimate(raised, site, seed=0)
    mended = method(**options, residual=True).estimate(raised, site, seed=0)
    errors = [rms((p.mean_dbm() - truth - hill)[site.free]) for p in (plain, mended)]
    assert errors[1] < 0.7 * errors[0]
    assert np.ptp(mended.spread_db[0][site.free]) > 0.0


def test_an_inverted_map_is_no_surer_than_the_conditional_means():
    reports, site, _ = world(count=40)
    posterior = method(starts=1, places=2, residual=True).estimate(reports, site, seed=0)
    np.testing.assert_array_equal(posterior.spread_db[-1], posterior.spread_db[0])


def test_path_loss_can_be_left_out():
    reports, site, truth = world()
    options = {"network": known_network(), "starts": 1, "residual": True}
    both, alone = (
        method(**options, path_loss=kept).estimate(reports, site, seed=0) for kept in (True, False)
    )
    assert len(both.log_weight) > len(alone.log_weight)
    for posterior in (both, alone):
        assert rms((posterior.mean_dbm() - truth)[site.free]) < 3.0


def test_a_guessed_map_is_where_the_inversion_starts():
    reports, site, _ = world()
    begun = method("amortised", starts=1, iterations=0)
    posterior = replace(begun, guess=Told()).estimate(reports, site, seed=0)
    other = method("as_published", starts=1, iterations=0).estimate(reports, site, seed=0)
    assert posterior.trace is not None and other.trace is not None
    assert not np.array_equal(posterior.trace.values["loss"], other.trace.values["loss"])
    with pytest.raises(ConfigError, match="needs guess"):
        begun.estimate(reports, site, seed=0)


def test_randomised_members_are_wider_apart_where_reports_are_noisier():
    spreads = []
    for noise_db in (1.0, 20.0):
        reports, site, _ = world(noise_db=noise_db, count=200)
        estimator = method("posterior", network=known_network(), starts=6, iterations=40)
        posterior = estimator.estimate(reports, site, seed=0)
        assert np.ptp(posterior.log_weight) == 0.0
        spreads.append(posterior.maps_dbm[:, site.free].std(axis=0).mean())
    assert spreads[1] > 1.5 * spreads[0] > 0.0
    with pytest.raises(ConfigError, match="randomised needs"):
        replace(PRESETS["posterior"], initial="encoded")


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "amortised"])
@pytest.mark.parametrize("reference_dbm", [0.0, None])
def test_the_same_seed_gives_the_same_bytes(preset, reference_dbm):
    reports, site, _ = world(count=30, reference_dbm=reference_dbm)
    estimator = method(preset, residual=PRESETS[preset].residual)
    first, second = (estimator.estimate(reports, site, seed=5) for _ in range(2))
    assert first.maps_dbm.tobytes() == second.maps_dbm.tobytes()
    assert first.log_weight.tobytes() == second.log_weight.tobytes()
    assert first.spread_db.tobytes() == second.spread_db.tobytes()
    assert first.trace is not None
    assert len(first.trace.stopped_by) == estimator.config.starts


def test_another_seed_is_another_start():
    reports, site, _ = world()
    estimator = method("as_published", starts=1)
    first, second = (estimator.estimate(reports, site, seed=seed) for seed in (0, 1))
    assert not np.array_equal(first.maps_dbm, second.maps_dbm)


@pytest.mark.parametrize("preset", ["quick", "as_published"])
@pytest.mark.parametrize("reference_dbm", [-10.0, None])
def test_walls_hold_the_floor_and_the_map_stays_on_the_scale(preset, reference_dbm):
    reports, site, _ = world(reference_dbm=reference_dbm)
    posterior = method(preset).estimate(reports, site, seed=0)
    walls = posterior.maps_dbm[:, ~site.free]
    assert len(np.unique(walls)) == 1
    np.testing.assert_array_equal(posterior.spread_db[:, ~site.free], 0.0)
    assert (posterior.spread_db[:, site.free] > 0.0).all()
    if reference_dbm is not None:
        assert walls[0, 0] == reference_dbm + SCALE.min_db
        assert posterior.maps_dbm.min() >= reference_dbm + SCALE.min_db
        assert posterior.maps_dbm.max() <= reference_dbm + SCALE.max_db


def test_the_best_iterate_is_returned_not_the_last():
    reports, site, _ = world()
    estimator = method(rate=3.0, iterations=8)  # far too long a step
    posterior = estimator.estimate(reports, site, seed=0)
    assert posterior.trace is not None
    loss = posterior.trace.values["loss"]
    assert (loss.min(axis=0) < loss[-1]).any()
    best = loss.min(axis=0)
    expected = -(best - best.min()) / estimator.config.temperature
    np.testing.assert_allclose(posterior.log_weight, expected, atol=1e-6)
    untouched = method(rate=3.0, iterations=0).estimate(reports, site, seed=0)
    assert untouched.trace is not None
    np.testing.assert_array_equal(untouched.trace.values["loss"][0], loss[0])
    worse = loss.argmin(axis=0) == 0  # where no step helped, the start itself comes back
    np.testing.assert_array_equal(posterior.maps_dbm[worse], untouched.maps_dbm[worse])


def test_descent_lowers_the_loss():
    reports, site, _ = world()
    posterior = method("as_published", iterations=20).estimate(reports, site, seed=0)
    assert posterior.trace is not None
    loss = posterior.trace.values["loss"]
    assert (loss.min(axis=0) < loss[0]).all()


@pytest.mark.parametrize(
    ("options", "rule", "steps"),
    [
        ({"iterations": 3}, "cap", 4),
        ({"iterations": 20, "patience": 2, "plateau": 1e3}, "plateau", 5),
        ({"iterations": 20, "discrepancy": True}, "discrepancy", 1),
    ],
)
def test_the_trace_tells_what_was_done(options, rule, steps):
    reports, site, _ = world()
    if rule == "discrepancy":
        reports = replace(reports, noise_db=np.full(len(reports), 1e3))
    trace = method(**options).estimate(reports, site, seed=0).trace
    assert trace is not None
    assert trace.stopped_by == (rule, rule)
    assert set(trace.values) == {"loss", "discrepancy"}
    for curve in trace.values.values():
        assert curve.shape == (steps, 2)
        assert np.isfinite(curve).all()


def test_progress_is_told():
    reports, site, _ = world()
    seen = []
    estimator = replace(method(), progress=lambda done, most: seen.append((done, most)))
    estimator.estimate(reports, site, seed=0)
    assert seen == [(k, 4) for k in range(5)]


@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_checkpoints_change_no_gradient(solver):
    reports, site, _ = world()
    plain, saving = (
        method("thorough", solver=solver, steps=3, checkpoint=flag).estimate(reports, site, seed=0)
        for flag in (False, True)
    )
    np.testing.assert_allclose(saving.maps_dbm, plain.maps_dbm, atol=1e-3)
    assert plain.trace is not None
    assert saving.trace is not None
    np.testing.assert_allclose(saving.trace.values["loss"], plain.trace.values["loss"], rtol=1e-5)


@pytest.mark.parametrize("term", ["naive", "blur", "paper", "moment", "mixture"])
@pytest.mark.parametrize("prior", ["gaussian", "chi", "none"])
def test_every_data_term_goes_with_every_seed_prior(term, prior):
    reports, site, _ = world(count=30)
    options = {"data_term": term, "z_prior": prior, "starts": 1, "iterations": 2}
    posterior = method("as_published", **options).estimate(reports, site, seed=0)
    assert posterior.trace is not None
    assert np.isfinite(posterior.trace.values["loss"]).all()


@pytest.mark.parametrize("shape", [(50, 70), (33, 64)])
@pytest.mark.parametrize("preset", ["quick", "as_published"])
def test_any_size_of_map_is_welcome(preset, shape):
    reports, site, _ = world(*shape, count=40)
    posterior = method(preset, residual=preset == "quick").estimate(reports, site, seed=0)
    assert posterior.maps_dbm.shape[1:] == shape
    assert np.isfinite(posterior.mean_dbm()).all()


def test_reports_in_walls_without_drift_are_left_out():
    reports, site, _ = world(drift_m=0.0)
    walls = site.grid.centres_m()[~site.free][:5]
    more = Reports(
        np.concatenate([reports.reported_m, walls]),
        np.concatenate([reports.power_dbm, np.full(5, -20.0)]),
        np.concatenate([reports.noise_db, np.full(5, 1.0)]),
        np.concatenate([reports.drift_cov_m2, np.zeros((5, 2, 2))]),
        reports.reference_dbm,
    )
    estimator = method(residual=True, starts=1)
    first, second = (estimator.estimate(r, site, seed=0) for r in (reports, more))
    assert first.maps_dbm.tobytes() == second.maps_dbm.tobytes()


def test_estimating_leaves_the_weights_alone():
    reports, site, _ = world(count=30)
    network = random_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    method("as_published", network=network).estimate(reports, site, seed=0)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert network.training and all(p.requires_grad for p in network.parameters())


def test_too_few_reports_are_refused():
    reports, site, _ = world()
    with pytest.raises(ReportsError, match="needs 3"):
        method().estimate(reports.select(np.arange(2)), site, seed=0)


def test_reports_off_the_map_are_too_few():
    reports, site, _ = world()
    away = replace(reports, reported_m=reports.reported_m + 1e4)
    with pytest.raises(ReportsError, match="only 0 of 80"):
        method().estimate(away, site, seed=0)


def test_without_a_network_it_says_where_to_get_one():
    reports, site, _ = world()
    with pytest.raises(ConfigError, match="load_estimator"):
        RadioDiffInv2.from_preset("quick").estimate(reports, site, seed=0)


def test_without_a_belief_about_the_unknowns_it_cannot_search():
    reports, site, _ = world()
    with pytest.raises(ConfigError, match="term_prior"):
        replace(method(), term_prior=None).estimate(reports, site, seed=0)


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(ConfigError, match="quick, thorough, amortised, posterior, as_published"):
        RadioDiffInv2.from_preset("best")


def test_an_unknown_setting_is_refused():
    with pytest.raises(ConfigError, match="no such setting"):
        method().with_options(magic=True)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("steps", 0),
        ("starts", 0),
        ("places", 1),
        ("rate", 0.0),
        ("temperature", -1.0),
        ("data_temperature", float("nan")),
        ("inverted_share", 1.5),
    ],
)
def test_a_setting_out_of_its_range_is_refused_by_name(option, value):
    with pytest.raises(ConfigError, match=option):
        method().with_options(**{option: value})


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_inverted_maps_take_their_share(share):
    reports, site, _ = world(count=40)
    options = {"starts": 2, "places": 2, "residual": True, "path_loss": False}
    posterior = method(**options, inverted_share=share).estimate(reports, site, seed=0)
    last = posterior.weight[-2:] if share else np.zeros(2)
    np.testing.assert_allclose(last, share / 2.0, atol=5e-3)


def test_where_the_prior_is_wrong_the_reports_win():
    reports, site, _ = world(count=300, noise_db=1.0)
    east = site.grid.centres_m()[..., 0]
    truth = -100.0 + 12.0 * np.sin(east / 6.0)
    cell = site.grid.cell(reports.reported_m)
    wavy = replace(reports, power_dbm=truth[cell[:, 0], cell[:, 1]])
    posterior = method(network=known_network(), residual=True).estimate(wavy, site, seed=0)
    assert rms((posterior.mean_dbm() - truth)[site.free]) < 3.0


def test_reports_beyond_all_numbers_end_in_a_clear_error():
    reports, site, _ = world(count=30)
    wild = replace(reports, power_dbm=np.where(np.arange(30) == 3, 1e200, reports.power_dbm))
    with pytest.raises(ReportsError, match="not a number"):
        method(transmitter="agnostic").estimate(wild, site, seed=0)


def test_without_a_supposed_transmitter_the_process_still_takes_up_the_rest():
    reports, site, truth = world(count=200)
    options = {"network": known_network(), "transmitter": "agnostic"}
    bare = method(**options).estimate(reports, site, seed=0)
    helped = method(residual=True, **options).estimate(reports, site, seed=0)
    errors = [rms((one.mean_dbm() - truth)[site.free]) for one in (bare, helped)]
    assert errors[1] < errors[0]
