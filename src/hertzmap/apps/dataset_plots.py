"""Pictures of datasets: the layout of stations and users, and the layers of a tile."""

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hertzmap.apps import plots
from hertzmap.core.grid import Grid
from hertzmap.core.types import Scene
from hertzmap.datasets.reader import Dataset, read_truth
from hertzmap.datasets.splits import load_extract
from hertzmap.datasets.squares import PARTS
from hertzmap.scenes.raster import window

PART_COLOURS = dict(zip(PARTS, plots.METHOD_COLOURS, strict=False))
"""Training, validation, test."""
VIEW_M = 40.0
"""Ground around the stations that a layout shows [m]."""


def dataset_figure(dataset: Dataset) -> Figure:
    """The picture that shows most of a dataset: its layout, or its first tile."""
    if dataset.facts["recipe"] == "diffloc-uma":
        return layout_figure(dataset)
    return tile_figure(dataset, dataset.shards[0])


def layout_figure(dataset: Dataset, *, width_in: float = 11.0) -> Figure:
    """Buildings, stations and their hull, and the ways of walking and of driving users.

    As figure 4 of DiffLoc (arXiv 2510.14111) shows its own; colours are the parts of the split of
    unseen users.
    """
    stations = dataset.transmitters(dataset.shards[0])
    places = np.array([one.place_m[:2] for one in stations])
    facts = dataset.attrs(dataset.shards[0])
    scene = load_extract(facts["scene_id"])
    low, high = places.min(axis=0) - VIEW_M, places.max(axis=0) + VIEW_M
    view = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    figure = plots._figure(width_in, 0.52 * width_in)
    for number, (title, split) in enumerate(
        (("walking users, split user", "user"), ("driving users, split fast-user", "fast-user"))
    ):
        axes = figure.add_subplot(1, 2, number + 1)
        plots._draw_roads(axes, scene)
        plots._draw_buildings(axes, scene, view)
        hull = np.array(facts["zone_m"])
        axes.plot(*hull.T, "--", color=plots.MARK, lw=1.0, zorder=5)
        for part, colour in PART_COLOURS.items():
            index = dataset.index(split, part)
            if len(index):
                dots = read_truth(dataset, index)["position"][:, :2]
                plots._draw_dots(axes, dots, colour, 3.0)
        plots._draw_transmitters(axes, stations)
        for one in stations:
            east, north, _ = one.place_m
            axes.annotate(
                one.name,
                (east, north),
                xytext=(6, 5),
                textcoords="offset points",
                fontsize=7.5,
                color=plots.INK,
                zorder=8,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6},
            )
        plots._set_view(axes, view)
        plots._name_axes(axes, east=True, north=number == 0)
        axes.set_title(f"{scene.name}: {title}", **plots._title())
        handles = [
            Line2D([], [], marker="o", ls="", color=colour, ms=4, label=part)
            for part, colour in PART_COLOURS.items()
        ]
        axes.legend(handles=handles, fontsize=7, loc="lower right", framealpha=0.9)
    _credit(figure, scene)
    return figure


def tile_figure(dataset: Dataset, shard: int, cell: int = 0, *, width_in: float = 13.0) -> Figure:
    """Radio layers of one radio cell, the planes of the city map, and the ways of the UEs."""
    maps, city = dataset.group(shard, "maps"), dataset.group(shard, "osm")
    facts = dataset.attrs(shard)
    radio, planes = maps["radio"], city["map"]
    rows, cols = city["free"].shape
    grid = Grid(rows, cols, facts["spacing_m"], tuple(facts["grid_origin_m"]))
    west, south, east, north = grid.bounds_m
    extent = (west, east, south, north)
    valid = maps["valid"][cell].values
    figure = plots._figure(width_in, 0.47 * width_in)
    panels = [
        (f"{name} [{unit}]", np.where(valid, radio[cell, k].values, np.nan), "viridis")
        for k, (name, unit) in enumerate(
            zip(radio.attrs["layers"], radio.attrs["layer_units"], strict=True)
        )
    ]
    filled = np.where(valid, maps["filled"][cell].values * 1.0, np.nan)
    panels.append(("filled from the dominant path", filled, "coolwarm"))
    sight = np.where(valid, maps["los"][cell].values * 1.0, np.nan)
    panels.append(("line of sight", sight, "viridis"))
    names = planes.attrs["planes"]
    for name in ("height", "road"):
        panels.append((name, planes[names.index(name)].values, "YlGnBu"))
    site = dataset.transmitters(shard)[cell]
    scene = window(load_extract(facts["scene_id"]), grid, 0.0)
    for number, (title, values, colours) in enumerate(panels):
        axes = figure.add_subplot(2, 5, number + 1)
        ends = (
            (0.0, 1.0)
            if set(np.unique(values[np.isfinite(values)])) <= {0.0, 1.0}
            else (None, None)
        )
        image = axes.imshow(
            values,
            origin="lower",
            extent=extent,
            cmap=colormaps[colours],
            vmin=ends[0],
            vmax=ends[1],
        )
        figure.colorbar(image, ax=axes, shrink=0.75, pad=0.02).ax.tick_params(labelsize=6)
        plots._draw_transmitters(axes, (site,))
        plots._set_view(axes, grid.bounds_m)
        axes.set_title(title, **plots._title())
        axes.set_xticks([])
        axes.set_yticks([])
    axes = figure.add_subplot(2, 5, len(panels) + 1)
    plots._draw_roads(axes, scene)
    plots._draw_buildings(axes, scene, grid.bounds_m)
    split = "trajectory" if len(dataset.index("trajectory", "train")) else "city"
    for part, colour in PART_COLOURS.items():
        index = dataset.index(split, part)
        index = index[index[:, 0] == shard]
        if len(index):
            dots = read_truth(dataset, index)["position"][..., :2].reshape(-1, 2)
            plots._draw_dots(axes, dots, colour, 2.0)
    plots._draw_transmitters(axes, dataset.transmitters(shard))
    plots._set_view(axes, grid.bounds_m)
    plots._draw_scale_bar(axes)
    axes.set_title(f"{scene.name}: ways by part", **plots._title())
    _credit(figure, scene)
    return figure


def _credit(figure: Figure, scene: Scene) -> None:
    if scene.attribution:
        figure.text(0.995, 0.002, scene.attribution, ha="right", fontsize=6.5, color=plots.QUIET)
