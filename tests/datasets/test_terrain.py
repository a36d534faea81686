import numpy as np
import pytest
import shapely

from hertzmap.core.errors import DataError, SceneError
from hertzmap.core.types import Scene
from hertzmap.datasets.terrain import read_dem
from hertzmap.scenes.frame import to_lonlat

rasterio = pytest.importorskip("rasterio")
CRS, ORIGIN = "EPSG:32632", (478_541.0, 5_473_092.0)
HOUSE = Scene(
    (shapely.box(-10, -10, 10, 10),),
    np.array([8.0]),
    ("height",),
    ("way/1",),
    (-60.0, -40.0, 60.0, 40.0),
    CRS,
    ORIGIN,
)


def write_dem(path, heights, west, north, spacing, *, crs=CRS, nodata=None, units=None):
    """Heights with row 0 north, as a GeoTIFF."""
    profile = {
        "driver": "GTiff",
        "width": heights.shape[1],
        "height": heights.shape[0],
        "count": 1,
        "dtype": "float32",
        "crs": crs,
        "transform": rasterio.Affine(spacing, 0, west, 0, -spacing, north),
        "nodata": nodata,
    }
    with rasterio.open(path, "w", **profile) as file:
        file.write(heights.astype(np.float32), 1)
        if units:
            file.units = (units,)
    return path


def plane(places):
    """A hillside: 100 m at the origin, up 0.02 to the east and 0.05 to the north."""
    return 100.0 + 0.02 * places[..., 0] + 0.05 * places[..., 1]


def hillside(path, spacing=5.0, half=400.0, **others):
    steps = np.arange(-half + spacing / 2, half, spacing)
    east, north = np.meshgrid(steps, steps[::-1])
    heights = plane(np.stack([east, north], axis=-1))
    return write_dem(path, heights, ORIGIN[0] - half, ORIGIN[1] + half, spacing, **others)


def test_row_0_is_south_inside(tmp_path):
    # a hill in the north-west of the file's picture
    heights = np.zeros((40, 40))
    heights[:20, :20] = 50.0
    path = write_dem(tmp_path / "dem.tif", heights, ORIGIN[0] - 200, ORIGIN[1] + 200, 10.0)
    terrain = read_dem(path, HOUSE)
    assert terrain.up_m[-1, 0] == 50.0 and terrain.up_m[0, 0] == 0.0
    assert terrain.up_m[-1, -1] == 0.0 and terrain.up_m[0, -1] == 0.0
    places = np.array([[-50.0, 40.0], [50.0, 40.0], [-50.0, -40.0]])
    np.testing.assert_allclose(terrain.up_at(places), [50.0, 0.0, 0.0])


def test_heights_come_back_where_they_were_measured(tmp_path):
    terrain = read_dem(hillside(tmp_path / "dem.tif"), HOUSE, spacing_m=7.0, datum_m=90.0)
    places = np.random.default_rng(2).uniform((-100, -80), (100, 80), (50, 2))
    np.testing.assert_allclose(terrain.up_at(places), plane(places) - 90.0, atol=0.01)
    assert terrain.datum_m == 90.0 and terrain.source == "dem.tif"
    west, south, east, north = terrain.bounds_m
    assert west <= -110 and south <= -90 and east >= 110 and north >= 90


def test_the_lowest_ground_is_up_0_to_the_metre(tmp_path):
    terrain = read_dem(hillside(tmp_path / "dem.tif"), HOUSE)
    assert terrain.datum_m == np.floor(terrain.datum_m)
    assert 0.0 <= terrain.up_m.min() < 1.0


def test_a_dem_in_degrees_is_turned_into_the_frame(tmp_path):
    corners = to_lonlat(HOUSE, np.array([[-300.0, -300.0], [300.0, 300.0]]))
    step = 3e-5
    lon = np.arange(corners[0, 0], corners[1, 0], step) + step / 2
    lat = np.arange(corners[0, 1], corners[1, 1], step)[::-1] + step / 2
    heights = 1e4 * (lat[:, None] - corners[0, 1]) + 0.0 * lon
    path = write_dem(
        tmp_path / "dem.tif", heights, corners[0, 0], lat[0] + step / 2, step, crs="EPSG:4326"
    )
    terrain = read_dem(path, HOUSE, datum_m=0.0)
    places = np.array([[0.0, 0.0], [40.0, -30.0], [-50.0, 35.0]])
    wanted = 1e4 * (to_lonlat(HOUSE, places)[:, 1] - corners[0, 1])
    np.testing.assert_allclose(terrain.up_at(places), wanted, atol=0.02)


def test_what_cannot_be_used_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read as a DEM .*GeoTIFF of heights"):
        read_dem(tmp_path / "none.tif", HOUSE)
    with pytest.raises(DataError, match=r"no heights for .*%.* smaller part"):
        read_dem(hillside(tmp_path / "small.tif", half=80.0), HOUSE)
    with pytest.raises(DataError, match=r"in foot; give a DEM in metres"):
        read_dem(hillside(tmp_path / "feet.tif", units="foot"), HOUSE)
    with pytest.raises(DataError, match="a spacing above 0 m"):
        read_dem(hillside(tmp_path / "dem.tif"), HOUSE, spacing_m=0.0)
    local = Scene(HOUSE.footprints, HOUSE.height_m, ("x",), ("a",), HOUSE.bounds_m)
    with pytest.raises(SceneError, match="synthetic"):
        read_dem(tmp_path / "dem.tif", local)


def test_holes_are_holes(tmp_path):
    heights = np.full((80, 80), 7.0)
    heights[38:42, 38:42] = -9999.0
    path = write_dem(
        tmp_path / "dem.tif", heights, ORIGIN[0] - 400, ORIGIN[1] + 400, 10.0, nodata=-9999.0
    )
    with pytest.raises(DataError, match="without holes"):
        read_dem(path, HOUSE)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_dem_without_a_place_is_refused(tmp_path):
    path = hillside(tmp_path / "dem.tif", crs=None)
    with pytest.raises(DataError, match="has no CRS"):
        read_dem(path, HOUSE)
