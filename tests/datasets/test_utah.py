import numpy as np

from hertzmap.datasets.utah import read_utah


def test_fixed_receivers_become_radio_cells_without_buildings():
    found = read_utah(3)
    assert len(found.cells) == 3 and found.site.free.all()
    assert found.reports.reference_dbm is None
    west, south, east, north = found.site.grid.bounds_m
    size = np.array([east - west, north - south])
    assert (size > 2000).all() and (size < 4500).all()
    assert all(300 < len(found.of_cell(cell)[0]) <= 1200 for cell in found.cells)
    assert found.reports.power_dbm.min() > -140 and found.reports.power_dbm.max() < 0
