"""Best server and overlap follow from the posteriors, doubt included."""

import numpy as np
import pytest

from hertzmap.core.grid import Grid
from hertzmap.core.posteriors import MapPosterior
from hertzmap.planning.network import view_network

GRID = Grid(4, 6)


def sure(level_dbm, spread_db=0.0, grid=GRID):
    maps = np.broadcast_to(np.asarray(level_dbm, float), grid.shape)[None].copy()
    return MapPosterior(grid, maps, np.zeros(1), np.full(maps.shape, spread_db))


def test_the_strongest_serves_where_nothing_is_in_doubt():
    east = np.arange(6.0)[None] * np.ones((4, 1))
    view = view_network({"a": sure(-80.0 - 10 * east), "b": sure(-130.0 + 10 * east)}, draws=3)
    assert view.best[0].tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_allclose(view.best_probability.sum(axis=0), view.any_probability)
    np.testing.assert_allclose(view.best_dbm[0], [-80, -90, -100, -100, -90, -80])
    assert view.expected_servers[0].tolist() == [1, 1, 1, 1, 1, 1]


def test_two_alike_serve_half_of_the_draws_each():
    view = view_network({"a": sure(-90.0, 6.0), "b": sure(-90.0, 6.0)}, draws=400)
    assert view.best_probability.mean(axis=(1, 2)) == pytest.approx([0.5, 0.5], abs=0.03)


def test_below_the_threshold_nobody_serves():
    view = view_network({"a": sure(-120.0)}, threshold_dbm=-110.0, draws=2)
    assert (view.best == -1).all() and (view.any_probability == 0).all()


def test_overlap_counts_servers_within_the_margin():
    cells = {"a": sure(-80.0), "b": sure(-84.0), "c": sure(-85.5), "d": sure(-95.0)}
    view = view_network(cells, margin_db=6.0, overlapping=3, draws=2)
    assert (view.expected_servers == 3).all() and (view.overlap_probability == 1).all()


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match="at least one radio cell"):
        view_network({})
    with pytest.raises(ValueError, match="b lie on another grid"):
        view_network({"a": sure(-80.0), "b": sure(-80.0, grid=Grid(4, 5))})
    with pytest.raises(ValueError, match="overlapping >= 2"):
        view_network({"a": sure(-80.0)}, overlapping=1)
