"""Ray-traced maps as files: what is written is read, what is shipped is whole and small."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest

from hertzmap.core.errors import DataError
from hertzmap.core.grid import Grid
from hertzmap.core.types import AntennaPattern, RadioMap, SceneRaster, Transmitter
from hertzmap.datasets import raytraced, remote, splits
from hertzmap.datasets.raytraced import RayTraced, every

TILE = Grid(12, 17, 1.0, (100.5, -3.0))
GRID = Grid(6, 9, 2.0, (100.0, -3.5))


@pytest.fixture
def traced():
    draw = np.random.default_rng(2)
    free = draw.random(TILE.shape) < 0.8
    valid = free[::2, ::2] & (draw.random(GRID.shape) < 0.6)
    gain_db = np.where(valid, draw.uniform(-150.0, -50.0, GRID.shape), np.nan)
    height_m = np.where(free, 0.0, draw.uniform(3.0, 90.0, TILE.shape))
    los = valid & (draw.random(GRID.shape) < 0.5)
    station = Transmitter(
        (104.0, 1.0, 9.0), 2.1e9, AntennaPattern("sector"), 0.4, 0.1, name="toy/3"
    )
    return RayTraced(
        "toy",
        3,
        SceneRaster(TILE, height_m, free),
        RadioMap(GRID, gain_db[None], valid[None], (station,), los=los[None]),
        {"rays": 7, "antenna": "street"},
    )


def test_what_is_written_is_read(traced, tmp_path):
    path = tmp_path / "new" / "toy-3.npz"
    raytraced.write(path, traced)
    read = raytraced.read(path)
    for name in ("extract", "index", "step", "transmitter", "made"):
        assert getattr(read, name) == getattr(traced, name)
    assert (read.radio_map.grid, read.site.grid, read.step) == (GRID, TILE, 2)
    np.testing.assert_array_equal(read.radio_map.valid, traced.radio_map.valid)
    np.testing.assert_array_equal(read.radio_map.los, traced.radio_map.los)
    np.testing.assert_array_equal(read.site.free, traced.site.free)
    np.testing.assert_allclose(read.site.height_m, traced.site.height_m, atol=0.0051)
    np.testing.assert_allclose(
        read.radio_map.path_gain_db, traced.radio_map.path_gain_db, atol=0.0051
    )
    assert [path.name for path in path.parent.iterdir()] == ["toy-3.npz"]
    before = path.read_bytes()
    raytraced.write(path, read)
    assert path.read_bytes() == before


def test_a_file_of_another_orientation_is_refused(traced, tmp_path):
    path = tmp_path / "toy-3.npz"
    raytraced.write(path, traced)
    with np.load(path) as data:
        content = dict(data)
    facts = json.loads(content["facts"].tobytes()) | {"row_0": "north"}
    content["facts"] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    turned = io.BytesIO()
    np.savez(turned, **content)
    path.write_bytes(turned.getvalue())
    with pytest.raises(DataError, match="first row is north"):
        raytraced.read(path)


def test_a_damaged_or_missing_file_is_named(traced, tmp_path):
    path = tmp_path / "toy-3.npz"
    raytraced.write(path, traced)
    path.write_bytes(path.read_bytes()[:200])
    for one in (path, tmp_path / "none.npz"):
        with pytest.raises(DataError, match="bench ray-traced"):
            raytraced.read(one)


def test_paths_indoors_and_other_grids_are_refused(traced):
    walls = replace(traced.site, free=np.zeros(TILE.shape, bool))
    with pytest.raises(ValueError, match="outdoors alone"):
        replace(traced, site=walls)
    with pytest.raises(ValueError, match="line of sight"):
        replace(traced, radio_map=replace(traced.radio_map, los=None))
    with pytest.raises(ValueError, match="n-th cell"):
        replace(traced, site=replace(walls, grid=Grid(12, 17)))


def test_every_nth_cell_keeps_its_centre(traced):
    some = every(traced.site, 4)
    np.testing.assert_allclose(some.grid.centres_m(), TILE.centres_m()[::4, ::4])
    assert np.array_equal(some.height_m, traced.site.height_m[::4, ::4])
    assert every(traced.site, 1).grid == TILE


def test_between_receivers_gains_are_linear_and_known_only_among_paths(traced):
    plane_db = (-60.0 + TILE.centres_m() @ np.array([-0.4, 0.7]))[::2, ::2]
    valid = np.array(traced.radio_map.valid[0])
    radio_map = replace(traced.radio_map, path_gain_db=np.where(valid, plane_db, np.nan)[None])
    gain_db, known = replace(traced, radio_map=radio_map).on_site()
    whole_db = -60.0 + TILE.centres_m() @ np.array([-0.4, 0.7])
    np.testing.assert_allclose(gain_db[known], whole_db[known])
    assert np.array_equal(known[::2, ::2], valid)
    assert not known[~traced.site.free].any() and np.isnan(gain_db[~known]).all()
    row, col = np.nonzero(known)
    for north, east in zip(row, col, strict=True):
        around = valid[north // 2 : (north + 1) // 2 + 1, east // 2 : (east + 1) // 2 + 1]
        assert around.all()


def shipped():
    return sorted((remote.BUNDLED / raytraced.FOLDER).glob("*.npz"))


def test_the_test_cities_and_three_others_have_a_map_and_all_are_small():
    found = {raytraced.read(path).extract for path in shipped()}
    assert found >= set(splits.TEST)
    assert not found & set(splits.VALIDATION)
    assert len(found - set(splits.HELD_OUT)) >= 3
    assert sum(path.stat().st_size for path in shipped()) < 2**20
    credit = (remote.BUNDLED / raytraced.FOLDER / "LICENSE.md").read_text(encoding="utf-8")
    assert "© OpenStreetMap contributors" in credit and "ODbL" in credit


def traced_in_training(traced):
    return traced.extract not in splits.HELD_OUT


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_a_shipped_map_says_what_it_is(path):
    traced = raytraced.read(path)
    assert raytraced.name_of(traced.extract, traced.index) == f"{raytraced.FOLDER}/{path.name}"
    assert raytraced.name_of(traced.extract, traced.index) in raytraced.names()
    made, grid = traced.made, traced.radio_map.grid
    assert made["rays"] >= 10_000 and made["depth"] >= 3
    assert made["diffraction"] is (made["kind"] == "rays")
    assert not made["refraction"] and made["antenna"] in ("street", "roof")
    assert len(made["scene_sha256"]) == 64 and "sionna-rt" in made["versions"]
    assert "OpenStreetMap" in made["attribution"]
    assert grid.rows * grid.spacing_m == grid.cols * grid.spacing_m == 256.0
    assert traced.site.grid.shape == (256, 256) and traced.step == (
        4 if traced_in_training(traced) else 1
    )
    assert traced.lit_share > 0.2
    up_m = traced.transmitter.place_m[2]
    assert (1.5 <= up_m <= 12.0) if made["antenna"] == "street" else (12.0 <= up_m <= 35.0)


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_in_sight_a_shipped_map_is_near_free_space_where_it_says_it_stands(path):
    """A map turned or shifted against its antenna would be off by far more."""
    traced = raytraced.read(path)
    los, grid = traced.radio_map.los, traced.radio_map.grid
    assert los is not None
    if traced.transmitter.pattern.kind != "isotropic":
        pytest.skip("gain depends on direction")
    east, north, up = traced.transmitter.place_m
    flat_m = np.linalg.norm(grid.centres_m() - np.array([east, north]), axis=-1)
    length_m = np.hypot(flat_m, up - traced.made["height_m"])
    wave_m = 299_792_458.0 / traced.transmitter.carrier_hz
    friis_db = -20.0 * np.log10(4.0 * np.pi * length_m / wave_m)
    above_db = (traced.radio_map.path_gain_db[0] - friis_db)[los[0]]
    assert 0.0 < np.median(above_db) < 4.0  # other paths add power
    if traced.made["kind"] == "paths":
        assert above_db.min() > -0.1
