import numpy as np
import pytest

from hertzmap.datasets import campus


@pytest.fixture(scope="module")
def data():
    return campus.read_campus()


def test_all_reports_are_there_with_what_is_assumed(data):
    assert len(data.reports) == 827
    assert data.reports.reference_dbm is None
    assert np.all(data.reports.noise_db == campus.NOISE_DB)
    assert np.all(data.reports.drift_cov_m2 == 9.0 * np.eye(2))
    assert data.reports.power_dbm.min() >= campus.FLOOR_DBM


def test_the_grid_holds_every_place_with_its_margin(data):
    grid = data.site.grid
    west, south, east, north = grid.bounds_m
    low, high = data.reports.reported_m.min(axis=0), data.reports.reported_m.max(axis=0)
    assert grid.spacing_m == 2.0
    assert 60.0 <= low[0] - west < 62.0
    assert 60.0 <= low[1] - south < 62.0
    assert 60.0 <= east - high[0] < 62.0
    assert 60.0 <= north - high[1] < 62.0
    assert 0.5 < data.site.free.mean() < 0.9
    span = high - low  # stated with the data: 242 x 489 m, along other axes than UTM's
    np.testing.assert_allclose(span, [242.0, 489.0], atol=5.0)


def test_places_are_further_apart_than_their_radius(data):
    gap = np.linalg.norm(data.reports.reported_m[:, None] - data.reports.reported_m, axis=-1)
    apart = data.place[:, None] != data.place
    assert gap[apart].min() > campus.PLACE_RADIUS_M
    same = np.unique(data.reports.reported_m, axis=0, return_inverse=True)[1].ravel()
    for place in np.unique(same):
        assert len(np.unique(data.place[same == place])) == 1


def test_cells_come_by_number_of_reports(data):
    assert data.cells[:4] == (7, 40, 20, 6)
    reports, place = data.of_cell(7)
    assert len(reports) == len(place) == 273
    assert set(reports.cell_id) == {7}
