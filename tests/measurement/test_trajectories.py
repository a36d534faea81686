"""Phones move at their speed, stay outdoors and in their zone."""

import numpy as np
import pytest
import shapely

from hertzmap.core.errors import ConfigError, SceneError
from hertzmap.core.seeds import generator
from hertzmap.core.types import Scene
from hertzmap.measurement.trajectories import (
    Ground,
    Roads,
    TrajectoryConfig,
    draw_trajectory,
    thinned,
)
from hertzmap.scenes.synthetic import city

SCENE = city(3, buildings=25)
GROUND = Ground.of(SCENE)
WALLS = shapely.union_all(list(SCENE.footprints))
MOVERS = [
    TrajectoryConfig(),
    TrajectoryConfig(road_share=0.0, duration_s=60.0, period_s=0.25),
    TrajectoryConfig(mover="vehicular", duration_s=30.0, period_s=0.1),
]


@pytest.mark.parametrize("config", MOVERS)
@pytest.mark.parametrize("index", range(5))
def test_no_mover_meets_a_wall_or_leaves_the_zone(config, index):
    found = draw_trajectory(GROUND, config, generator(1, index))
    line = shapely.LineString(found.place_m)
    if config.period_s < 1.0:  # between far apart positions the way may turn round a corner
        assert not line.intersects(WALLS)
    assert not shapely.intersects_xy(WALLS, *found.place_m.T).any()
    assert shapely.box(*SCENE.bounds_m).buffer(1e-6).covers(line)


@pytest.mark.parametrize("config", MOVERS)
def test_speed_is_one_and_within_its_range(config):
    for index in range(5):
        found = draw_trajectory(GROUND, config, generator(2, index))
        speed = np.hypot(*found.velocity_m_s.T)
        least, most = config.speeds_m_s
        assert np.ptp(speed) < 1e-9
        assert least <= speed[0] <= most
        moved = np.hypot(*np.diff(found.place_m, axis=0).T)
        assert (moved <= speed[0] * config.period_s + 1e-6).all()
        assert np.median(moved) == pytest.approx(speed[0] * config.period_s, rel=0.3)


def test_a_velocity_leads_to_the_next_position_on_a_straight():
    config = TrajectoryConfig(mover="vehicular", duration_s=1.0, period_s=0.01)
    found = draw_trajectory(GROUND, config, generator(5))
    ahead = found.place_m[:-1] + 0.01 * found.velocity_m_s[:-1]
    gap = np.hypot(*(ahead - found.place_m[1:]).T)
    assert np.median(gap) < 1e-9


def test_positions_come_at_the_period_and_the_end_counts():
    assert TrajectoryConfig().time_s.tolist() == list(range(10))
    assert TrajectoryConfig(duration_s=0.3, period_s=0.1).time_s == pytest.approx(
        [0, 0.1, 0.2, 0.3]
    )


def test_a_trajectory_belongs_to_its_address():
    config = TrajectoryConfig()
    first, again = (draw_trajectory(GROUND, config, generator(1, 4)) for _ in range(2))
    assert (first.place_m == again.place_m).all()
    other = draw_trajectory(GROUND, config, generator(1, 5))
    assert not np.allclose(first.place_m, other.place_m)


def test_roads_turn_at_junctions_and_back_at_dead_ends():
    lines = [shapely.LineString([(0, 0), (100, 0)]), shapely.LineString([(50, -50), (50, 50)])]
    roads = Roads.within(lines, shapely.box(-10, -60, 110, 60))
    assert len(roads.ends_m) == 4  # both lines are cut where they cross
    corners = roads.walk(2000.0, generator(1))
    ends = {tuple(corner) for corner in corners[1:].round().astype(int).tolist()}
    assert ends == {(0, 0), (100, 0), (50, -50), (50, 50), (50, 0)}


def test_a_zone_keeps_its_movers():
    zone = shapely.Point(0, 0).buffer(60.0)
    ground = Ground.of(SCENE, zone)
    for index in range(10):
        found = draw_trajectory(ground, MOVERS[2], generator(3, index))
        assert zone.buffer(1e-6).covers(shapely.LineString(found.place_m))


def test_starts_are_even_over_free_ground():
    config = TrajectoryConfig(road_share=0.0, duration_s=0.0)
    starts = np.array(
        [draw_trajectory(GROUND, config, generator(4, k)).place_m[0] for k in range(400)]
    )
    west = float((starts[:, 0] < 0).mean())
    half = shapely.box(-128, -128, 0, 128)
    free = shapely.box(*SCENE.bounds_m).difference(WALLS)
    assert west == pytest.approx(free.intersection(half).area / free.area, abs=0.08)


def test_irregular_reports_stand_where_the_phone_was():
    config = TrajectoryConfig(duration_s=4.8, period_s=0.04)
    fine = draw_trajectory(GROUND, config, generator(6))
    found = thinned(fine, 11, (0.08, 0.48), generator(7))
    gaps = np.diff(found.time_s)
    assert found.time_s[0] == 0.0
    assert len(found.time_s) == 11
    assert (gaps > 0.08 - 0.021).all()
    assert (gaps < 0.48 + 0.021).all()
    assert np.ptp(gaps) > 0.1
    where = np.searchsorted(fine.time_s, found.time_s)
    np.testing.assert_array_equal(found.place_m, fine.place_m[where])
    with pytest.raises(ConfigError, match="draw it longer or finer"):
        thinned(fine, 12, (0.08, 0.48), generator(7))
    with pytest.raises(ConfigError, match="draw it longer or finer"):
        thinned(fine, 3, (0.01, 0.48), generator(7))


def test_what_cannot_be_is_said():
    with pytest.raises(ConfigError, match="speed_m_s"):
        TrajectoryConfig(speed_m_s=(3.0, 1.0))
    with pytest.raises(ConfigError, match="period_s"):
        TrajectoryConfig(period_s=0.0)
    with pytest.raises(ConfigError, match="road_share"):
        TrajectoryConfig(road_share=1.5)
    built = shapely.box(0, 0, 50, 50)
    inside = Scene((built,), np.array([10.0]), ("height",), ("way/1",), (0.0, 0.0, 50.0, 50.0))
    with pytest.raises(SceneError, match="no free ground"):
        Ground.of(inside)
    wide = Scene((built,), np.array([10.0]), ("height",), ("way/1",), (-50.0, 0.0, 50.0, 50.0))
    with pytest.raises(SceneError, match="no road of cars"):
        draw_trajectory(Ground.of(wide), MOVERS[2], generator(1))
