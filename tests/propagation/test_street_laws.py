"""What physics and geometry demand of the dominant-path model."""

import numpy as np
import pytest
import shapely
from scipy import ndimage
from shapely.geometry import Polygon, box

from hertzmap.core.grid import Grid
from hertzmap.core.types import Scene, Transmitter
from hertzmap.core.units import SPEED_OF_LIGHT_M_S
from hertzmap.propagation.dominant_path import DominantPath, Environment, PropagationParameters
from hertzmap.scenes.synthetic import city

SHORTEST = PropagationParameters(k1=0.0, k2=0.0, labels=2)
"""With bends for free the dominant route is the shortest one."""
SIDE_M = 128.0


def centred(cells: int, spacing_m: float = 1.0) -> Grid:
    half = 0.5 * cells * spacing_m
    return Grid(cells, cells, spacing_m, (-half, -half))


def toy(seed: int, buildings: int = 16) -> Environment:
    """A city that fills its grid, so that no route leaves it."""
    return Environment.prepare(
        city(seed, size_m=SIDE_M, buildings=buildings), centred(int(SIDE_M)), margin_m=0.0
    )


def sites(environment: Environment, count: int, seed: int) -> tuple[Transmitter, ...]:
    """Transmitters at receiver height in the middle of free cells well clear of walls."""
    deep = ndimage.binary_erosion(environment.site.free, iterations=2)
    cells = np.argwhere(deep)
    chosen = cells[np.random.default_rng(seed).choice(len(cells), count, replace=False)]
    places = environment.grid.place(chosen.astype(np.float64))
    return tuple(Transmitter((float(east), float(north), 1.5)) for east, north in places)


def street(environment: Environment, parameters: PropagationParameters) -> DominantPath:
    return DominantPath(environment, parameters, roof=False)


def empty_scene() -> Scene:
    return Scene((), np.zeros(0), (), (), (-1.0, -1.0, 1.0, 1.0))


@pytest.mark.parametrize("roof", [False, True])
@pytest.mark.parametrize("carrier_hz", [0.9e9, 3.5e9, 28e9])
def test_free_space_is_friis(roof, carrier_hz):
    environment = Environment.prepare(empty_scene(), Grid(40, 50, 20.0, (-3.0, 5.0)))
    transmitter = Transmitter((100.0, 30.0, 1.5), carrier_hz)
    radio_map = DominantPath(environment, roof=roof).trace((transmitter,))
    offset = environment.grid.centres_m() - np.array([100.0, 30.0])
    distance = np.linalg.norm(offset, axis=-1)
    friis = -20.0 * np.log10(4.0 * np.pi * distance * carrier_hz / SPEED_OF_LIGHT_M_S)
    assert radio_map.valid.all()
    assert radio_map.los is not None and radio_map.los.all()
    assert np.max(np.abs(radio_map.path_gain_db[0] - friis)) < 0.01
    assert radio_map.toa_s is not None
    assert np.allclose(radio_map.toa_s[0] * SPEED_OF_LIGHT_M_S, distance, rtol=1e-5)


def test_free_space_is_monotone_along_rays():
    environment = Environment.prepare(empty_scene(), Grid(41, 41, 3.0))
    radio_map = DominantPath(environment).trace((Transmitter((61.5, 61.5, 8.0)),))
    for row, col in ((0, 1), (1, 0), (1, 1), (-1, 1), (0, -1)):
        steps = np.arange(1, 20)
        gain = radio_map.path_gain_db[0][20 + row * steps, 20 + col * steps]
        assert radio_map.toa_s is not None
        delay = radio_map.toa_s[0][20 + row * steps, 20 + col * steps]
        assert np.all(np.diff(gain) < 0)
        assert np.all(np.diff(delay) > 0)


def test_no_route_is_shorter_than_the_straight_line():
    environment = toy(1)
    (transmitter,) = sites(environment, 1, 0)
    routes = street(environment, PropagationParameters()).routes(transmitter)
    offset = environment.grid.centres_m() - np.array(transmitter.place_m[:2])
    straight = np.linalg.norm(offset, axis=-1)
    assert np.all(routes.length_m[routes.valid] >= straight[routes.valid] - 1e-3)


@pytest.mark.parametrize(("exponent", "cities"), [("whole", 3), ("single", 1)])
def test_swapping_the_ends_changes_nothing(exponent, cities):
    differences, one_way = [], 0
    for seed in range(cities):
        environment = toy(seed, 20)
        ends = sites(environment, 100, seed)
        parameters = PropagationParameters(labels=4, exponent=exponent)
        radio_map = street(environment, parameters).trace(ends)
        cell = environment.grid.cell(np.array([end.place_m[:2] for end in ends]))
        gain = radio_map.path_gain_db[:, cell[:, 0], cell[:, 1]]
        assert radio_map.los is not None
        los = radio_map.los[:, cell[:, 0], cell[:, 1]]
        differences.append(np.abs(gain - gain.T)[np.triu_indices(len(ends), 1)])
        one_way += np.count_nonzero(los != los.T) // 2
    difference = np.concatenate(differences)
    assert np.median(difference) < 1e-3
    assert np.quantile(difference, 0.9) <= 0.1
    assert one_way <= 1e-3 * len(difference)


@pytest.mark.parametrize("seed", range(5))
def test_lengths_agree_with_fast_marching(seed):
    skfmm = pytest.importorskip("skfmm")
    environment = toy(seed)
    (transmitter,) = sites(environment, 1, seed)
    routes = street(environment, SHORTEST).routes(transmitter)
    offset = environment.grid.centres_m() - np.array(transmitter.place_m[:2])
    straight = np.linalg.norm(offset, axis=-1)
    circle = np.ma.MaskedArray(straight - 1.5, ~environment.site.free)
    time = skfmm.travel_time(circle, np.ones(circle.shape), dx=1.0)
    marched = np.ma.filled(time, np.nan) + 1.5
    judged = routes.valid & np.isfinite(marched) & (straight > 5.0)
    excess = routes.length_m[judged] / marched[judged] - 1.0
    assert judged.sum() > 0.5 * environment.site.free.sum()
    assert -0.025 <= np.median(excess) <= 0.005


def test_line_of_sight_agrees_with_exact_geometry():
    wrong, wrong_in_clear, pairs, pairs_in_clear = 0, 0, 0, 0
    for seed in range(3):
        environment = toy(seed)
        solid = shapely.union_all(environment.scene.footprints)
        vertices = shapely.multipoints(shapely.get_coordinates(solid))
        shapely.prepare(solid)
        free = environment.site.free
        ends = environment.grid.centres_m()[free]
        transmitters = sites(environment, 3, seed)
        radio_map = street(environment, PropagationParameters()).trace(transmitters)
        assert radio_map.los is not None
        for transmitter, los in zip(transmitters, radio_map.los, strict=True):
            start = np.broadcast_to(transmitter.place_m[:2], ends.shape)
            rays = shapely.linestrings(np.stack([start, ends], axis=1))
            differs = los[free] == shapely.intersects(rays, solid)
            clear = shapely.distance(rays, vertices) > 0.5
            wrong, pairs = wrong + differs.sum(), pairs + len(ends)
            wrong_in_clear += (differs & clear).sum()
            pairs_in_clear += clear.sum()
    assert wrong <= 5e-4 * pairs
    assert wrong_in_clear <= 1e-4 * pairs_in_clear


def test_every_reachable_cell_is_covered():
    missed, reachable = 0, 0
    for seed in range(3):
        environment = toy(seed, 25)
        for transmitter in sites(environment, 4, seed):
            radio_map = street(environment, PropagationParameters()).trace((transmitter,))
            missed += _missed(environment, transmitter, radio_map.valid[0])
            reachable += environment.site.free.sum()
    assert missed <= 1e-3 * reachable


def _missed(environment: Environment, transmitter: Transmitter, valid: np.ndarray) -> int:
    """Cells joined to the transmitter's by free cells, but without a route."""
    region, _ = ndimage.label(environment.site.free)  # pyright: ignore[reportGeneralTypeIssues]
    row, col = environment.grid.cell(np.array(transmitter.place_m[:2]))
    return int(np.count_nonzero((region == region[row, col]) & ~valid))


@pytest.mark.parametrize("gap_m", [0.01, 0.03, 0.1])
def test_a_transmitter_at_a_wall_still_fills_the_map(gap_m):
    environment = toy(3)
    walls = environment.sides.walls + np.tile(environment.grid.origin_m, 2)
    long = np.argsort(np.linalg.norm(walls[:, 2:] - walls[:, :2], axis=1))[-3:]
    for start, stop in zip(walls[long, :2], walls[long, 2:], strict=True):
        along = (stop - start) / np.linalg.norm(stop - start)
        place = 0.4 * start + 0.6 * stop + gap_m * np.array([along[1], -along[0]])
        asked = Transmitter((float(place[0]), float(place[1]), 1.5))
        radio_map = street(environment, PropagationParameters()).trace((asked,))
        used = np.array(radio_map.transmitters[0].place_m[:2])
        assert np.linalg.norm(used - place) <= 0.11
        assert environment.site.free[tuple(environment.grid.cell(used))]
        valid = radio_map.valid[0]
        assert np.mean(~valid[environment.site.free]) <= 1e-3


def test_moving_the_window_moves_no_cell():
    scene = city(11, size_m=300.0, buildings=64)
    transmitter = Transmitter((4.0, 6.0, 1.5))
    gains = []
    for shift in (0.0, 20.0):
        grid = Grid(80, 80, 1.0, (-50.0 + shift, -40.0))
        environment = Environment.prepare(scene, grid)
        gains.append(DominantPath(environment).trace((transmitter,)).path_gain_db[0])
    difference = np.abs(gains[0][:, 20:] - gains[1][:, :-20])
    difference = difference[np.isfinite(difference)]
    assert np.mean(difference > 0.5) <= 0.01


@pytest.mark.parametrize("seed", range(3))
def test_a_further_building_never_shortens_a_route(seed):
    scene = city(seed, size_m=SIDE_M, buildings=16)
    grid = centred(int(SIDE_M))
    fewer = Scene(
        scene.footprints[:-3],
        scene.height_m[:-3],
        scene.height_rule[:-3],
        scene.source_id[:-3],
        scene.bounds_m,
    )
    after, before = (Environment.prepare(world, grid, margin_m=0.0) for world in (scene, fewer))
    (transmitter,) = sites(after, 1, seed)
    longer = street(after, SHORTEST).routes(transmitter)
    shorter = street(before, SHORTEST).routes(transmitter)
    both = longer.valid & shorter.valid
    assert np.all(longer.length_m[both] >= shorter.length_m[both] - 0.1)


def _turned(values):
    """A raster turned by 90 degrees anticlockwise: east becomes north."""
    return values[::-1].T


MOTIONS = {
    "quarter turn": (np.array([[0.0, -1.0], [1.0, 0.0]]), np.zeros(2), _turned),
    "mirror": (np.array([[-1.0, 0.0], [0.0, 1.0]]), np.zeros(2), lambda values: values[:, ::-1]),
    "shift": (np.eye(2), np.array([37.3, -1012.9]), lambda values: values),
}


@pytest.mark.parametrize("motion", MOTIONS)
def test_the_map_moves_with_the_scene(motion):
    matrix, shift, moved_raster = MOTIONS[motion]
    scene = city(2, size_m=SIDE_M, buildings=20)
    footprints = tuple(
        Polygon(np.asarray(footprint.exterior.coords) @ matrix.T + shift)
        for footprint in scene.footprints
    )
    west, south = (-0.5 * SIDE_M + shift).tolist()
    moved = Scene(
        footprints, scene.height_m, scene.height_rule, scene.source_id,
        (west, south, west + SIDE_M, south + SIDE_M),
    )  # fmt: skip
    grid = centred(int(SIDE_M))
    moved_grid = Grid(grid.rows, grid.cols, 1.0, (west, south))
    environment = Environment.prepare(scene, grid, margin_m=0.0)
    (transmitter,) = sites(environment, 1, 5)
    place = matrix @ np.array(transmitter.place_m[:2]) + shift
    there = Transmitter((float(place[0]), float(place[1]), 1.5))
    here_map = DominantPath(environment).trace((transmitter,)).path_gain_db[0]
    moved_environment = Environment.prepare(moved, moved_grid, margin_m=0.0)
    there_map = DominantPath(moved_environment).trace((there,)).path_gain_db[0]
    difference = np.abs(moved_raster(here_map) - there_map)
    assert np.mean(np.isnan(difference) != ~moved_environment.site.free) < 1e-3
    assert np.mean(difference[np.isfinite(difference)] > 0.2) <= 0.01


def test_same_bytes_with_any_number_of_workers():
    environment = toy(4)
    transmitters = sites(environment, 6, 4)
    backend = DominantPath(environment)
    first = backend.trace(transmitters)
    for workers in (1, 2, 5):
        again = backend.trace(transmitters, workers=workers)
        for name in ("path_gain_db", "valid", "toa_s", "los", "aoa_rad", "aod_rad"):
            assert getattr(first, name).tobytes() == getattr(again, name).tobytes()


def test_coarse_and_fine_grids_agree():
    scene = city(7, size_m=SIDE_M, buildings=16)
    transmitter = Transmitter((0.0, 0.0, 1.5))
    means = []
    for cells, spacing in ((256, 0.5), (64, 2.0)):
        environment = Environment.prepare(scene, centred(cells, spacing), margin_m=0.0)
        gain = DominantPath(environment).trace((transmitter,)).path_gain_db[0]
        factor = cells // 64
        means.append(gain.reshape(64, factor, 64, factor).mean(axis=(1, 3)))
    difference = np.abs(means[0] - means[1])
    assert np.nanmedian(difference) < 0.1


def test_touching_buildings_leave_no_route_between_them():
    scene = Scene(
        (box(-30.0, -5.0, 0.0, 5.0), box(0.01, -5.0, 30.0, 5.0)),
        np.array([10.0, 10.0]), ("height",) * 2, ("a", "b"), (-40.0, -40.0, 40.0, 40.0),
    )  # fmt: skip
    environment = Environment.prepare(scene, centred(80), margin_m=0.0)
    routes = street(environment, SHORTEST).routes(Transmitter((0.5, -10.5, 1.5)))
    assert len(environment.sides.corner) == 4
    assert routes.length_m[50, 40] > 60.0
