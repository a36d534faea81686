import io

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.collections import LineCollection
from matplotlib.image import imread

from hertzmap.apps import plots
from hertzmap.apps.plots import Panel
from hertzmap.core.grid import Grid
from hertzmap.core.types import Reports, SceneRaster, Trace, Transmitter

GRID = Grid(12, 20, 2.0, (-20.0, 4.0))


@pytest.fixture
def site():
    height = np.zeros(GRID.shape)
    height[2:5, 3:6] = 9.0
    return SceneRaster(GRID, height, height == 0)


def reports_at(places):
    count = len(places)
    return Reports(
        np.asarray(places, dtype=float),
        np.linspace(-90.0, -60.0, count),
        np.ones(count),
        np.zeros((count, 2, 2)),
    )


def pixels(figure):
    return imread(io.BytesIO(plots.picture(figure, dpi=80)))[:, :, :3]


def test_row_0_is_drawn_in_the_south(site):
    values = np.full(GRID.shape, -100.0)
    values[0] = -50.0  # the southern row
    figure = plots.map_figure([[Panel("marker", "power", values)]], site)
    bright = np.array(colormaps["viridis"](1.0)[:3])
    seen = pixels(figure)
    hit = np.argwhere(np.abs(seen - bright).max(axis=-1) < 0.02)
    axes = figure.axes[0].get_position()
    rows = 1.0 - hit[:, 0] / len(seen)
    in_panel = rows[(rows > axes.y0) & (rows < axes.y1)]
    assert len(in_panel) and in_panel.max() < axes.y0 + 0.15 * (axes.y1 - axes.y0)


def test_panels_of_one_kind_share_one_scale_and_one_bar(site):
    low, high = np.full(GRID.shape, -120.0), np.full(GRID.shape, -60.0)
    rows = [[Panel("a", "power", low), Panel("b", "power", high), Panel("c", "std", -low)]]
    figure = plots.map_figure(rows, site)
    limits = [axes.images[0].get_clim() for axes in figure.axes if axes.images]
    assert limits[0] == limits[1] and limits[0][0] < -115 < -65 < limits[0][1]
    assert limits[2][0] == 0.0
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels.count("received power [dBm]") == 1
    assert labels.count("standard deviation [dB]") == 1


def test_errors_are_centred_on_zero(site):
    values = np.linspace(-3.0, 12.0, GRID.rows * GRID.cols).reshape(GRID.shape)
    figure = plots.map_figure([[Panel("error", "error", values)]], site)
    low, high = figure.axes[0].images[0].get_clim()
    assert low == -high and high > 11


def test_indoor_and_missing_cells_have_no_colour(site):
    values = np.full(GRID.shape, -80.0)
    values[11, 19] = np.nan
    shown = plots.map_figure([[Panel("a", "power", values)]], site).axes[0].images[0].get_array()
    assert shown is not None
    mask = np.ma.getmaskarray(np.ma.asarray(shown))
    assert mask[11, 19] and mask[2:5, 3:6].all() and mask.sum() == 10


def test_reported_and_true_places_are_joined(site):
    reports = reports_at([[-10.0, 10.0], [0.0, 12.0]])
    true_m = reports.reported_m + 1.0
    panel = Panel(
        "reports", "power", reports=reports, true_m=true_m, view_m=(-20.0, 4.0, 20.0, 28.0)
    )
    axes = plots.map_figure([[panel]], site).axes[0]
    joined = [lines for lines in axes.collections if isinstance(lines, LineCollection)]
    np.testing.assert_allclose(joined[0].get_segments()[1], [[0.0, 12.0], [1.0, 13.0]])


def test_a_detail_shows_most_reports_among_squares_with_buildings(site):
    reports = reports_at([[-10.0, 10.0], [-12.0, 8.0], [-9.0, 12.5], [18.0, 26.0]])
    west, south, east, north = plots.detail_view(site, reports, side_m=12.0)
    places = reports.reported_m[:3]
    assert ((places >= (west, south)) & (places < (east, north))).all()
    assert east - west == north - south == 12.0


def test_every_figure_of_a_real_scene_is_drawn(hamlet):
    from hertzmap.propagation.dominant_path import DominantPath, Environment

    grid = Grid(24, 24, 2.0, (-24.0, -24.0))
    environment = Environment.prepare(hamlet, grid)
    who = (Transmitter((0.0, 8.0, 6.0), name="tx"),)
    radio_map = DominantPath(environment).trace(who)
    reports = reports_at([[1.0, 7.0], [8.0, 8.0]])
    curves = np.exp(-np.arange(1.0, 9.0))[:, None] * np.ones((1, 2))
    figures = [
        plots.propagation_figure(radio_map, environment.site, scene=hamlet),
        plots.scene_figure(hamlet, transmitters=who, reports=reports),
        plots.loss_figure(Trace({"loss": curves, "discrepancy": curves + 1.0}, ("cap", "cap"))),
        plots.error_figure({"ours": np.arange(9.0), "theirs": 2 * np.arange(9.0)}),
    ]
    for figure in figures:
        assert pixels(figure).std() > 0.02
    assert len([axes for axes in figures[0].axes if axes.images]) == 6
    assert figures[2].axes[0].get_yscale() == "log"


def test_pictures_are_written_whole(tmp_path, site):
    figure = plots.map_figure([[Panel("a", "power", np.zeros(GRID.shape))]], site)
    plots.save(figure, tmp_path / "deep" / "a.png", dpi=40)
    assert (tmp_path / "deep" / "a.png").read_bytes().startswith(b"\x89PNG")
    assert plots.picture(figure, "webp", dpi=40)[8:12] == b"WEBP"
