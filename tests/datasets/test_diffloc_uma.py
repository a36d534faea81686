"""Stations on real roofs, users inside their hull, splits that do not leak."""

from dataclasses import replace

import numpy as np
import pytest
import shapely

from hertzmap.core.errors import ConfigError, SceneError
from hertzmap.datasets import recipes, store
from hertzmap.datasets.diffloc_uma import (
    AREA_GUARD_M,
    ROOF_CLEARANCE_M,
    DifflocConfig,
    UserBlock,
    area_parts,
    contents,
    layout,
    trajectory,
    units,
)
from hertzmap.datasets.reader import Dataset, read_truth
from hertzmap.datasets.squares import NO_PART

TINY = DifflocConfig(
    seed=5, users=5, fast_users=2, snapshots=3, users_per_shard=2, coverage_dbm=None
)
"""As in conftest."""


def test_stations_stand_on_roofs_or_masts_and_look_inwards():
    here = layout(TINY)
    assert len(here.stations) == 7 and len(here.zone.exterior.coords) == 8
    for station, on_roof in zip(here.stations, here.on_roof, strict=True):
        place = shapely.Point(station.place_m[:2])
        below = [
            height
            for outline, height in zip(here.scene.footprints, here.scene.height_m, strict=True)
            if outline.contains(place)
        ]
        assert bool(below) == on_roof
        assert max(below, default=0.0) <= station.place_m[2] - ROOF_CLEARANCE_M
        ahead = np.array(place.coords[0]) + 30.0 * np.array(
            [np.cos(station.yaw_rad), np.sin(station.yaw_rad)]
        )
        assert here.zone.contains(shapely.Point(ahead))


def test_users_stay_outdoors_inside_the_hull(tiny_dataset):
    here = layout(TINY)
    dataset = Dataset(tiny_dataset)
    for shard in dataset.shards:
        place = store.open_group(tiny_dataset, shard, "truth")["position"].values
        flat = place[..., :2].reshape(-1, 2)
        assert shapely.contains_xy(here.zone, *flat.T).all()
        assert not any(
            shapely.contains_xy(outline, *flat.T).any() for outline in here.scene.footprints
        )
        assert np.all(place[..., 2] == TINY.ue_height_m)


@pytest.mark.parametrize(
    ("population", "low", "high"), [("pedestrian", 1.5, 2.5), ("vehicular", 15, 25)]
)
def test_speeds_are_those_of_the_paper(population, low, high):
    for user in range(2):
        way, _ = trajectory(TINY, population, user)
        speed = np.hypot(*way.velocity_m_s.T)
        assert np.all((low <= speed) & (speed <= high)) and np.allclose(speed, speed[0])


def test_blocks_hold_every_user_once():
    config = replace(TINY, users=7, fast_users=3, users_per_shard=3)
    blocks = units(config)
    assert [(one.population[0], one.first, one.count) for one in blocks] == [
        *(("p", 0, 3), ("p", 3, 3), ("p", 6, 1), ("v", 0, 3)),
    ]


def test_a_users_channels_do_not_depend_on_the_block():
    alone = contents(TINY, UserBlock("pedestrian", 1, 1)).layers
    paired = contents(TINY, UserBlock("pedestrian", 0, 2)).layers
    assert np.array_equal(alone["truth/position"].values[0], paired["truth/position"].values[1])
    half = len(paired["rt/delay"].values) // 2
    assert np.array_equal(alone["rt/gain"].values, paired["rt/gain"].values[half:])
    assert np.array_equal(alone["split/random"].values[0], paired["split/random"].values[1])


def test_splits_are_dealt_3_1_1_and_do_not_leak(tmp_path):
    config = replace(TINY, users=20, fast_users=10, snapshots=5, users_per_shard=10)
    for item in recipes.begin(config, tmp_path):
        recipes.make(item, tmp_path)
    recipes.finish(tmp_path)
    dataset = Dataset(tmp_path)
    size = {
        split: [len(dataset.index(split, part)) for part in dataset.facts["parts"]]
        for split in dataset.facts["splits"]
    }
    assert size["random"] == [60, 20, 20] and size["user"] == [60, 20, 20]
    assert size["fast"] == [60, 20, 50] and size["fast-user"] == [30, 10, 10]
    for split in ("user", "fast-user", "fast"):
        people = [
            set(dataset.read(dataset.index(split, part)).values["ue/id"].tolist())
            for part in dataset.facts["parts"]
        ]
        assert not (people[0] & people[1] or people[0] & people[2] or people[1] & people[2])
    for split in dataset.facts["splits"]:  # no snapshot twice
        rows = np.concatenate([dataset.index(split, part) for part in dataset.facts["parts"]])
        assert len(np.unique(rows, axis=0)) == len(rows)


def test_the_area_split_keeps_training_off_test_squares():
    draw = np.random.default_rng(2)
    places = draw.uniform(-150, 150, (600, 2))
    parts = area_parts(5, places)
    assert set(parts.tolist()) == {0, 1, 2, NO_PART}
    train, test = places[parts == 0], places[parts == 2]
    gap = np.linalg.norm(train[:, None] - test, axis=-1).min()
    assert gap >= AREA_GUARD_M
    assert np.array_equal(parts[::-1], area_parts(5, places[::-1]))


def test_the_coverage_rule_is_kept_and_stored():
    config = replace(TINY, coverage_dbm=-75.0, users=2, fast_users=0)
    here = layout(config)
    way, attempts = trajectory(config, "pedestrian", 0)
    assert attempts >= 0 and here.is_covered(way.place_m)
    assert here.covered is not None and 0.0 < here.covered.mean() < 0.6
    found = contents(config, UserBlock("pedestrian", 0, 1))
    assert "-75 dBm" in found.attrs[""]["coverage_rule"]
    with pytest.raises(SceneError, match="coverage_dbm"):
        trajectory(replace(config, coverage_dbm=0.0), "pedestrian", 0)


def test_labels_are_not_in_what_methods_read(tiny_dataset):
    dataset = Dataset(tiny_dataset)
    batch = next(dataset.batches("user", "train", 3))
    place = read_truth(dataset, batch.index)["position"][:, 0]
    for values in batch.values.values():
        assert not np.isin(place, values).any()


def test_settings_that_cannot_be_are_refused():
    for wrong in ({"stations": 2}, {"users": 0, "fast_users": 0}, {"snapshots": 0}):
        with pytest.raises(ConfigError):
            replace(TINY, **wrong)
