import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hertzmap.core.grid import Grid

grids = st.builds(
    Grid,
    rows=st.integers(1, 40),
    cols=st.integers(1, 40),
    spacing_m=st.sampled_from([0.25, 0.5, 1.0, 2.0, 7.3]),
    origin_m=st.tuples(st.floats(-5e3, 5e3), st.floats(-5e3, 5e3)),
)
share = st.floats(0.01, 0.99)


@given(grids, st.data())
def test_a_place_put_in_a_cell_is_read_back_there(grid, data):
    r, c = data.draw(st.integers(0, grid.rows - 1)), data.draw(st.integers(0, grid.cols - 1))
    along, across = data.draw(share), data.draw(share)
    west, south = grid.origin_m
    place = np.array([west + (c + across) * grid.spacing_m, south + (r + along) * grid.spacing_m])
    assert grid.cell(place).tolist() == [r, c]
    assert grid.contains(place)
    values = np.zeros(grid.shape)
    values[r, c] = 1.0
    assert values[tuple(grid.cell(place))] == 1.0


@given(grids, st.floats(-60.0, 60.0), st.floats(-60.0, 60.0))
def test_pixel_and_place_are_inverse(grid, row, col):
    pixel = np.array([row, col])
    assert np.allclose(grid.to_pixel(grid.place(pixel)), pixel, atol=1e-6)


@given(grids)
def test_centres_are_the_places_of_whole_pixels_and_row_0_is_south(grid):
    centres = grid.centres_m()
    assert centres.shape == (*grid.shape, 2)
    assert np.array_equal(grid.cell(centres), np.stack(np.indices(grid.shape), axis=-1))
    assert (np.diff(centres[:, 0, 1]) > 0).all() and (np.diff(centres[0, :, 0]) > 0).all()
    west, south, _, _ = grid.bounds_m
    assert np.allclose(centres[0, 0], [west + grid.spacing_m / 2, south + grid.spacing_m / 2])


@given(grids)
def test_the_edges_of_west_and_south_belong_to_the_grid_the_others_do_not(grid):
    west, south, east, north = grid.bounds_m
    middle = np.array([(west + east) / 2, (south + north) / 2])
    inside = grid.contains(np.array([[west, middle[1]], [middle[0], south], middle]))
    step = 1e-6 * grid.spacing_m + 1e-9 * max(map(abs, grid.bounds_m))
    outside = grid.contains(np.array([[east + step, middle[1]], [middle[0], north + step]]))
    assert inside.all() and not outside.any()


@given(grids, st.integers(1, 5))
def test_a_refined_grid_covers_the_same_and_its_cells_average_to_the_old_centres(grid, factor):
    fine = grid.refine(factor)
    assert fine.shape == (factor * grid.rows, factor * grid.cols)
    assert fine.bounds_m == pytest.approx(grid.bounds_m)
    blocks = fine.centres_m().reshape(grid.rows, factor, grid.cols, factor, 2)
    assert np.allclose(blocks.mean(axis=(1, 3)), grid.centres_m(), atol=1e-6)


@given(grids, st.data())
def test_a_window_of_cells_is_the_grid_with_a_shifted_corner(grid, data):
    r, c = data.draw(st.integers(0, grid.rows - 1)), data.draw(st.integers(0, grid.cols - 1))
    corner = grid.place(np.array([r - 0.5, c - 0.5]))
    part = Grid(grid.rows - r, grid.cols - c, grid.spacing_m, (float(corner[0]), float(corner[1])))
    assert np.allclose(part.centres_m(), grid.centres_m()[r:, c:], atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4), "at least one row"),
        ((4, 0), "at least one row"),
        ((4, 4, 0.0), "above 0"),
        ((4, 4, float("nan")), "above 0"),
        ((4, 4, 1.0, (float("inf"), 0.0)), "finite"),
    ],
)
def test_a_grid_that_is_none_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Grid(*arguments)
