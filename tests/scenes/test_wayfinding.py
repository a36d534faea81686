"""The planes a supposed transmitter gives: lengths and walls that geometry demands."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hertzmap.core.grid import Grid
from hertzmap.scenes.wayfinding import TRANSMITTER_PLANES, transmitter_planes

SIDE = 64
GRID = Grid(SIDE, SIDE, 2.0, (100.0, -40.0))
OPEN = np.ones(GRID.shape, bool)
on_grid = st.floats(0.0, SIDE - 1.0)


def place(row, col, grid=GRID):
    east, north = grid.place(np.array([row, col], dtype=float))
    return float(east), float(north)


def straight_m(row, col, grid=GRID):
    r, c = np.ogrid[: grid.rows, : grid.cols]
    return grid.spacing_m * np.hypot(r - row, c - col)


def way_m(planes, row, col, grid=GRID):
    """Length of the way that plane 2 states [m]."""
    return np.maximum(straight_m(row, col, grid), 0.5 * grid.spacing_m) * 2.0 ** (2.0 * planes[1])


def wall_m(planes):
    """Wall on the straight line that plane 4 states [m]."""
    return 2.0 ** (8.0 * planes[3]) - 1.0


def town(seed, side=SIDE):
    draw = np.random.default_rng(seed)
    free = np.ones((side, side), bool)
    for _ in range(8):
        row, col = draw.integers(0, side - 10, 2)
        height, width = draw.integers(4, 14, 2)
        free[row : row + height, col : col + width] = False
    return free


@settings(max_examples=15, deadline=None)
@given(row=on_grid, col=on_grid)
def test_distance_is_the_distance(row, col):
    plane = transmitter_planes(OPEN, GRID, place(row, col))[0]
    metres = np.maximum(straight_m(row, col), 1.0)
    np.testing.assert_allclose(10.0 ** (3.0 * plane), metres, rtol=1e-5)


@settings(max_examples=15, deadline=None)
@given(row=on_grid, col=on_grid)
def test_on_open_ground_the_way_is_the_straight_line(row, col):
    planes = transmitter_planes(OPEN, GRID, place(row, col))
    ratio = way_m(planes, row, col) / np.maximum(straight_m(row, col), GRID.spacing_m / 2.0)
    assert ratio.min() >= 1.0 - 1e-6
    assert ratio.mean() < 1.025
    assert ratio.max() < 1.065  # first order: worst a few cells away, between axis and diagonal


@settings(max_examples=15, deadline=None)
@given(row=st.floats(-90.0, 150.0), col=st.floats(-90.0, 150.0))
def test_nothing_stands_in_the_way_on_open_ground(row, col):
    planes = transmitter_planes(OPEN, GRID, place(row, col))
    np.testing.assert_array_equal(planes[2], 1.0)
    np.testing.assert_array_equal(planes[3], 0.0)


@pytest.mark.parametrize(("row", "col"), [(32.3, -40.0), (-70.0, 120.0), (63.9, 30.2)])
def test_off_the_map_counts_as_free(row, col):
    planes = transmitter_planes(OPEN, GRID, place(row, col))
    np.testing.assert_allclose(
        10.0 ** (3.0 * planes[0]), np.maximum(straight_m(row, col), 1.0), rtol=1e-5
    )
    ratio = way_m(planes, row, col) / np.maximum(straight_m(row, col), GRID.spacing_m / 2.0)
    assert ratio.mean() < 1.025
    assert ratio.max() < 1.065


def test_the_way_round_a_wall_is_that_of_fast_marching():
    skfmm = pytest.importorskip("skfmm")
    free = OPEN.copy()
    free[20:44, 30:33] = False
    row, col = 32.2, 12.7
    way = way_m(transmitter_planes(free, GRID, place(row, col)), row, col)
    near = 3.0 * GRID.spacing_m
    front = np.ma.MaskedArray(straight_m(row, col) - near, ~free)
    marched = np.asarray(skfmm.distance(front, dx=GRID.spacing_m)) + near
    far = free & (straight_m(row, col) > 4.0 * GRID.spacing_m)
    ratio = (way / marched)[far]
    assert abs(ratio.mean() - 1.0) < 0.025
    assert ratio.min() > 0.98
    assert ratio.max() < 1.065


def test_the_way_round_a_wall_touches_its_end():
    free = OPEN.copy()
    free[:44, 30] = False
    row, col = 20.2, 10.4
    way = way_m(transmitter_planes(free, GRID, place(row, col)), row, col)
    end = GRID.spacing_m * np.hypot(43.5 - row, 30.0 - col)
    for r, c in ((20, 45), (30, 36), (5, 40)):
        exact = end + GRID.spacing_m * np.hypot(43.5 - r, 30.0 - c)
        assert 0.99 * exact < way[r, c] < 1.08 * exact


def test_a_courtyard_without_a_gate_takes_the_longest_way_the_plane_can_say():
    free = OPEN.copy()
    free[30:46, 30:46] = False
    free[34:42, 34:42] = True
    planes = transmitter_planes(free, GRID, place(5.0, 5.0))
    np.testing.assert_array_equal(planes[1][34:42, 34:42], 1.0)


@pytest.mark.parametrize("thickness", [1, 4, 9])
def test_the_wall_on_the_line_is_as_thick_as_it_is(thickness):
    free = OPEN.copy()
    free[:, 30 : 30 + thickness] = False
    row, col = 32.0, 10.0
    planes = transmitter_planes(free, GRID, place(row, col))
    thick_m = thickness * GRID.spacing_m
    r, c = np.ogrid[:SIDE, :SIDE]
    expected = np.broadcast_to(
        thick_m * np.hypot(r - row, c - col) / np.maximum(c - col, 1), GRID.shape
    )
    behind = np.broadcast_to(c >= 30 + thickness + 1, GRID.shape)
    found = wall_m(planes)
    np.testing.assert_allclose(found[32, 40:], thick_m, atol=1e-3)
    np.testing.assert_allclose(found[behind], expected[behind], atol=1.5 * GRID.spacing_m)
    np.testing.assert_allclose(planes[2], np.exp(-found / 3.0), atol=1e-3)
    before = np.broadcast_to(c < 29, GRID.shape)
    np.testing.assert_array_equal(planes[2][before], 1.0)


def test_two_walls_add_up():
    free = OPEN.copy()
    free[:, 20:24] = False
    free[:, 40:45] = False
    found = wall_m(transmitter_planes(free, GRID, place(32.0, 5.0)))
    np.testing.assert_allclose(found[32, 30], 4 * GRID.spacing_m, atol=1e-3)
    np.testing.assert_allclose(found[32, 60], 9 * GRID.spacing_m, atol=1e-3)


FLIPS = {
    "rows": lambda a: a[..., ::-1, :],
    "cols": lambda a: a[..., ::-1],
    "both": lambda a: a[..., ::-1, ::-1],
    "diagonal": lambda a: np.swapaxes(a, -1, -2),
}


@pytest.mark.parametrize("flip", FLIPS)
@pytest.mark.parametrize("spot", [(20.3, 11.6), (-12.4, 30.7), (47.1, 90.2)])
def test_flipping_the_town_flips_the_planes(flip, spot):
    free = town(1)
    row, col = spot
    mirrored = {
        "rows": (SIDE - 1 - row, col),
        "cols": (row, SIDE - 1 - col),
        "both": (SIDE - 1 - row, SIDE - 1 - col),
        "diagonal": (col, row),
    }[flip]
    planes = transmitter_planes(free, GRID, place(row, col))
    flipped = transmitter_planes(np.ascontiguousarray(FLIPS[flip](free)), GRID, place(*mirrored))
    gap = np.abs(FLIPS[flip](flipped) - planes)
    # the ray nearest to a cell's centre is chosen in the order of the border, so that ties differ
    assert gap[:2].max() < 1e-3
    assert np.quantile(gap[2:], 0.99) < 1e-4
    assert np.abs(wall_m(FLIPS[flip](flipped)) - wall_m(planes)).max() < 3.0 * GRID.spacing_m


@pytest.mark.parametrize("spacing_m", [0.5, 1.0, 4.0])
def test_detours_do_not_depend_on_the_unit_of_length(spacing_m):
    free, grid = town(2), Grid(SIDE, SIDE, spacing_m)
    planes = transmitter_planes(free, grid, place(30.25, 3.375, grid))
    reference = transmitter_planes(free, GRID, place(30.25, 3.375))
    np.testing.assert_allclose(planes[1], reference[1], atol=1e-5)
    scale = spacing_m / GRID.spacing_m
    np.testing.assert_allclose(wall_m(planes), scale * wall_m(reference), rtol=1e-3, atol=1e-3)


def test_a_rooftop_s_ways_start_at_the_edge_of_its_building():
    free = OPEN.copy()
    free[24:40, 24:40] = False
    row, col = 31.4, 26.2  # 2.7 cells from the western edge
    planes = transmitter_planes(free, GRID, place(row, col))
    assert np.isfinite(planes).all()
    way = way_m(planes, row, col)
    assert way[31, 10] == pytest.approx(straight_m(row, col)[31, 10], rel=0.05)
    assert way[31, 55] > 1.2 * straight_m(row, col)[31, 55]
    np.testing.assert_allclose(wall_m(planes)[31, 10], 3 * GRID.spacing_m, atol=GRID.spacing_m)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    row=st.floats(-60.0, 120.0),
    col=st.floats(-60.0, 120.0),
    rows=st.integers(1, 40),
)
def test_any_place_in_any_town_gives_planes_in_range(seed, row, col, rows):
    free = np.random.default_rng(seed).random((rows, 33)) < 0.6
    grid = Grid(rows, 33, 1.0)
    planes = transmitter_planes(free, grid, place(row, col, grid))
    assert planes.shape == (TRANSMITTER_PLANES, rows, 33)
    assert planes.dtype == np.float32
    assert planes.min() >= 0.0
    assert planes.max() <= 1.0


def test_a_town_without_free_ground_is_no_error():
    planes = transmitter_planes(np.zeros(GRID.shape, bool), GRID, place(20.0, 20.0))
    assert np.isfinite(planes).all()
    np.testing.assert_array_equal(planes[1], 1.0)
