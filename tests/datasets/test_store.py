"""Shards are whole or absent, say what they hold, and every flipped byte is found."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from hertzmap.core.channels import gathered
from hertzmap.core.errors import DataError
from hertzmap.core.types import AntennaPattern, Transmitter
from hertzmap.datasets import layouts, store
from hertzmap.datasets.store import Contents, Layer
from hertzmap.propagation.scatter import ScatterConfig, ScatterWorld

PLAN = {"config": {"seed": 1}, "number": 0, "unit": {"first": 0}}
STATIONS = (
    Transmitter((0.0, 10.0, 25.0), 3.6e9, AntennaPattern("sector"), yaw_rad=0.3, name="a"),
    Transmitter((50.0, -10.0, 20.0), 3.6e9, name="b"),
    Transmitter(
        (5.0, 60.0, 25.0), 3.6e9, AntennaPattern("table", (0.0,) * 4, (0.0,) * 4, 2.0), name="c"
    ),
)


def ragged():
    """Channels whose links have 5, 0, 1, ... paths."""
    draw = np.random.default_rng(0)
    world = ScatterWorld(ScatterConfig(scatterers=4), seed=1)
    ue_m = draw.uniform(-50, 50, (6, 3))
    full = world.channels(STATIONS, ue_m, draw.normal(size=(6, 3)))
    keep = np.ones(len(full.delay_s), bool)
    keep[full.paths(1)] = False
    keep[full.paths(2).start + 1 : full.paths(2).stop] = False
    keep[full.paths(full.links - 1)] = False
    count = np.add.reduceat(keep, full.offset[:-1])
    names = ("gain", "delay_s", "departure_rad", "arrival_rad", "doppler_hz", "kind", "depth")
    cut = {name: getattr(full, name)[keep] for name in names}
    return replace(full, offset=np.concatenate([[0], np.cumsum(count)]), **cut)


def layers(**more):
    raster = Layer(
        np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        ("cells", "rows", "cols"),
        "dB",
        "a map",
        chunk=1,
        least=0,
        most=23,
        attrs={"row_order": "south_up"},
    )
    return {
        "maps/radio": raster,
        "truth/position": Layer(np.zeros((2, 3)), ("samples", "axes"), "m", "place"),
        **more,
    }


def write(folder, found=None, number=0):
    return store.write_shard(
        folder, number, PLAN, Contents(found or layers(), {"": {"scene_id": "toy"}}, {"links": 3})
    )


@pytest.mark.parametrize("channels", [ragged(), gathered([ragged(), ragged()])])
def test_channels_come_back(tmp_path, channels):
    cells, attrs = layouts.cell_layers(STATIONS, 43.0)
    found = {**cells, **layouts.channel_layers(channels)}
    store.write_shard(tmp_path, 0, PLAN, Contents(found, {"cells": attrs}, {}))
    group = store.open_group(tmp_path, 0, "cells")
    values = {str(name): array.values for name, array in group.variables.items()}
    stations = layouts.transmitters_of(values, group.attrs)
    assert stations == STATIONS
    values = {
        str(name): array.values
        for name, array in store.open_group(tmp_path, 0, "rt").variables.items()
    }
    back = layouts.channels_of(values, stations)
    assert np.array_equal(back.offset, channels.offset) and back.links == channels.links
    assert np.array_equal(back.delay_s, channels.delay_s)  # the carrier's phase hangs on it
    assert np.array_equal(back.kind, channels.kind) and np.array_equal(back.depth, channels.depth)
    for name in ("gain", "departure_rad", "arrival_rad", "doppler_hz"):
        np.testing.assert_allclose(getattr(back, name), getattr(channels, name), rtol=2e-7)
    np.testing.assert_allclose(back.path_gain_db, channels.path_gain_db, atol=1e-5)


def test_every_array_says_what_it_is(tmp_path):
    write(tmp_path)
    raster = store.open_group(tmp_path, 0, "maps")["radio"]
    assert raster.dims == ("cells", "rows", "cols")
    assert raster.attrs["units"] == "dB" and raster.attrs["row_order"] == "south_up"
    assert raster.encoding["chunks"] == (1, 3, 4)
    assert store.shard_problems(tmp_path, 0) == []


def test_bytes_depend_on_the_plan_alone(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b")
    files = [
        {
            file.relative_to(tmp_path / side): file.read_bytes()
            for file in (tmp_path / side).rglob("*")
            if file.is_file()
        }
        for side in "ab"
    ]
    assert files[0] == files[1]


def test_a_flipped_byte_is_found_wherever_it_is(tmp_path):
    write(tmp_path)
    path = store.shard_path(tmp_path, 0)
    for file in sorted(path.rglob("*")):
        if not file.is_file():
            continue
        whole = file.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 1):
            broken = bytearray(whole)
            broken[place] ^= 1
            file.write_bytes(bytes(broken))
            problems = store.shard_problems(tmp_path, 0)
            assert len(problems) == 1 and str(file) in problems[0]
        file.write_bytes(whole)
    assert store.shard_problems(tmp_path, 0) == []


def test_missing_and_additional_files_are_found(tmp_path):
    write(tmp_path)
    path = store.shard_path(tmp_path, 0)
    (path / "more.txt").write_text("x")
    assert "does not belong" in store.shard_problems(tmp_path, 0)[0]
    (path / "more.txt").unlink()
    shutil.rmtree(path / "truth")
    assert all("is missing" in text for text in store.shard_problems(tmp_path, 0))


def test_changed_hashes_are_found(tmp_path):
    write(tmp_path)
    facts_file = store.shard_path(tmp_path, 0, "json")
    facts = json.loads(facts_file.read_text())
    name = next(iter(facts["files_sha256"]))
    facts["files_sha256"][name] = "0" * 64
    facts_file.write_text(json.dumps(facts))
    assert any("disagree" in text for text in store.shard_problems(tmp_path, 0))


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (Layer(np.array([1.0, np.nan]), ("cells",), "dB", "gain"), "NaN"),
        (Layer(np.array([1.0, 5.0]), ("cells",), "dB", "gain", most=4), "greatest"),
        (Layer(np.array([1.0, 5.0]), ("cells",), "dB", "gain", least=2), "least"),
    ],
)
def test_bad_numbers_are_not_written(tmp_path, layer, said):
    with pytest.raises(DataError, match=said):
        write(tmp_path, {"maps/gain": layer})
    assert not store.shard_path(tmp_path, 0, "json").exists()


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"a/x": Layer(np.zeros(2), ("cells",), "", "gain")}, "no units"),
        (
            {
                "a/x": Layer(np.zeros(2), ("cells",), "1", "one"),
                "b/y": Layer(np.zeros(3), ("cells",), "1", "two"),
            },
            "3 cells, other arrays 2",
        ),
        ({"a/x": Layer(np.zeros((2, 2)), ("rows", "cols"), "1", "map")}, "row_order"),
        (
            {
                "a/offset": Layer(
                    np.array([0, 5]), ("l",), "1", "o", attrs={"offsets_of": "paths"}
                ),
                "b/x": Layer(np.zeros(4), ("paths",), "1", "p"),
                "a/w": Layer(np.zeros(4), ("paths",), "1", "p"),
            },
            "must rise from 0 to all",
        ),
    ],
)
def test_a_layout_that_misleads_is_found(tmp_path, found, said):
    write(tmp_path, found)
    assert any(said in text for text in store.shard_problems(tmp_path, 0))


def test_what_an_interrupted_run_left_is_no_shard_and_is_removed(tmp_path):
    write(tmp_path)
    expected = sorted(path.name for path in (tmp_path / "shards").iterdir())
    store.shard_path(tmp_path, 0, "json").unlink()
    assert not store.is_finished(tmp_path, 0, PLAN)
    (tmp_path / "shards" / ".00000.zarr.partial").mkdir()
    (tmp_path / "shards" / ".00000.json.partial").write_text("{")
    (store.shard_path(tmp_path, 0) / "stray").write_text("x")
    write(tmp_path)
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == expected
    assert store.shard_problems(tmp_path, 0) == []


def test_a_shard_of_another_plan_is_refused(tmp_path):
    write(tmp_path)
    assert store.is_finished(tmp_path, 0, PLAN)
    with pytest.raises(DataError, match="another plan"):
        store.is_finished(tmp_path, 0, {**PLAN, "number": 1})


def test_arrays_without_numbers_are_refused():
    with pytest.raises(ValueError, match="numbers"):
        Layer(np.array(["a"]), ("cells",), "1", "names")
    with pytest.raises(ValueError, match="numbers"):
        Layer(np.array([{}]), ("cells",), "1", "objects")
