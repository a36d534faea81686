import json

import numpy as np
import pandas as pd
import pytest
from shapely import get_exterior_ring, is_ccw
from shapely.geometry import box, shape

from hertzmap.core.errors import DataError, ReportsError, SceneError
from hertzmap.core.grid import Grid
from hertzmap.core.posteriors import MapPosterior
from hertzmap.core.types import Reports, Scene, SceneRaster
from hertzmap.datasets.interchange import (
    cells_by_count,
    group_places,
    read_reports,
    repeated_places,
    whole_file,
    write_geojson,
    write_geotiff,
    write_json,
    write_map,
    write_reports,
)
from hertzmap.scenes.frame import to_lonlat

rasterio = pytest.importorskip("rasterio")
ORIGIN = (478000.0, 5473000.0)  # Heidelberg in UTM zone 32


def scene_at(crs="EPSG:32632", origin=ORIGIN):
    house = box(-20.0, 10.0, 10.0, 40.0)
    bounds = (-100.0, -80.0, 100.0, 80.0)
    return Scene(
        (house,),
        np.array([12.0]),
        ("levels",),
        ("way/1",),
        bounds,
        crs,
        origin,
        name="old town",
        attribution="(c) OpenStreetMap contributors",
    )


@pytest.fixture
def scene():
    return scene_at()


@pytest.fixture
def places():
    return np.random.default_rng(1).uniform(-70.0, 70.0, (12, 2))


def table_of(scene, places, **columns):
    lonlat = to_lonlat(scene, places)
    content = {"lon": lonlat[:, 0], "lat": lonlat[:, 1], "rsrp_dbm": np.linspace(-120, -70, 12)}
    return pd.DataFrame(content | columns)


def saved(tmp_path, table, name="reports.csv"):
    path = tmp_path / name
    table.to_parquet(path) if name.endswith("parquet") else table.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("name", ["reports.csv", "reports.csv.gz", "reports.parquet"])
def test_lonlat_tables_come_back_in_local_metres(tmp_path, scene, places, name):
    path = saved(tmp_path, table_of(scene, places), name)
    reports = read_reports(path, scene, noise_db=3.0, drift_std_m=2.0)
    np.testing.assert_allclose(reports.reported_m, places, atol=1e-3)
    assert reports.power_dbm[-1] == -70.0 and (reports.noise_db == 3.0).all()
    np.testing.assert_array_equal(reports.drift_cov_m2[4], 4.0 * np.eye(2))


def test_local_tables_and_tables_in_another_crs_agree(tmp_path, scene, places):
    from pyproj import Transformer

    value = {"power_dbm": np.full(12, -90.0)}
    local = pd.DataFrame({"east_m": places[:, 0], "north_m": places[:, 1]} | value)
    away = Transformer.from_crs("EPSG:32632", "EPSG:3035", always_xy=True)
    east, north = away.transform(*(places + ORIGIN).T)
    other = pd.DataFrame({"east_m": east, "north_m": north} | value)
    first = read_reports(saved(tmp_path, local), scene)
    second = read_reports(saved(tmp_path, other), scene, crs="EPSG:3035")
    np.testing.assert_allclose(first.reported_m, places)
    np.testing.assert_allclose(second.reported_m, places, atol=1e-3)


def test_stated_uncertainty_and_names_are_kept(tmp_path, scene, places):
    table = table_of(
        scene,
        places,
        noise_db=5.0,
        drift_cov_ee_m2=9.0,
        drift_cov_en_m2=1.0,
        drift_cov_nn_m2=4.0,
        pci=[7] * 8 + [40] * 4,
        device_id=3,
        time_s=np.arange(12.0),
    )
    reports = read_reports(saved(tmp_path, table), scene, cell=7, reference_dbm=15.0)
    assert len(reports) == 8 and reports.reference_dbm == 15.0
    np.testing.assert_array_equal(reports.drift_cov_m2[0], [[9.0, 1.0], [1.0, 4.0]])
    assert reports.cell_id is not None and (reports.cell_id == 7).all()
    assert reports.time_s is not None and reports.time_s[-1] == 7.0
    assert reports.device_id is not None and (reports.device_id == 3).all()
    everyone = read_reports(saved(tmp_path, table), scene)
    assert cells_by_count(everyone) == {7: 8, 40: 4}


@pytest.mark.parametrize("name", ["again.csv", "again.parquet"])
@pytest.mark.parametrize("crs", ["EPSG:32632", "LOCAL"])
def test_written_reports_are_read_back(tmp_path, places, name, crs):
    scene = scene_at(crs)
    cov = np.tile([[4.0, 1.5], [1.5, 9.0]], (12, 1, 1))
    reports = Reports(
        places, np.linspace(-99, -60, 12), np.full(12, 2.5), cov, cell_id=np.full(12, 7)
    )
    write_reports(tmp_path / name, reports, scene)
    again = read_reports(tmp_path / name, scene)
    np.testing.assert_allclose(again.reported_m, places, atol=1e-6)
    np.testing.assert_allclose(again.drift_cov_m2, cov)
    np.testing.assert_allclose(again.power_dbm, reports.power_dbm)
    np.testing.assert_array_equal(again.cell_id, reports.cell_id)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="rsrp_dbm"), r"power column.*rss_dbm.*holds lon, lat$"),
        (lambda t: t.drop(columns="lat"), r"no places.*east_m, north_m.*holds lon, rsrp_dbm"),
        (lambda t: t.assign(rss_dbm=1.0), r"several power columns \(rsrp_dbm, rss_dbm\)"),
        (lambda t: t.assign(rsrp_dbm=[np.nan] * 7 + [-9.0] * 5), r"rows 1, 2, 3, 4, 5 and 2 more"),
        (lambda t: t.assign(lat=["north", *t.lat[1:]]), r"lat is empty .* data row 1 \("),
        (lambda t: t.assign(noise_db=-1.0), "noise_db is negative"),
        (lambda t: t.assign(drift_std_m=[-1.0] + [1.0] * 11), r"drift_std_m is negative in .* 1 "),
        (lambda t: t.assign(drift_cov_ee_m2=1.0), "whole drift covariance"),
        (
            lambda t: t.assign(
                drift_cov_ee_m2=1.0, drift_cov_en_m2=5.0, drift_cov_nn_m2=[2.0] * 11 + [30.0]
            ),
            "semi-definite in data rows 1, 2, 3, 4, 5 and 6 more",
        ),
        (
            lambda t: t.assign(
                drift_cov_ee_m2=1.0, drift_cov_en_m2=0.0, drift_cov_nn_m2=1.0, drift_std_m=1.0
            ),
            "keep one of them",
        ),
        (lambda t: t.assign(pci=1.5), "pci is not a whole number"),
        (lambda t: t.rename(columns={"lon": "lat", "lat": "lon"}), "lon and lat look swapped"),
        (lambda t: t.assign(lon=t.lon + 1000.0), "metres belong in east_m"),
        (lambda t: t.iloc[:3], "3 usable reports are too few"),
        (lambda t: t.iloc[:0], "0 usable reports are too few"),
    ],
)
def test_tables_that_cannot_be_used_say_why(tmp_path, scene, places, change, message):
    path = saved(tmp_path, change(table_of(scene, places)))
    with pytest.raises(ReportsError, match=message):
        read_reports(path, scene)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1e-9] * 3 + [-90.0] * 9, "3 of 12 values .* milliwatts .* mixed with plausible dBm"),
        ([1e-8] * 12, "12 of 12 values of rsrp_dbm look like milliwatts"),
        ([90.0] + [-90.0] * 11, "lost minus sign"),
        ([-1000.0] * 2 + [-90.0] * 10, "tenths of dBm"),
    ],
)
def test_mixed_units_are_refused(tmp_path, scene, places, values, message):
    path = saved(tmp_path, table_of(scene, places, rsrp_dbm=values))
    with pytest.raises(ReportsError, match=message):
        read_reports(path, scene)


def test_loud_noise_explains_odd_powers(tmp_path, scene, places):
    table = table_of(scene, places, rsrp_dbm=[35.0] + [-90.0] * 11, noise_db=32.0)
    assert len(read_reports(saved(tmp_path, table), scene)) == 12


def test_reports_outside_the_map_are_counted_or_dropped(tmp_path, scene, places):
    places[2], places[5] = (150.0, 0.0), (0.0, -200.0)
    path = saved(tmp_path, table_of(scene, places))
    expected = r"2 of 12 reports .* up to 120 m away .*east -100 to 100 m.*lon 8\.69.* rows 3, 6 "
    with pytest.raises(ReportsError, match=expected):
        read_reports(path, scene)
    assert len(read_reports(path, scene, outside="drop")) == 10
    with pytest.raises(ReportsError, match=r"10 usable reports \(2 lie outside the map\)"):
        read_reports(path, scene, outside="drop", minimum=11)


def test_degrees_and_foreign_coordinates_in_metre_columns_are_refused(tmp_path, scene, places):
    value = {"rss_dbm": np.full(12, -90.0)}
    lonlat = to_lonlat(scene, places)
    degrees = pd.DataFrame({"east_m": lonlat[:, 0], "north_m": lonlat[:, 1]} | value)
    with pytest.raises(ReportsError, match="as degrees would"):
        read_reports(saved(tmp_path, degrees), scene)
    east, north = (places + ORIGIN).T
    with pytest.raises(ReportsError, match="are EPSG:32632 coordinates"):
        read_reports(
            saved(tmp_path, pd.DataFrame({"east_m": east, "north_m": north} | value)), scene
        )


@pytest.mark.parametrize(
    ("crs", "message"), [("EPSG:4326", "counts in degree"), ("EPSG:2263", "counts in US survey")]
)
def test_a_crs_without_metres_is_refused(tmp_path, places, crs, message):
    scene = scene_at()
    path = saved(tmp_path, table_of(scene, places))
    with pytest.raises(ReportsError, match=message):
        read_reports(path, scene_at(crs))
    local = pd.DataFrame({"east_m": places[:, 0], "north_m": places[:, 1], "rss_dbm": -90.0})
    with pytest.raises(ReportsError, match=message):
        read_reports(saved(tmp_path, local), scene, crs=crs)
    with pytest.raises(SceneError, match=message):
        write_geotiff(tmp_path / "x.tif", {"a": np.zeros((2, 2))}, Grid(2, 2), scene_at(crs))


def test_an_unknown_crs_is_refused(tmp_path, scene, places):
    local = pd.DataFrame({"east_m": places[:, 0], "north_m": places[:, 1], "rss_dbm": -90.0})
    with pytest.raises(ReportsError, match="'EPSG:1' is not known"):
        read_reports(saved(tmp_path, local), scene, crs="EPSG:1")


def test_a_scene_nowhere_on_earth_takes_metres_only(tmp_path, scene, places):
    path = saved(tmp_path, table_of(scene, places))
    with pytest.raises(ReportsError, match="give east_m, north_m"):
        read_reports(path, scene_at("LOCAL"))


def test_broken_files_are_refused(tmp_path, scene):
    path = tmp_path / "reports.csv"
    with pytest.raises(ReportsError, match="there is no report table"):
        read_reports(path, scene)
    path.write_text("")
    with pytest.raises(ReportsError, match="is empty"):
        read_reports(path, scene)
    path.write_text("lon,lat,rsrp_dbm\n1,2,3\n1,2,3,4\n")
    with pytest.raises(ReportsError, match="line 3"):
        read_reports(path, scene)
    path.write_text("lon,lat,rsrp_dbm\n1,2,3,4\n1,2,3,4\n")
    with pytest.raises(ReportsError, match="more fields than the first line"):
        read_reports(path, scene)
    path.write_text("lon;lat;rsrp_dbm\n1;2;3\n")
    with pytest.raises(ReportsError, match="separate the columns by commas"):
        read_reports(path, scene)
    path.write_bytes(b"\xff\xfe\x00lon")
    with pytest.raises(ReportsError, match="no readable table"):
        read_reports(path, scene)
    (tmp_path / "reports.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(ReportsError, match="no readable table"):
        read_reports(tmp_path / "reports.parquet", scene)
    (tmp_path / "reports.csv.gz").write_bytes(b"not gzip")
    with pytest.raises(ReportsError, match="no readable table"):
        read_reports(tmp_path / "reports.csv.gz", scene)
    (tmp_path / "reports.xlsx").write_bytes(b"PK")
    with pytest.raises(ReportsError, match=r"read from \.csv"):
        read_reports(tmp_path / "reports.xlsx", scene)


def test_a_cell_that_is_not_there_lists_those_that_are(tmp_path, scene, places):
    path = saved(tmp_path, table_of(scene, places, pci=[7] * 9 + [40] * 3))
    with pytest.raises(ReportsError, match=r"no report of cell 8; cells \(reports\): 7 \(9\), 40"):
        read_reports(path, scene, cell=8)
    with pytest.raises(ReportsError, match="3 usable reports of cell 40 are too few"):
        read_reports(path, scene, cell=40)
    with pytest.raises(ReportsError, match="cell column"):
        read_reports(saved(tmp_path, table_of(scene, places)), scene, cell=8)


def test_a_bad_assumption_is_refused(tmp_path, scene, places):
    path = saved(tmp_path, table_of(scene, places))
    with pytest.raises(ReportsError, match="states no noise_db"):
        read_reports(path, scene, noise_db=-1.0)


def test_repeated_places_are_allowed_and_counted(tmp_path, scene, places):
    places[3:6] = places[0]
    reports = read_reports(saved(tmp_path, table_of(scene, places)), scene)
    assert len(reports) == 12 and repeated_places(reports) == 3


def test_places_are_chains_of_near_reports():
    places = np.array([[0.0, 0.0], [4.0, 0.0], [8.0, 0.0], [20.0, 0.0], [20.0, 0.0], [0.0, 6.0]])
    number = group_places(places)
    assert number[0] == number[1] == number[2]
    assert number[3] == number[4] and len(set(number.tolist())) == 3


def test_a_marker_keeps_its_place_in_a_geotiff(tmp_path, scene):
    grid = Grid(5, 8, 2.0, (-6.0, 10.0))
    values = np.full(grid.shape, -100.0)
    values[0, 1] = -50.0  # the southern row, second column
    free = np.ones(grid.shape, bool)
    free[4, 7] = False  # the north-eastern corner is indoors
    path = tmp_path / "out" / "map.tif"
    write_geotiff(path, {"power_dbm": values}, grid, scene, free=free)
    with rasterio.open(path) as file:
        band = file.read(1)
        assert file.crs.to_epsg() == 32632 and file.descriptions == ("power_dbm",)
        assert "OpenStreetMap" in file.tags()["ATTRIBUTION"]
        assert band[4, 1] == -50.0 and np.isnan(band[0, 7]) and np.isnan(file.nodata)
        marker = grid.place(np.array([0.0, 1.0])) + ORIGIN
        assert file.index(*marker) == (4, 1)
        assert next(file.sample([tuple(marker)]))[0] == -50.0
        west, south, east, north = grid.bounds_m
        expected = (west + ORIGIN[0], south + ORIGIN[1], east + ORIGIN[0], north + ORIGIN[1])
        assert tuple(file.bounds) == pytest.approx(expected)


def test_a_posterior_becomes_three_bands(tmp_path, scene):
    grid = Grid(3, 4, 1.0)
    site = SceneRaster(grid, np.zeros(grid.shape), np.ones(grid.shape, bool))
    mean, std = np.full((1, 3, 4), -90.0), np.full((1, 3, 4), 5.0)
    posterior = MapPosterior(grid, mean, np.zeros(1), std)
    write_map(tmp_path / "map.tif", posterior, site, scene, threshold_dbm=-90.0)
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.descriptions == ("mean_dbm", "std_db", "probability_above_-90_dbm")
        np.testing.assert_allclose(file.read()[:, 0, 0], [-90.0, 5.0, 0.5])


def test_a_local_scene_gives_a_plain_geotiff_and_no_geojson(tmp_path):
    scene = scene_at("LOCAL", (0.0, 0.0))
    write_geotiff(tmp_path / "map.tif", {"a": np.zeros((2, 3))}, Grid(2, 3, 1.0, (5.0, 7.0)), scene)
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.crs is None and file.bounds.left == 5.0 and file.bounds.top == 9.0
    with pytest.raises(SceneError, match="GeoJSON is lon/lat only"):
        write_geojson(tmp_path / "map.geojson", scene)


def test_geojson_holds_footprints_and_reports_in_degrees(tmp_path, scene, places):
    reports = Reports(
        places, np.full(12, -80.0), np.ones(12), np.zeros((12, 2, 2)), cell_id=np.full(12, 4)
    )
    write_geojson(tmp_path / "map.geojson", scene, reports=reports)
    content = json.loads((tmp_path / "map.geojson").read_text())
    house, first = content["features"][0], content["features"][1]
    assert house["properties"] == {"kind": "building", "height_m": 12.0, "height_rule": "levels"}
    outline = shape(house["geometry"])
    lonlat = to_lonlat(scene, np.array([[-20.0, 10.0], [10.0, 40.0]]))
    assert outline.bounds == pytest.approx(tuple(lonlat.ravel()), abs=1e-5)
    assert is_ccw(get_exterior_ring(outline))
    assert first["geometry"]["coordinates"] == pytest.approx(to_lonlat(scene, places)[0].tolist())
    assert first["properties"]["cell_id"] == 4 and len(content["features"]) == 13
    assert content["attribution"] == "(c) OpenStreetMap contributors"


def test_files_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with whole_file(path) as partial:
        partial.write_text("first")
    with pytest.raises(ZeroDivisionError), whole_file(path) as partial:
        partial.write_text("half of the sec")
        raise ZeroDivisionError
    assert path.read_text() == "first" and list(path.parent.iterdir()) == [path]
    with pytest.raises(DataError, match="cannot write"), whole_file(path / "below.txt"):
        pass


def test_reports_are_written_as_csv_or_parquet_only(tmp_path, scene, places):
    reports = Reports(places, np.full(12, -80.0), np.ones(12), np.zeros((12, 2, 2)))
    with pytest.raises(DataError, match=r"not reports\.txt"):
        write_reports(tmp_path / "reports.txt", reports, scene)


def test_json_holds_no_number_that_json_lacks(tmp_path):
    write_json(tmp_path / "a.json", {"a": (1.5, float("nan")), "b": {"c": float("inf")}})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1.5, None], "b": {"c": None}}
