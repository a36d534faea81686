"""Tiles with maps and reports that agree, splits that do not leak."""

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

from hertzmap.core import kpi, layers
from hertzmap.core.errors import ConfigError
from hertzmap.core.sequences import NOT_SIMULATED
from hertzmap.datasets import executors, recipes, store
from hertzmap.datasets.mapcond_cities import (
    GUARD_M,
    MapcondConfig,
    Tile,
    contents,
    radio_cells,
    units,
    ways,
)
from hertzmap.datasets.reader import Dataset, read_sequences, read_truth
from hertzmap.datasets.splits import HELD_OUT, load_extract
from hertzmap.datasets.squares import NO_PART, PARTS
from hertzmap.measurement.sequences import EXACT
from hertzmap.scenes.raster import rasterize, window

SMALL = MapcondConfig(
    seed=3,
    validation=("karlsruhe_kirchfeld",),
    test=("heidelberg",),
    tiles=1,
    tile_cells=64,
    sites=2,
    sequences=12,
)


@pytest.fixture(scope="module")
def tiles():
    return units(SMALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("mapcond") / "dataset"
    executors.run(recipes.begin(SMALL, path), path, recipes.make)
    assert recipes.finish(path)
    return path


@pytest.fixture(scope="module")
def trained(tiles):
    """A held-out tile as if it trained, as no training city is shipped."""
    tile = replace(tiles[1], part="train")
    found = load_extract(tile.extract)
    return tile, window(found, tile.grid, SMALL.margin_m)


def test_every_shard_is_sound(folder):
    for number in (0, 1):
        assert store.shard_problems(folder, number) == []
    stack = store.open_group(folder, 0, "maps")["radio"]
    assert stack.dims == ("cells", "layers_of_maps", "rows", "cols")
    assert stack.attrs["layers"] == list(layers.RADIO) and stack.attrs["row_order"] == "south_up"
    assert stack.dtype == np.float32 and stack.shape[1:] == (5, 64, 64)
    planes = store.open_group(folder, 0, "osm")["map"]
    assert planes.attrs["planes"] == ["height", "material", "footprint", "road", "terrain"]


def test_the_city_map_agrees_with_itself(folder):
    group = store.open_group(folder, 1, "osm")
    height, material, footprint, road, terrain = group["map"].values
    free = group["free"].values
    assert np.array_equal(footprint == 1, ~free) and np.array_equal(height > 0, ~free)
    assert np.array_equal(material > 0, ~free) and not np.any((road > 0) & ~free)
    assert 0.02 < road[free].mean() < 0.9 and not terrain.any()


def test_maps_are_valid_outdoors_only(folder):
    for number in (0, 1):
        maps, free = (store.open_group(folder, number, name) for name in ("maps", "osm"))
        valid = maps["valid"].values
        assert not np.any(valid & ~free["free"].values) and valid.mean() > 0.3
        gain = maps["radio"].values[:, 0]
        assert np.all(gain[valid] < 0) and np.all(gain[~valid] == 0)
        assert not maps["filled"].values.any()


def test_reports_without_noise_are_the_map():
    """Law: at a pixel's centre a report without noise equals the map of its radio cell."""
    config = replace(SMALL, measure=EXACT, sequences=3)
    found = contents(config, units(config)[0]).layers
    rsrp, reason = found["meas/ss_rsrp"].values, found["meas/reason"]
    column = reason.attrs["keys"].index("ss_rsrp")
    present = reason.values[..., column] == 0
    place = found["truth/position"].values[..., :2]
    grid = units(config)[0].grid
    row, col = np.moveaxis(grid.cell(place), -1, 0)
    gain = found["maps/radio"].values[:, 0, row, col]
    expected = np.moveaxis(kpi.rsrp_dbm(gain, config.budget), 0, -1)
    assert present.mean() > 0.9
    # within a cell the map is read between centres: steps of at most a few dB, none on average
    gap = (rsrp - expected)[present]
    assert abs(np.median(gap)) < 0.5 and np.abs(gap).mean() < 4.0


def test_sequences_come_back(folder):
    dataset = Dataset(folder)
    index = dataset.index("city", "test")
    found = read_sequences(dataset, index[::-1])
    assert found.shape[:2] == (12, 11) and found.ue_id[0] == "ue11"
    meas = store.open_group(folder, 1, "meas")
    keys = meas["reason"].attrs["keys"]
    assert set(found.keys) == set(keys) and "ss_rsrp" in keys and "beam_id" not in keys
    missing = meas["reason"].values[::-1, ..., keys.index("ss_rsrp")] != 0
    assert np.array_equal(np.isnan(found.value["ss_rsrp"]), missing) and missing.any()
    assert len(dataset.transmitters(1)) == found.shape[2]
    truth = read_truth(dataset, index)
    assert truth["position"].shape == (12, 11, 3)


def test_batches_over_shards_are_padded_with_cells_that_are_not_simulated(folder):
    dataset = Dataset(folder)
    counts = [len(dataset.transmitters(shard)) for shard in dataset.shards]
    index = np.concatenate([dataset.index("city", part) for part in ("validation", "test")])
    values = dataset.read(index).values
    assert values["meas/ss_rsrp"].shape == (24, 11, max(counts))
    for shard, count in enumerate(counts):
        mine = values["meas/reason"][index[:, 0] == shard]
        assert np.all(mine[:, :, count:] == NOT_SIMULATED)
    assert dataset.read(index).channels is None


def test_sites_stand_where_antennas_can(tiles):
    tile = tiles[0]
    site = rasterize(window(load_extract(tile.extract), tile.grid, 100.0), tile.grid)
    cells, owner = radio_cells(replace(SMALL, sector_share=1.0), tile, site)
    assert owner == [0, 0, 0, 1, 1, 1]
    assert len({cell.name for cell in cells}) == 6
    for cell in cells:
        row, col = tile.grid.cell(np.array(cell.place_m[:2]))
        assert 10.0 <= cell.place_m[2] <= 35.0 and cell.place_m[2] > site.height_m[row, col]
        assert cell.carrier_hz == SMALL.carrier_hz and cell.pitch_rad == SMALL.tilt_rad
    turns = np.diff([cell.yaw_rad for cell in cells[:3]])
    assert np.allclose(np.mod(turns, 2 * np.pi), 2 * np.pi / 3)


def test_ways_of_different_parts_keep_their_distance(trained):
    tile, scene = trained
    found, parts = ways(replace(SMALL, sequences=60), tile, scene)
    assert NO_PART not in parts and len(set(parts.tolist())) >= 2
    for first in range(len(PARTS)):
        for second in range(first):
            mine = [way.place_m for way, part in zip(found, parts, strict=True) if part == first]
            other = [way.place_m for way, part in zip(found, parts, strict=True) if part == second]
            if mine and other:
                a, b = np.concatenate(mine), np.concatenate(other)
                assert np.linalg.norm(a[:, None] - b, axis=-1).min() >= GUARD_M


def test_no_tile_and_no_way_is_in_two_parts(folder):
    dataset = Dataset(folder)
    for split in dataset.facts["splits"]:
        rows = np.concatenate([dataset.index(split, part) for part in dataset.facts["parts"]])
        assert len(np.unique(rows, axis=0)) == len(rows)
    by_part = {
        part: {dataset.group(int(s), "osm").encoding.get("source", s) for s in
               np.unique(dataset.index("city", part)[:, 0])}
        for part in dataset.facts["parts"]
    }  # fmt: skip
    assert not by_part["validation"] & by_part["test"]
    assert len(dataset.index("trajectory", "train")) == 0  # held-out cities have no such split


def test_a_ue_does_not_depend_on_the_others(tiles):
    few = contents(replace(SMALL, sequences=2), tiles[0]).layers
    many = contents(replace(SMALL, sequences=4), tiles[0]).layers
    for name in ("truth/position", "meas/ss_rsrp", "meas/reason", "ue/time"):
        assert np.array_equal(few[name].values, many[name].values[:2])


def test_irregular_reports(tiles):
    found = contents(replace(SMALL, irregular_share=1.0, sequences=3), tiles[0]).layers
    gaps = np.diff(found["ue/time"].values, axis=1)
    assert gaps.min() >= 0.08 - 1e-9 and gaps.max() <= 0.48 + 1e-9 and gaps.std() > 0.02


@pytest.mark.parametrize(
    "wrong",
    [
        {"cities": ("heidelberg",)},
        {"test": ("geneva",)},
        {"validation": ("heidelberg",)},
        {"sites": 0},
        {"height_m": (20.0, 10.0)},
    ],
)
def test_held_out_cities_never_train(wrong):
    with pytest.raises(ConfigError):
        replace(SMALL, **wrong)


@pytest.mark.slow
def test_training_tiles_keep_clear_of_held_out_cities():
    from hertzmap.datasets.remote import extracts

    names = [name for name in extracts() if name not in HELD_OUT]
    if "geneva" not in names:
        pytest.skip("the training extracts are not at hand: set HERTZMAP_DATA")
    found = units(replace(SMALL, cities=("geneva",), tile_cells=None))
    assert [tile.part for tile in found] == ["train", "validation", "test"]
    assert found[0].grid.cols * found[0].grid.spacing_m in (512.0, 256.0)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("sionna") is None, reason="needs the extra rt")
def test_what_rays_leave_dark_is_filled_and_marked(tiles):
    config = replace(SMALL, engine="sionna", sites=1, sequences=2, sector_share=1.0)
    tile: Tile = tiles[1]
    found = contents(config, tile).layers
    plain = contents(replace(config, engine="dominant-path"), tile).layers
    filled, valid = found["maps/filled"].values, found["maps/valid"].values
    assert 0 < filled.sum() < valid.sum() and np.all(valid[filled])
    gain, other = (one["maps/radio"].values[:, 0] for one in (found, plain))
    assert np.array_equal(gain[filled], other[filled])
    lit = valid & ~filled
    assert np.median(np.abs(gain[lit] - other[lit])) < 15.0
    assert np.array_equal(valid, plain["maps/valid"].values)
