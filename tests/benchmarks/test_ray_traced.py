"""Ray-traced truths: made, shipped, read as worlds, and scored where they are known."""

import dataclasses
import sys

import numpy as np
import pytest
import shapely

from hertzmap.benchmarks import maps, methods, ray_traced, worlds
from hertzmap.benchmarks.calibration import place, scores
from hertzmap.benchmarks.maps import Contestant
from hertzmap.benchmarks.ray_traced import Plan
from hertzmap.benchmarks.runlog import RunLog
from hertzmap.benchmarks.tables import load_cell
from hertzmap.benchmarks.worlds import WorldKey
from hertzmap.core.errors import DataError, MissingExtraError
from hertzmap.core.grid import Grid
from hertzmap.core.types import RadioMap, Scene
from hertzmap.datasets import raytraced, splits
from hertzmap.datasets.raytraced import RayTraced
from hertzmap.propagation import sionna_rt
from hertzmap.propagation.dominant_path import Environment
from hertzmap.propagation.parameters import PropagationParameters
from hertzmap.propagation.ray_budget import RayBudget, SionnaConfig
from hertzmap.scenes.raster import window

CELL = load_cell("ray-traced")


@pytest.fixture
def traced(world):
    """The tiny world with a third of its cells in the dark."""
    gain_db, free = world.truth.path_gain_db, world.site.free
    valid = free & (gain_db > np.quantile(gain_db[free], 1 / 3))
    radio_map = RadioMap(
        world.site.grid,
        np.where(valid, gain_db, np.nan)[None],
        valid[None],
        (world.truth.transmitter,),
        los=valid[None],
    )
    return RayTraced("heidelberg", 0, world.site, radio_map, {"rays": 1})


@pytest.fixture
def dark(traced, monkeypatch):
    """Every ray-traced map is the tiny one; no ray tracer is installed."""
    for name in ("sionna", "sionna.rt", "mitsuba", "drjit"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(
        raytraced,
        "load",
        lambda extract, index: dataclasses.replace(traced, extract=extract, index=index),
    )
    return worlds.load(WorldKey("ray-traced", "heidelberg", 0))


def test_methods_see_the_whole_site_and_reports_stand_where_a_path_is(dark, traced, world):
    assert np.array_equal(dark.site.free, world.site.free)
    assert dark.truth.same_operator
    assert np.array_equal(dark.truth.free, traced.radio_map.valid[0])
    reports = maps.draw_reports(CELL, dark, 0)
    row, col = dark.site.grid.cell(reports.reported_m).T
    assert dark.truth.free[row, col].all() and len(reports)
    assert worlds.flags("ray-traced") == {
        "same_engine": False,
        "same_operator": True,
        "same_environment": False,
    }


def test_cells_without_a_path_are_not_scored(dark):
    estimate = methods.build("nearest:default")
    reports = maps.draw_reports(CELL, dark, 0)
    posterior = estimate.estimate(reports, dark.site, seed=0)
    unknown = dark.site.free & ~dark.truth.free
    assert unknown.any()
    elsewhere = dataclasses.replace(dark, scored_db=dark.scored_db + 30.0 * unknown)
    found, other = (maps.score(posterior, one, reports, 0.0) for one in (dark, elsewhere))
    assert found == other
    assert not [name for name in found if name.startswith("paper_")]
    known = dataclasses.replace(dark, scored_db=dark.scored_db + 3.0 * dark.truth.free)
    assert maps.score(posterior, known, reports, 0.0)["rmse_db"] != found["rmse_db"]


def test_usual_truths_are_known_and_scored_on_all_free_cells(scene):
    keys = (WorldKey("cities", "heidelberg", 0, variant) for variant in worlds.VARIANTS)
    usual = [worlds.world_of(key, scene, Grid(32, 32)) for key in keys]
    for one in (*usual, worlds.load(worlds.radiomapseer_keys()[0])):
        assert np.array_equal(one.truth.free, one.site.free)


def test_the_case_runs_end_to_end_without_a_ray_tracer(dark, tmp_path):
    del dark
    log = RunLog(tmp_path / "a.jsonl")
    keys = maps.world_keys(CELL, "test")
    assert [key.place for key in keys] == list(splits.TEST)
    names = ["nearest:default", "idw:tuned"]
    contestants = [Contestant(name, methods.build(name)) for name in names]
    maps.run_cell(CELL, keys[:2], (0,), contestants, log)
    found = maps.aggregate(CELL, log.read(), "test", len(keys))
    assert found.header["runs"] == dict.fromkeys(names, 2)
    assert found.header["same_engine"] is False and found.header["same_operator"] is True
    assert found.row("idw:tuned", "psnr_db") and not found.row("idw:tuned", "paper_psnr_db")


def test_the_case_chooses_nothing(tmp_path):
    assert maps.run(["ray-traced"], tmp_path, split="validation") == ()
    for name in ("test", "validation"):
        cities = dataclasses.replace(
            CELL.cities, **{name: () if name == "test" else ("mumbai_worli",)}
        )
        with pytest.raises(ValueError, match="test cities alone"):
            dataclasses.replace(CELL, cities=cities)


def test_street_and_roof_take_turns_and_calibration_cities_are_no_test_cities():
    test, training = ray_traced.plans(("test",), 2), ray_traced.plans(("training",))
    assert len({(plan.extract, plan.street) for plan in test}) == 12
    assert len({(plan.extract, plan.index) for plan in training}) == len(training)
    assert not {plan.extract for plan in training} & set(splits.HELD_OUT)
    assert sum(plan.street for plan in training) == len(training) / 2
    assert len({plan.extract for plan in training}) >= 3


def test_maps_that_are_there_are_not_made_again(tmp_path, traced, monkeypatch):
    made = []

    def make(plan):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(plan)
        return dataclasses.replace(traced, extract=plan.extract, index=plan.index)

    monkeypatch.setattr(ray_traced, "make", make)
    with pytest.raises(KeyboardInterrupt):
        ray_traced.run(tmp_path, parts=("test",))
    assert len(list(tmp_path.iterdir())) == 2
    first = made.copy()
    made.clear()
    monkeypatch.setattr(ray_traced, "plans", lambda *_: ray_traced_plans[:3])
    written = ray_traced.run(tmp_path, parts=("test",))
    assert [plan.extract for plan in made] == [ray_traced_plans[2].extract]
    assert len(written) == 3 and first == list(ray_traced_plans[:2])


ray_traced_plans = ray_traced.plans(("test",))


def test_law_14_in_sight_the_model_agrees_with_ray_tracing():
    """A few decibels at most: walls and ground reflect in the tracer alone."""
    traced = raytraced.load("heidelberg", 0)
    tile = traced.site.grid
    scene = window(splits.load_extract("heidelberg"), tile, ray_traced.MARGIN_M)
    environment = Environment.prepare(scene, tile, margin_m=ray_traced.MARGIN_M)
    found = scores([place(traced, environment)], PropagationParameters())
    assert 0.0 <= found["los_bias_db"] <= 3.0
    assert found["los_std_db"] <= 3.0
    assert found["reached"] > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["paths", "rays"])
def test_a_map_is_traced_where_the_antenna_was_drawn(kind, monkeypatch):
    try:
        sionna_rt.sionna()
    except MissingExtraError as error:
        pytest.skip(str(error))
    blocks = (shapely.box(-40, 6, 40, 16), shapely.box(-40, -16, 40, -6))
    canyon = Scene(
        blocks,
        np.array([15.0, 15.0]),
        ("height",) * 2,
        ("way/1", "way/2"),
        (-40.0, -20.0, 40.0, 20.0),
    )
    monkeypatch.setattr(ray_traced, "SEEDS", 3)
    budget = RayBudget(20_000 if kind == "rays" else 1000, False)
    config = SionnaConfig(depth=1, path_map=budget, radio_map=budget, max_paths=20_000)
    tile = Grid(32, 32, 1.0, (-16.0, -16.0))
    plan = Plan("geneva", 0, 0, True, 4, kind)
    found = ray_traced.trace(plan, canyon, tile, config)
    again = ray_traced.trace(plan, canyon, tile, config)
    assert found.radio_map.grid.shape == (8, 8) and found.made["kind"] == kind
    assert found.transmitter == again.transmitter and found.made == again.made
    gains = found.radio_map.path_gain_db, again.radio_map.path_gain_db
    np.testing.assert_allclose(*gains, rtol=1e-5)
    assert found.lit_share >= ray_traced.LEAST_LIT
    east, north, _ = found.transmitter.place_m
    row, col = tile.cell(np.array([east, north]))
    assert ~np.any(shapely.contains_xy(np.array(blocks), east, north)) and 0 <= row < 32 > col
    monkeypatch.setattr(ray_traced, "LEAST_LIT", 1.1)
    monkeypatch.setattr(ray_traced, "_MOST_DRAWS", 2)
    with pytest.raises(DataError, match="dark"):
        ray_traced.trace(plan, canyon, tile, config)


def test_cells_near_a_lit_judged_cell_are_traced():
    lit = np.zeros((8, 6), bool)
    lit[3, 2] = True
    near = ray_traced.near_lit(lit, 1, Grid(64, 48))
    row, col = np.nonzero(near)
    assert (row.min(), row.max(), col.min(), col.max()) == (12, 35, 4, 27)
    half = ray_traced.near_lit(lit, 2, Grid(32, 24, 2.0, (-0.5, -0.5)))
    assert np.array_equal(half, near[::2, ::2])
    assert ray_traced.near_lit(~np.zeros_like(lit), 1, Grid(64, 48)).all()
