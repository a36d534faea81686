"""Training maps: a shard follows from its plan alone, is whole or absent, and knows its split."""

import logging
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

import hertzmap.datasets.generate as module
from hertzmap.core.errors import ConfigError, DataError, SceneError
from hertzmap.core.grid import Grid
from hertzmap.core.units import GreyScale
from hertzmap.datasets import splits
from hertzmap.datasets.generate import GenerateConfig, generate, plan, read_shard
from hertzmap.datasets.remote import BUNDLED, ENVIRONMENT_VARIABLE
from hertzmap.datasets.splits import HELD_OUT, TEST, VALIDATION, Site
from hertzmap.scenes.raster import rasterize
from hertzmap.scenes.synthetic import city

SMALL = GenerateConfig(
    seed=7, transmitters=2, margin_m=16.0, tiles_per_extract=2, coarse_tiles_per_extract=1
)


@pytest.fixture
def toys(monkeypatch):
    """Two toy extracts in place of the world; returns the extracts that were loaded."""
    loaded = []

    def load(name):
        loaded.append(name)
        return city({"toy_a": 1, "toy_b": 2}.get(name, 3), size_m=96.0, buildings=9)

    def grids(spacing_m):
        side = round(32 / spacing_m)
        west = (-40.0, 8.0) if spacing_m == 1.0 else (-16.0,)
        return tuple(Grid(side, side, spacing_m, (w, -16.0)) for w in west)

    def training(*, size_m, spacing_m):
        assert size_m == 256.0 * spacing_m
        return (Site(name, grid) for name in ("toy_a", "toy_b") for grid in grids(spacing_m))

    def evaluation(name, count, *, size_m, spacing_m):
        assert size_m == 256.0 * spacing_m
        found = grids(spacing_m)
        if count > len(found):
            msg = f"{name} has fewer"
            raise DataError(msg)
        return tuple(Site(name, grid) for grid in found[:count])

    monkeypatch.setattr(splits, "load_extract", load)
    monkeypatch.setattr(splits, "training_sites", training)
    monkeypatch.setattr(splits, "evaluation_tiles", evaluation)
    return loaded


def contents(folder):
    """Every array of every shard, as bytes."""
    found = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as data:
            found |= {(path.name, key): data[key].tobytes() for key in data.files}
    return found


@pytest.mark.usefixtures("toys")
def test_the_same_plan_gives_the_same_arrays(tmp_path):
    names = [list(generate(SMALL, tmp_path / str(n), workers=n)) for n in (1, 2)]
    assert names[0] == names[1]
    assert sorted(names[0]) == sorted(shard.name for shard in plan(SMALL))
    first, second = contents(tmp_path / "1"), contents(tmp_path / "2")
    assert first == second
    assert len({name for name, _ in first}) == 6
    assert len({value for (_, key), value in first.items() if key == "grey"}) == 6


@pytest.mark.usefixtures("toys")
def test_a_shard_does_not_depend_on_its_neighbours(tmp_path):
    list(generate(SMALL, tmp_path / "all"))
    shard = plan(SMALL)[3]
    (tmp_path / "one").mkdir()
    assert module.make(shard, splits.load_extract(shard.extract), SMALL, tmp_path / "one")
    alone = contents(tmp_path / "one")
    assert alone.items() <= contents(tmp_path / "all").items()


@pytest.mark.usefixtures("toys")
def test_more_maps_begin_with_fewer(tmp_path):
    shard = plan(SMALL)[0]
    grey = []
    for count in (1, 3):
        folder = tmp_path / str(count)
        folder.mkdir()
        module.make(
            shard, splits.load_extract(shard.extract), replace(SMALL, transmitters=count), folder
        )
        grey.append(read_shard(folder / f"{shard.name}.npz").grey)
    np.testing.assert_array_equal(grey[0][0], grey[1][0])


@pytest.mark.usefixtures("toys")
def test_another_seed_makes_other_maps(tmp_path):
    shard = plan(SMALL)[0]
    for seed in (7, 8):
        (tmp_path / str(seed)).mkdir()
        config = replace(SMALL, seed=seed)
        module.make(shard, splits.load_extract(shard.extract), config, tmp_path / str(seed))
    first, second = (read_shard(tmp_path / s / f"{shard.name}.npz") for s in ("7", "8"))
    np.testing.assert_array_equal(first.free, second.free)
    assert not np.array_equal(first.place_m, second.place_m)


def test_finished_shards_are_left_alone_and_missing_ones_made(toys, tmp_path):
    list(islice(generate(SMALL, tmp_path, workers=1), 1))
    kept = sorted(tmp_path.glob("*.npz"))
    stamps = {path: path.stat().st_mtime_ns for path in kept}
    assert 1 <= len(kept) < 6
    (tmp_path / "toy_b-0001.123.part").write_bytes(b"a killed process left this")
    names = list(generate(SMALL, tmp_path, workers=1))
    assert {path.stat().st_mtime_ns for path in kept} == set(stamps.values())
    assert len(names) == len(set(names)) == len(list(tmp_path.glob("*.npz"))) == 6
    toys.clear()
    assert set(generate(SMALL, tmp_path)) == set(names)
    assert toys == []  # nothing missing: no extract is read, not even for the plan


@pytest.mark.usefixtures("toys")
def test_a_shard_tells_its_tile(tmp_path):
    list(generate(SMALL, tmp_path))
    for item in plan(SMALL):
        shard = read_shard(tmp_path / f"{item.name}.npz")
        assert shard.grid == item.grid
        expected = rasterize(splits.load_extract(item.extract), item.grid)
        np.testing.assert_array_equal(shard.free, expected.free)
        assert shard.grey.dtype == np.uint8
        assert shard.grey.shape == (2, *item.grid.shape)
        assert shard.place_m.shape == (2, 3)
        assert not shard.grey[:, ~shard.free].any()
        assert ((shard.grey[:, shard.free] > 0).mean(axis=1) >= module.LEAST_LIT_SHARE - 0.02).all()
        assert len(np.unique(shard.grey)) > 20


@pytest.mark.usefixtures("toys")
def test_grey_is_the_gain_of_the_stated_parameters(tmp_path):
    """The facts in a shard are enough to know how loud a street in sight may be."""
    shard = plan(SMALL)[0]
    module.make(shard, splits.load_extract(shard.extract), SMALL, tmp_path)
    read = read_shard(tmp_path / f"{shard.name}.npz")
    gain_db = GreyScale().to_db(read.grey / 255.0)
    assert gain_db.max() <= GreyScale().max_db
    assert gain_db[:, read.free].max() > -110.0


@pytest.mark.usefixtures("toys")
def test_training_and_validation_plans_share_no_city():
    validation = plan(replace(SMALL, split="validation"))
    assert {shard.extract for shard in validation} == set(VALIDATION)
    assert not {shard.extract for shard in validation} & set(TEST)
    training = plan(SMALL)
    assert not {shard.extract for shard in training} & set(HELD_OUT)
    counts = [sum(s.extract == name for s in validation) for name in VALIDATION]
    assert counts == [3, 3, 3, 3]  # as many as there are where fewer than asked


@pytest.mark.usefixtures("toys")
def test_names_are_distinct_and_fine_tiles_come_first():
    shards = plan(SMALL)
    assert len({shard.name for shard in shards}) == len(shards)
    spacings = [shard.grid.spacing_m for shard in shards]
    assert spacings == sorted(spacings)
    assert all((shard.number >= 1000) == (shard.grid.spacing_m > 1.0) for shard in shards)


@pytest.mark.usefixtures("toys")
def test_no_coarse_tiles_when_none_are_asked_for():
    shards = plan(replace(SMALL, coarse_tiles_per_extract=0))
    assert {shard.grid.spacing_m for shard in shards} == {1.0}


@pytest.mark.usefixtures("toys")
def test_a_folder_of_another_config_is_refused(tmp_path):
    list(generate(replace(SMALL, tiles_per_extract=1), tmp_path))
    with pytest.raises(ConfigError, match="tiles_per_extract"):
        list(generate(SMALL, tmp_path))


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "picture", "flipped"])
@pytest.mark.usefixtures("toys")
def test_a_damaged_shard_is_named(tmp_path, damage):
    shard = plan(SMALL)[0]
    module.make(shard, splits.load_extract(shard.extract), SMALL, tmp_path)
    path = tmp_path / f"{shard.name}.npz"
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(
        {
            "truncated": whole[:middle],
            "empty": b"",
            "text": b"not a shard",
            "picture": b"\x89PNG" + whole,
            "flipped": whole[:middle] + bytes(64) + whole[middle + 64 :],
        }[damage]
    )
    with pytest.raises(DataError, match=r"toy_a-0000\.npz is damaged .* delete it"):
        read_shard(path)


def test_an_archive_of_something_else_is_named(tmp_path):
    np.savez(tmp_path / "other.npz", grey=np.zeros(3, np.uint8))
    with pytest.raises(DataError, match="damaged"):
        read_shard(tmp_path / "other.npz")


@pytest.mark.usefixtures("toys")
def test_a_tile_without_a_usable_map_is_left_out_and_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "LEAST_LIT_SHARE", 2.0)
    shard = plan(SMALL)[0]
    with caplog.at_level(logging.WARNING):
        assert not module.make(shard, splits.load_extract(shard.extract), SMALL, tmp_path)
    assert not list(tmp_path.iterdir())
    assert shard.name in caplog.text


@pytest.mark.usefixtures("toys")
def test_a_tile_that_cannot_be_made_does_not_stop_the_others(tmp_path, monkeypatch, caplog):
    prepare = module.Environment.prepare

    def sometimes(scene, grid, *, margin_m):
        if grid.origin_m[0] > 0:
            msg = "no building in sight"
            raise SceneError(msg)
        return prepare(scene, grid, margin_m=margin_m)

    monkeypatch.setattr(module.Environment, "prepare", sometimes)
    with caplog.at_level(logging.WARNING):
        list(generate(SMALL, tmp_path))
    assert len(list(tmp_path.glob("*.npz"))) == 4
    assert "no building in sight" in caplog.text


def test_the_bundled_data_cannot_train(monkeypatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(BUNDLED))
    with pytest.raises(DataError, match="no training extract is at hand"):
        plan(GenerateConfig())
