import subprocess
import sys

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from hertzmap.core.grid import Grid
from hertzmap.core.posteriors import MapPosterior
from hertzmap.core.units import GreyScale
from hertzmap.metrics import maps

SCALE = GreyScale(min_db=-100.0, max_db=0.0)


def posterior(map_dbm, spread_db=1.0):
    grid = Grid(*map_dbm.shape)
    return MapPosterior(grid, map_dbm[None], np.zeros(1), np.full((1, *grid.shape), spread_db))


def picture(seed=0, shape=(16, 16)):
    return np.random.default_rng(seed).uniform(-90.0, -10.0, shape)


def test_hand_computed_values():
    truth = np.full((16, 16), -60.0)  # grey 0.4
    free = np.ones((16, 16), bool)
    estimate = truth + 10.0  # grey 0.5
    scores = maps.score_map(posterior(estimate), truth, free, reference_dbm=0.0, scale=SCALE)
    assert scores["psnr_db"] == pytest.approx(20.0)  # squared error 0.01
    assert scores["nmse"] == pytest.approx(0.01 / 0.16)
    assert scores["rmse_db"] == pytest.approx(10.0)
    assert scores["mae_db"] == pytest.approx(10.0)
    luminance = (2.0 * 0.4 * 0.5 + 1e-4) / (0.16 + 0.25 + 1e-4)  # flat: no contrast, no structure
    assert scores["ssim"] == pytest.approx(luminance)
    assert scores["coverage95"] == 0.0


def test_identical_maps_are_perfect():
    truth, free = picture(), np.ones((16, 16), bool)
    scores = maps.score_map(posterior(truth, 0.0), truth, free, reference_dbm=0.0, scale=SCALE)
    assert scores["ssim"] == pytest.approx(1.0)
    assert scores["paper_ssim"] == pytest.approx(1.0)
    assert scores["psnr_db"] == pytest.approx(120.0)
    assert scores["nmse"] == pytest.approx(0.0, abs=1e-12)
    assert scores["rmse_db"] == pytest.approx(0.0, abs=1e-9)
    assert scores["crps_db"] == pytest.approx(0.0, abs=1e-9)


def test_buildings_change_the_whole_picture_but_not_the_free_cells():
    truth, estimate = picture(1), picture(2)
    free = np.ones((16, 16), bool)
    free[4:9, 4:9] = False

    def score(floor_cells):
        seen = np.where(floor_cells, -100.0, estimate)
        real = np.where(floor_cells, -100.0, truth)
        return maps.score_map(posterior(seen), real, free, reference_dbm=0.0, scale=SCALE)

    without, walls = score(np.zeros_like(free)), score(~free)
    for name in ("psnr_db", "nmse", "mae_db", "ssim", "crps_db", "coverage80"):
        assert without[name] == pytest.approx(walls[name])
    assert walls["paper_psnr_db"] > without["paper_psnr_db"]


def test_lit_wall_pixels_count_in_the_paper_protocol_only():
    truth = np.full((16, 16), -50.0)
    free = np.ones((16, 16), bool)
    free[5:8, 5:8] = False
    dark = np.where(free, truth, -100.0)
    scores = maps.score_map(posterior(dark, 0.0), truth, free, reference_dbm=0.0, scale=SCALE)
    assert scores["psnr_db"] == pytest.approx(120.0)
    assert scores["paper_psnr_db"] == pytest.approx(-10.0 * np.log10(0.25 * 9 / 256))


def test_the_reference_power_drops_out():
    truth, estimate, free = picture(1), picture(2), np.ones((16, 16), bool)
    plain = maps.score_map(posterior(estimate), truth, free, reference_dbm=0.0, scale=SCALE)
    moved = maps.score_map(
        posterior(estimate + 17.0), truth + 17.0, free, reference_dbm=17.0, scale=SCALE
    )
    assert moved == pytest.approx(plain)


def test_cells_without_a_route_count_as_the_floor():
    truth = np.full((8, 8), -50.0)
    truth[0, 0], truth[0, 1] = -np.inf, -130.0
    estimate = np.where(np.isfinite(truth) & (truth > -100.0), truth, -100.0)
    free = np.ones((8, 8), bool)
    scores = maps.score_map(posterior(estimate, 0.0), truth, free, reference_dbm=0.0, scale=SCALE)
    assert scores["rmse_db"] == 0.0


def test_the_paper_protocol_is_scikit_image():
    truth = np.random.default_rng(0).uniform(0.2, 0.8, (20, 24))
    estimate = np.random.default_rng(1).uniform(0.2, 0.8, (20, 24))
    found = maps.paper_protocol(truth, estimate)
    expected = structural_similarity(truth, estimate, data_range=1.0)
    assert found["paper_ssim"] == pytest.approx(expected)


def test_minmax_hides_an_offset():
    truth = np.random.default_rng(0).uniform(0.2, 0.8, (20, 24))
    plain = maps.paper_protocol(truth, truth + 0.1)
    stretched = maps.paper_protocol(truth, truth + 0.1, minmax=True)
    assert plain["paper_psnr_db"] == pytest.approx(20.0)
    assert stretched["paper_psnr_db"] > 45.0


def test_honest_spread_covers_and_a_mixture_is_judged_as_one():
    draw = np.random.default_rng(5)
    grid, free = Grid(60, 60), np.ones((60, 60), bool)
    truth = np.full(grid.shape, -50.0)
    estimate = truth + 3.0 * draw.standard_normal(grid.shape)
    honest = MapPosterior(grid, estimate[None], np.zeros(1), np.full((1, 60, 60), 3.0))
    scores = maps.score_map(honest, truth, free, reference_dbm=0.0, scale=SCALE)
    for level in (50, 80, 90, 95):
        assert scores[f"coverage{level}"] == pytest.approx(level / 100, abs=0.03)
    assert scores["width90_db"] == pytest.approx(2 * 1.6449 * 3.0, rel=1e-3)
    twice = MapPosterior(grid, np.stack([estimate] * 2), np.zeros(2), np.full((2, 60, 60), 3.0))
    assert maps.score_map(twice, truth, free, reference_dbm=0.0, scale=SCALE) == pytest.approx(
        scores, abs=0.02
    )


def test_left_out_reports_are_judged_with_their_noise():
    power = np.array([-80.0, -90.0])
    means = np.array([[-83.0, -86.0]])
    scores = maps.score_points(power, np.full(2, 4.0), means, np.full((1, 2), 3.0), np.ones(1))
    assert scores["rmse_db"] == pytest.approx(np.sqrt(12.5))
    assert scores["mae_db"] == pytest.approx(3.5)
    assert scores["width90_db"] == pytest.approx(2 * 1.64485 * 5.0, rel=1e-4)
    assert scores["coverage50"] == 0.5  # half width 3.37 dB


def test_strata_are_free_and_what_they_say():
    grid, free = Grid(30, 30), np.ones((30, 30), bool)
    free[10:14, 10:14] = False
    los = np.zeros((30, 30), bool)
    los[:5] = True
    reports = np.array([[2.5, 2.5]])
    masks = maps.strata(grid, free, transmitter_m=(25.5, 25.5), los=los, reported_m=reports)
    assert not any((mask & ~free).any() for mask in masks.values())
    assert masks["near_wall"][10, 9]
    assert masks["near_wall"][10, 7]
    assert not masks["near_wall"][10, 6]
    assert masks["near_transmitter"][25, 25]
    assert not masks["near_transmitter"][2, 2]
    assert (masks["los"] | masks["nlos"])[free].all()
    rings = sum(mask.astype(int) for name, mask in masks.items() if name.startswith("report_"))
    assert np.array_equal(rings, free.astype(int))
    errors = maps.rmse_by_stratum(np.ones((30, 30)), np.zeros((30, 30)), masks)
    assert set(errors.values()) == {1.0}


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="differ"):
        maps.score_map(
            posterior(picture()), picture(shape=(8, 8)), np.ones((8, 8), bool), reference_dbm=0.0
        )
    with pytest.raises(ValueError, match="no cell is free"):
        maps.score_map(posterior(picture()), picture(), np.zeros((16, 16), bool), reference_dbm=0.0)


def test_metrics_need_no_torch():
    code = "import sys, hertzmap.metrics.maps; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
