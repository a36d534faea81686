import dataclasses

import numpy as np
import pytest

from hertzmap.benchmarks import worlds
from hertzmap.benchmarks.worlds import WorldKey
from hertzmap.core.errors import DataError
from hertzmap.core.grid import Grid
from hertzmap.datasets import splits


def test_truth_comes_from_a_grid_twice_as_fine(world):
    truth = world.truth
    assert truth.fine_grid == truth.grid.refine(2)
    assert not truth.same_operator
    assert np.array_equal(truth.free, world.site.free)


def test_the_same_key_gives_the_same_world_and_another_map_another(scene, world):
    again = worlds.world_of(world.key, scene, Grid(32, 32))
    assert np.array_equal(again.scored_db, world.scored_db)
    other = worlds.world_of(WorldKey("cities", "heidelberg", 1), scene, Grid(32, 32))
    assert other.truth.transmitter != world.truth.transmitter
    assert other.truth.parameters != world.truth.parameters


def test_most_free_cells_are_above_the_floor(world):
    lit = world.scored_db[world.site.free] > -147.0
    assert lit.mean() >= worlds.LEAST_SERVED


def test_a_dark_draw_is_drawn_again_and_too_many_are_an_error(scene, monkeypatch):
    calls = []

    def dark_twice(world):
        calls.append(world.truth.transmitter)
        return 1.0 if len(calls) == 3 else 0.1

    monkeypatch.setattr(worlds, "_served", dark_twice)
    key = WorldKey("cities", "baltimore", 0)
    kept = worlds.world_of(key, scene, Grid(32, 32))
    assert kept.truth.transmitter == calls[2] != calls[0]
    monkeypatch.setattr(worlds, "_served", lambda _: 0.0)
    with pytest.raises(DataError, match="TRUTH_VERSION"):
        worlds.world_of(key, scene, Grid(32, 32))


def test_a_cached_world_is_the_one_that_was_made(world, tmp_path, monkeypatch):
    monkeypatch.setenv("HERTZMAP_CACHE", str(tmp_path))
    monkeypatch.setattr(worlds, "make_city_world", lambda _: world)
    made = worlds.load(world.key)
    monkeypatch.setattr(worlds, "make_city_world", None)
    read = worlds.load(world.key)
    assert made is world
    assert np.array_equal(read.scored_db, world.scored_db)
    assert np.array_equal(read.site.height_m, world.site.height_m)
    for field in dataclasses.fields(world.truth):
        ours, theirs = getattr(read.truth, field.name), getattr(world.truth, field.name)
        same = np.array_equal(ours, theirs) if isinstance(ours, np.ndarray) else ours == theirs
        assert same, field.name


def test_a_damaged_cache_file_is_named(world, tmp_path, monkeypatch):
    monkeypatch.setenv("HERTZMAP_CACHE", str(tmp_path))
    monkeypatch.setattr(worlds, "make_city_world", lambda _: world)
    worlds.load(world.key)
    (path,) = (tmp_path / "truths").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="delete it"):
        worlds.load(world.key)


def test_every_city_comes_before_any_second_map():
    keys = worlds.city_keys(splits.TEST, 2)
    assert [key.place for key in keys[:6]] == list(splits.TEST)
    assert len({key.address for key in keys}) == 12


def test_radiomapseer_maps_keep_their_lit_walls_in_what_is_scored():
    keys = worlds.radiomapseer_keys()
    assert len(keys) == 10
    world = worlds.load(keys[0])
    assert world.truth.same_operator
    lit = (world.scored_db > -147.0)[~world.site.free].mean()
    assert lit == pytest.approx(0.055, abs=0.01)
    assert (world.truth.path_gain_db[~world.site.free] == -147.0).all()
    assert np.allclose(world.scored_db[world.site.free], world.truth.path_gain_db[world.site.free])


def test_flags_of_the_inverse_crime():
    assert worlds.flags("cities")["same_engine"]
    assert worlds.flags("radiomapseer") == {
        "same_engine": False,
        "same_operator": True,
        "same_environment": True,
    }
