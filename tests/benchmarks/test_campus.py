from dataclasses import replace

import numpy as np
import pytest

from hertzmap.benchmarks import campus, methods
from hertzmap.benchmarks.maps import Contestant
from hertzmap.benchmarks.runlog import RunLog
from hertzmap.core.grid import Grid
from hertzmap.core.posteriors import MapPosterior
from hertzmap.core.types import Reports, SceneRaster
from hertzmap.datasets.campus import Campus
from hertzmap.scenes.synthetic import city

CONFIG = campus.CampusConfig(shares=(0.25, 0.8), repeats=2, cells=2)


def small_campus():
    """Two radio cells with the same twelve places each, two or three reports a place."""
    draw = np.random.default_rng(0)
    grid = Grid(24, 24, 2.0)
    site = SceneRaster(grid, np.zeros(grid.shape), np.ones(grid.shape, bool))
    place = np.repeat(np.arange(12), 3)[:-1]
    spot = draw.uniform(4.0, 44.0, (12, 2))[place]
    count = len(place)
    power = -70.0 - 0.8 * np.linalg.norm(spot, axis=1) + draw.standard_normal(count)
    reports = Reports(
        np.concatenate([spot, spot]),
        np.concatenate([power, power - 10.0]),
        np.full(2 * count, 3.0),
        np.tile(np.eye(2), (2 * count, 1, 1)),
        None,
        np.repeat(np.array([5, 9]), count),
    )
    return Campus(city(0), site, reports, np.concatenate([place, place]))


def test_splits_are_whole_places_and_the_same_each_time():
    data = small_campus()
    first, second = campus.splits(data, CONFIG), campus.splits(data, CONFIG)
    assert len(first) == 2 * 2 * 2
    for split, again in zip(first, second, strict=True):
        _, place = data.of_cell(split.cell)
        assert np.array_equal(split.known, again.known)
        assert not set(place[split.known]) & set(place[~split.known])
        assert len(np.unique(place[split.known])) == round(split.share * 12)
    more = campus.splits(data, replace(CONFIG, repeats=3))
    assert all(np.array_equal(a.known, b.known) for a, b in zip(first, more, strict=False))


def test_a_perfect_map_scores_its_noise_only():
    data = small_campus()
    reports, place = data.of_cell(5)
    still = replace(reports, drift_cov_m2=np.zeros((len(reports), 2, 2)))
    flat = replace(still, power_dbm=np.where(place == 0, -83.0, -80.0))
    grid = data.site.grid
    flat_map = np.full((1, *grid.shape), -80.0)
    posterior = MapPosterior(grid, flat_map, np.zeros(1), np.ones((1, *grid.shape)))
    scores = campus.score(posterior, data.site, flat, place)
    assert scores["rmse_db"] == pytest.approx(np.sqrt(9.0 * 3 / 35))
    assert scores["rmse_place_db"] == pytest.approx(np.sqrt(9.0 / 12))
    assert scores["coverage95"] == 1.0


def test_it_resumes_and_aggregates(tmp_path):
    data = small_campus()
    names = ("kriging:tuned", "nearest:default")
    contestants = [Contestant(name, methods.build(name)) for name in names]
    planned, log = campus.splits(data, CONFIG), RunLog(tmp_path / "rsrp.jsonl")
    digest = campus._splits_hash(CONFIG)
    campus.run_splits(data, planned[:3], contestants, log, digest)
    assert len(log.read()) == 6
    campus.run_splits(data, planned, contestants, log, digest)
    runs = log.read()
    assert len(runs) == 16
    campus.run_splits(data, planned, contestants, log, digest)
    assert len(log.read()) == 16
    result = campus.aggregate(CONFIG, runs)
    assert result.methods() == names
    row = result.row("kriging:tuned", "rmse_db@80")
    assert row is not None
    assert row.n == 2
    single = [result.row("kriging:tuned", f"rmse_db@80/pci{pci}") for pci in (5, 9)]
    assert row.mean == pytest.approx(np.mean([one.mean for one in single if one]))
    gap = result.difference("nearest:default", "kriging:tuned", "rmse_db@80")
    other = result.row("nearest:default", "rmse_db@80")
    assert gap is not None
    assert other is not None
    assert gap.mean == pytest.approx(other.mean - row.mean)
    assert campus.table(result, CONFIG, "Campus").row_count == 2
