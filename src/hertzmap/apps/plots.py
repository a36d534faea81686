"""Nouns to figures; the only code that draws. No figure touches matplotlib's global state."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import shapely
from jaxtyping import Bool, Float, Int
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.path import Path as Outline
from matplotlib.ticker import (
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
    StrMethodFormatter,
)

from hertzmap.core.types import RadioMap, Reports, Scene, SceneRaster, Trace, Transmitter
from hertzmap.datasets.interchange import whole_file

INK = "#1c1f24"
"""Text."""
QUIET = "#5d6470"
"""Axes, ticks and second lines of text."""
BUILDING = "#d3d6db"
"""Buildings."""
WALL = "#8b919b"
"""Outlines of buildings."""
ROAD = "#e3ddd0"
"""Roads."""
MARK = "#d1242f"
"""Transmitters."""
METHOD_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Lines of methods. Source: Okabe and Ito, Color Universal Design, 2008."""
_SERVERS = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#7f5aa2",
    "#8c6d31", "#4c4c4c", "#b5cf6b", "#e7969c",
)  # fmt: skip
WIDTH_IN = 11.0
"""Width of a figure over the whole page [inch]."""
DPI = 150
"""Resolution of pictures."""

KindName = Literal["power", "gain", "std", "error", "probability", "delay", "loss", "angle", "los"]


@final
@dataclass(frozen=True)
class Kind:
    """How one kind of map is coloured."""

    label: str
    """Quantity and unit, beside the colour bar."""
    colours: str
    """Colour map, safe for colour-blind readers."""
    limits: tuple[float, float] | None = None
    """Fixed ends of the scale; None takes them from the values shown."""
    symmetric: bool = False
    """Whether the scale is centred on 0."""
    from_zero: bool = False
    """Whether the scale starts at 0."""


KINDS: dict[KindName, Kind] = {
    "power": Kind("received power [dBm]", "viridis"),
    "gain": Kind("path gain [dB]", "viridis"),
    "std": Kind("standard deviation [dB]", "magma", from_zero=True),
    "error": Kind("estimate minus truth [dB]", "RdBu_r", symmetric=True),
    "probability": Kind("probability", "cividis", limits=(0.0, 1.0)),
    "delay": Kind("delay [µs]", "cividis", from_zero=True),
    "loss": Kind("loss of bends [dB]", "magma", from_zero=True),
    "angle": Kind("azimuth from east [°]", "twilight", limits=(-180.0, 180.0)),
    "los": Kind("line of sight", "cividis", limits=(0.0, 1.0)),
}
"""Kinds of maps."""


@final
@dataclass(frozen=True)
class Panel:
    """One map of a figure; panels of one kind share one scale."""

    title: str
    """What it shows."""
    kind: KindName
    """How it is coloured."""
    values: Float[np.ndarray, "rows cols"] | None = None
    """The map; indoor and missing (NaN) cells are left grey."""
    reports: Reports | None = None
    """Reports to draw as dots, coloured on the scale of `power`."""
    true_m: Float[np.ndarray, "points 2"] | None = None
    """True places of the reports [m]; each is joined to the reported one by a line."""
    transmitters: tuple[Transmitter, ...] = ()
    """Transmitters to mark."""
    view_m: tuple[float, float, float, float] | None = None
    """Show only (west, south, east, north) [m], with a scale bar; None shows the whole grid."""
    frame_m: tuple[float, float, float, float] | None = None
    """Draw a frame around (west, south, east, north) [m], e.g. the view of another panel."""
    marks_m: Float[np.ndarray, "marks 2"] | None = None
    """Places (east, north) [m] to mark by their number, from 1."""


def map_figure(
    rows: Sequence[Sequence[Panel]],
    site: SceneRaster,
    *,
    scene: Scene | None = None,
    labels: Mapping[str, str] | None = None,
    width_in: float = WIDTH_IN,
) -> Figure:
    """Maps in rows, with buildings in grey and one colour bar per kind below all of them.

    Args:
        rows: panels, row by row; all rows have the same length.
        site: grid and outdoor mask of the panels' values.
        scene: draws true outlines of buildings instead of cells.
        labels: other texts beside the colour bars, by kind.
        width_in: width of the figure [inch].
    """
    views = [panel.view_m or site.grid.bounds_m for row in rows for panel in row]
    aspect = max((north - south) / (east - west) for west, south, east, north in views)
    kinds: list[KindName] = list(dict.fromkeys(panel.kind for row in rows for panel in row))
    norms = {kind: _norm(kind, rows, site.free) for kind in kinds}
    sheet = _Sheet.lay_out(len(rows), len(rows[0]), width_in, aspect)
    figure = Figure(figsize=(sheet.width_in, sheet.height_in))
    for r, row in enumerate(rows):
        for c, panel in enumerate(row):
            axes = figure.add_axes(sheet.panel(r, c))
            _draw_panel(axes, panel, site, scene, norms[panel.kind])
            whole = panel.view_m is None
            _name_axes(axes, east=whole and r == len(rows) - 1, north=whole and c == 0)
            if not whole:
                _draw_scale_bar(axes)
    for k, kind in enumerate(kinds):
        text = (labels or {}).get(kind, KINDS[kind].label)
        _colour_bar(figure, figure.add_axes(sheet.bar(k, len(kinds))), kind, norms[kind], text)
    return figure


def scene_figure(
    scene: Scene,
    *,
    transmitters: tuple[Transmitter, ...] = (),
    reports: Reports | None = None,
    width_in: float = 8.0,
) -> Figure:
    """Buildings by height, roads, transmitters and reports of a scene."""
    west, south, east, north = scene.bounds_m
    aspect = min(max((north - south) / (east - west), 0.3), 2.0)
    figure = _figure(width_in, (width_in - 1.2) * aspect + 0.8)
    axes = figure.add_subplot()
    _draw_roads(axes, scene)
    top_m = float(np.quantile(scene.height_m, 0.99)) if len(scene.height_m) else 1.0
    norm = Normalize(0.0, max(top_m, 1.0))
    colours = colormaps["YlGnBu"]
    if scene.footprints:
        outlines = PathCollection(
            [_outline(footprint) for footprint in scene.footprints],
            facecolors=colours(norm(scene.height_m)),
            edgecolors=WALL,
            linewidths=0.25,
        )
        axes.add_collection(outlines)
        bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, shrink=0.7, pad=0.01)
        _quieten_bar(bar, "building height [m]")
    if reports is not None:
        _draw_dots(axes, reports.reported_m, MARK, 5.0)
    _draw_transmitters(axes, transmitters)
    _set_view(axes, scene.bounds_m)
    _name_axes(axes, east=True, north=True)
    axes.set_title(
        f"{scene.name}: {len(scene.footprints)} buildings", fontsize=11, color=INK, loc="left"
    )
    if scene.attribution:
        axes.annotate(
            scene.attribution,
            (1.0, 0.0),
            xycoords="axes fraction",
            xytext=(-4, 4),
            textcoords="offset points",
            ha="right",
            fontsize=7,
            color=QUIET,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
        )
    return figure


def propagation_figure(
    radio_map: RadioMap, site: SceneRaster, *, tx: int = 0, scene: Scene | None = None
) -> Figure:
    """All layers of one transmitter's map that the backend gave."""
    valid = radio_map.valid[tx]

    def shown(layer: np.ndarray | None, factor: float = 1.0) -> np.ndarray | None:
        return None if layer is None else np.where(valid, factor * layer[tx], np.nan)

    los = None if radio_map.los is None else radio_map.los.astype(np.float64)
    degrees = 180.0 / np.pi
    layers: list[tuple[str, KindName, np.ndarray | None]] = [
        ("Path gain", "gain", shown(radio_map.path_gain_db.astype(np.float64))),
        ("Delay of the first arrival", "delay", shown(radio_map.toa_s, 1e6)),
        ("Line of sight", "los", shown(los)),
        ("Loss of the route's bends", "loss", shown(radio_map.interaction_loss_db)),
        ("Direction of arrival", "angle", shown(radio_map.aoa_rad, degrees)),
        ("Direction of departure", "angle", shown(radio_map.aod_rad, degrees)),
    ]
    who = (radio_map.transmitters[tx],)
    panels = [
        Panel(title, kind, values.astype(np.float64), transmitters=who)
        for title, kind, values in layers
        if values is not None
    ]
    columns = 3 if len(panels) >= 3 else len(panels)
    panels = panels[: len(panels) // columns * columns]
    rows = [panels[k : k + columns] for k in range(0, len(panels), columns)]
    return map_figure(rows, site, scene=scene)


def loss_figure(trace: Trace, *, width_in: float = 5.4) -> Figure:
    """One curve per start for each quantity an iterative estimator recorded."""
    names = list(trace.values)
    figure = _figure(width_in, 2.9)
    for index, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), index + 1)
        curves = trace.values[name]
        for start in range(curves.shape[1]):
            steps = np.arange(1, len(curves) + 1)
            colour = METHOD_COLOURS[start % len(METHOD_COLOURS)]
            axes.plot(steps, curves[:, start], color=colour, lw=1.3, label=f"start {start + 1}")
        finite = curves[np.isfinite(curves)]
        if len(finite) and finite.min() > 0 and finite.max() > 20 * finite.min():
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title(f"{name.replace('_', ' ').capitalize()} by iteration", **_title())
        axes.set_xlabel("iteration", fontsize=8, color=QUIET)
        _quieten(axes)
        if index == 0 and 1 < curves.shape[1] <= len(METHOD_COLOURS):
            axes.legend(fontsize=7, frameon=False)
    return figure


def error_figure(
    errors_db: Mapping[str, Float[np.ndarray, " cells"]], *, width_in: float = 5.4
) -> Figure:
    """Share of cells whose absolute error stays below a bound, one line per method."""
    figure = _figure(width_in, 2.9)
    axes = figure.add_subplot()
    end = max(float(np.quantile(np.abs(errors), 0.99)) for errors in errors_db.values())
    for (name, errors), colour in zip(errors_db.items(), METHOD_COLOURS, strict=False):
        size = np.sort(np.abs(errors))
        share = np.arange(1, len(size) + 1) / len(size)
        axes.plot(size, share, color=colour, lw=1.6, label=name)
    axes.set_xlim(0.0, end)
    axes.set_ylim(0.0, 1.0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("absolute error [dB]", fontsize=8, color=QUIET)
    axes.set_title("Share of outdoor cells with a smaller error", **_title())
    axes.grid(color="#e6e8eb", lw=0.6)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    _quieten(axes)
    return figure


def sweep_figure(
    axes_of: Mapping[str, Sequence[float]],
    curves: Mapping[str, Mapping[str, Sequence[tuple[float, float] | None]]],
    label: str,
) -> Figure:
    """One metric of several methods over each factor of the benchmark, with standard errors.

    Args:
        axes_of: factor, e.g. ``SNR [dB]``, to the values it takes.
        curves: method to factor to (mean, standard error) at each value; None where not run.
        label: the metric with its unit.
    """
    figure = _figure(WIDTH_IN, 3.6)
    panels = figure.subplots(1, len(axes_of), sharey=True)
    for axes, (factor, values) in zip(np.atleast_1d(panels), axes_of.items(), strict=True):
        for k, (method, of_factor) in enumerate(curves.items()):
            points = [
                (x, *found)
                for x, found in zip(values, of_factor[factor], strict=True)
                if found is not None
            ]
            if points:
                x, mean, error = np.array(points).T
                colour = _SERVERS[k % len(_SERVERS)]
                style = "-" if k < 3 else "--"
                axes.errorbar(
                    x, mean, error, color=colour, ls=style, marker="o", ms=3.5, lw=1.4, label=method
                )
        if factor.startswith("kp"):
            axes.set_xscale("log")
        axes.set_xlabel(factor, fontsize=8.5)
        axes.tick_params(labelsize=8)
        axes.grid(visible=True, color="#e4e6ea", lw=0.6)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    first = np.atleast_1d(panels)[0]
    first.set_ylabel(label, fontsize=8.5)
    handles, names = first.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    return figure


def prior_figure(
    rows: Sequence[Mapping[str, Float[np.ndarray, "rows cols"]]],
    free: Sequence[Bool[np.ndarray, "rows cols"]],
    curve: Sequence[tuple[float, float]],
) -> Figure:
    """What a diffusion prior has learned: maps by rows, and its loss over training.

    Args:
        rows: titled maps [grey], the same titles in every row.
        free: outdoor mask of each row.
        curve: (step, loss).
    """
    titles = list(rows[0])
    figure = _figure(WIDTH_IN, 2.7 * len(rows) + 2.4)
    grid = figure.add_gridspec(len(rows) + 1, len(titles))
    for r, (row, mask) in enumerate(zip(rows, free, strict=True)):
        for c, title in enumerate(titles):
            axes = figure.add_subplot(grid[r, c])
            shown = np.where(mask, np.clip(row[title], 0.0, 1.0), np.nan)
            axes.set_facecolor(BUILDING)
            axes.imshow(shown, cmap="viridis", vmin=0.0, vmax=1.0, origin="lower")
            axes.set_xticks([])
            axes.set_yticks([])
            if r == 0:
                axes.set_title(title, **_title())
    axes = figure.add_subplot(grid[len(rows), :])
    step, loss = np.array(curve).T
    axes.semilogy(step, loss, color=METHOD_COLOURS[0])
    axes.set_xlabel("training step")
    axes.set_ylabel("loss")
    _quieten(axes)
    return figure


def picture(figure: Figure, form: Literal["png", "webp"] = "png", *, dpi: int = DPI) -> bytes:
    """The figure as an encoded picture."""
    FigureCanvasAgg(figure)
    content = io.BytesIO()
    options: dict[str, Any] = {"quality": 88} if form == "webp" else {"optimize": True}
    figure.savefig(content, format=form, dpi=dpi, facecolor="white", pil_kwargs=options)
    return content.getvalue()


def save(figure: Figure, path: Path, *, dpi: int = DPI) -> None:
    """Write the figure as PNG, whole or not at all."""
    content = picture(figure, dpi=dpi)
    with whole_file(path) as partial:
        partial.write_bytes(content)


def detail_view(
    site: SceneRaster, reports: Reports, *, side_m: float
) -> tuple[float, float, float, float]:
    """The square of `side_m` [m] with most reports among those that also show buildings."""
    west, south, east, north = site.grid.bounds_m
    side_m = min(side_m, east - west, north - south)
    starts = [
        np.arange(low, high - side_m + 1e-9, side_m / 4)
        for low, high in ((west, east), (south, north))
    ]
    corners = np.stack(np.meshgrid(*starts), axis=-1).reshape(-1, 2)

    def held(places_m: np.ndarray) -> np.ndarray:
        gap = places_m[None] - corners[:, None]
        return np.all((gap >= 0) & (gap < side_m), axis=-1).sum(axis=1)

    free = held(site.grid.centres_m()[site.free]) / (side_m / site.grid.spacing_m) ** 2
    score = held(reports.reported_m) - len(reports) * ((free < 0.5) | (free > 0.85))
    low_east, low_north = corners[int(np.argmax(score))].tolist()
    return (low_east, low_north, low_east + side_m, low_north + side_m)


# --- drawing ------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class _Sheet:
    """Where panels and colour bars stand on a figure; inches from the lower left corner."""

    rows: int
    width_in: float
    height_in: float
    panel_in: tuple[float, float]
    pitch_in: tuple[float, float]
    left_in: float = 0.58
    bottom_in: float = 0.98

    @classmethod
    def lay_out(cls, rows: int, columns: int, width_in: float, aspect: float) -> "_Sheet":
        gap_in = 0.14
        panel_in = (width_in - cls.left_in - 0.08 - (columns - 1) * gap_in) / columns
        tall_in = panel_in * aspect
        pitch_in = (panel_in + gap_in, tall_in + 0.32)
        height_in = cls.bottom_in + (rows - 1) * pitch_in[1] + tall_in + 0.30
        return cls(rows, width_in, height_in, (panel_in, tall_in), pitch_in)

    def _fractions(
        self, left: float, bottom: float, width: float, height: float
    ) -> tuple[float, float, float, float]:
        across, up = self.width_in, self.height_in
        return (left / across, bottom / up, width / across, height / up)

    def panel(self, row: int, column: int) -> tuple[float, float, float, float]:
        left = self.left_in + column * self.pitch_in[0]
        bottom = self.bottom_in + (self.rows - 1 - row) * self.pitch_in[1]
        return self._fractions(left, bottom, *self.panel_in)

    def bar(self, index: int, count: int) -> tuple[float, float, float, float]:
        share = (self.width_in - self.left_in - 0.08) / count
        width = min(0.84 * share, 3.6)
        left = self.left_in + (index + 0.5) * share - 0.5 * width
        return self._fractions(left, 0.40, width, 0.12)


def _figure(width_in: float, height_in: float) -> Figure:
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.set(w_pad=0.04, h_pad=0.04, wspace=0.02, hspace=0.02)  # type: ignore[call-arg]
    return figure


def _title() -> dict[str, Any]:
    return {"fontsize": 9.5, "color": INK, "loc": "left", "pad": 4}


def _norm(
    kind: KindName, rows: Sequence[Sequence[Panel]], free: Bool[np.ndarray, "rows cols"]
) -> Normalize:
    """Scale of one kind: its fixed ends, else the central 99 % of all values shown."""
    rule = KINDS[kind]
    if rule.limits is not None:
        return Normalize(*rule.limits)
    panels = [panel for row in rows for panel in row if panel.kind == kind]
    shown = [
        panel.values[free & np.isfinite(panel.values)]
        for panel in panels
        if panel.values is not None
    ]
    if not any(len(values) for values in shown):
        shown = [panel.reports.power_dbm for panel in panels if panel.reports is not None]
    values = np.concatenate(shown) if shown else np.zeros(1)
    low, high = np.quantile(values, [0.005, 0.995]) if len(values) else (0.0, 1.0)
    if rule.symmetric:
        high = max(abs(float(low)), abs(float(high)), 1e-6)
        low = -high
    elif rule.from_zero:
        low = 0.0
    return Normalize(float(low), max(float(high), float(low) + 1e-6))


def _draw_panel(
    axes: Axes, panel: Panel, site: SceneRaster, scene: Scene | None, norm: Normalize
) -> None:
    west, south, east, north = site.grid.bounds_m
    colours = colormaps[KINDS[panel.kind].colours].with_extremes(bad=BUILDING)
    if panel.values is not None:
        shown = np.ma.masked_invalid(np.where(site.free, panel.values, np.nan))
        extent = (west, east, south, north)
        axes.imshow(
            shown, origin="lower", extent=extent, cmap=colours, norm=norm, interpolation="nearest"
        )
    else:
        axes.set_facecolor("#f7f8f9")
    if scene is not None:
        _draw_buildings(axes, scene, panel.view_m or site.grid.bounds_m)
    elif panel.values is None:
        _draw_walls(axes, site)
    if panel.reports is not None:
        _draw_reports(axes, panel, colours, norm)
    if panel.frame_m is not None:
        low_east, low_north, high_east, high_north = panel.frame_m
        size = (high_east - low_east, high_north - low_north)
        axes.add_patch(
            Rectangle((low_east, low_north), *size, fill=False, ec=MARK, lw=1.4, zorder=6)
        )
    _draw_transmitters(axes, panel.transmitters)
    if panel.marks_m is not None:
        _draw_marks(axes, panel.marks_m)
    _set_view(axes, panel.view_m or site.grid.bounds_m)
    axes.set_title(panel.title, **_title())


def _draw_walls(axes: Axes, site: SceneRaster) -> None:
    west, south, east, north = site.grid.bounds_m
    walls = np.ma.masked_where(site.free, np.ones(site.grid.shape))
    grey = colormaps["Greys"]
    axes.imshow(walls, origin="lower", extent=(west, east, south, north), cmap=grey, vmin=0, vmax=4)


def _draw_buildings(axes: Axes, scene: Scene, view_m: tuple[float, float, float, float]) -> None:
    area = shapely.box(*view_m)
    paths = [_outline(shape) for shape in scene.footprints if shape.intersects(area)]
    axes.add_collection(
        PathCollection(paths, facecolors=BUILDING, edgecolors=WALL, linewidths=0.35)
    )


def _outline(footprint: shapely.Polygon) -> Outline:
    rings = [footprint.exterior, *footprint.interiors]
    return Outline.make_compound_path(*(Outline(ring.coords, closed=True) for ring in rings))


def _draw_roads(axes: Axes, scene: Scene) -> None:
    lines = [np.asarray(road.line.coords)[:, :2] for road in scene.roads]
    axes.add_collection(LineCollection(lines, colors=ROAD, linewidths=1.2, zorder=0))


def _draw_reports(axes: Axes, panel: Panel, colours: Colormap, norm: Normalize) -> None:
    reports = panel.reports
    assert reports is not None
    west, south, east, north = panel.view_m or _around(reports.reported_m)
    low, high = np.array([west, south]), np.array([east, north])
    inside = np.all((reports.reported_m >= low) & (reports.reported_m <= high), axis=-1)
    area = max(float(np.prod(high - low)), 1.0)
    typical_gap = np.sqrt(area / max(int(inside.sum()), 1)) / np.sqrt(area)
    largest = 60.0 if panel.view_m is not None else 18.0
    size = float(np.clip((90.0 * typical_gap) ** 2, 2.5, largest))
    if panel.true_m is not None:
        joined = np.stack([reports.reported_m, panel.true_m], axis=1)
        axes.add_collection(
            LineCollection(list(joined), colors=INK, linewidths=0.5 if size < 10 else 1.1, zorder=3)
        )
    if panel.true_m is not None and size >= 10:
        true_m = panel.true_m
        axes.plot(true_m[:, 0], true_m[:, 1], "+", color=INK, ms=4.5, mew=0.9, zorder=5)
        handles = [
            Line2D(
                [], [], marker="o", ls="", color=QUIET, mec=INK, mew=0.4, ms=5, label="reported"
            ),
            Line2D([], [], marker="+", ls="", color=INK, ms=5, mew=0.9, label="true"),
        ]
        axes.legend(handles=handles, fontsize=7, loc="upper right", framealpha=0.9, borderpad=0.3)
    axes.scatter(
        reports.reported_m[:, 0],
        reports.reported_m[:, 1],
        c=reports.power_dbm,
        cmap=colours,
        norm=norm,
        s=size,
        edgecolors=INK if size >= 6 else "none",
        linewidths=0.3,
        zorder=4,
    )


def _around(places_m: Float[np.ndarray, "points 2"]) -> tuple[float, float, float, float]:
    (west, south), (east, north) = places_m.min(axis=0), places_m.max(axis=0)
    return (float(west), float(south), float(east), float(north))


def _draw_dots(
    axes: Axes, places_m: Float[np.ndarray, "points 2"], colour: str, size: float
) -> None:
    axes.scatter(places_m[:, 0], places_m[:, 1], s=size, color=colour, linewidths=0, zorder=4)


def _draw_transmitters(axes: Axes, transmitters: tuple[Transmitter, ...]) -> None:
    for transmitter in transmitters:
        east, north, _ = transmitter.place_m
        axes.plot(east, north, "*", color=MARK, mec="white", mew=0.8, ms=12, zorder=6)


def _draw_marks(axes: Axes, marks_m: Float[np.ndarray, "marks 2"]) -> None:
    for number, (east, north) in enumerate(marks_m, start=1):
        axes.plot(east, north, "o", color="white", mec=MARK, mew=1.2, ms=11, zorder=7)
        axes.text(
            east, north, f"{number}", color=INK, fontsize=6.5, ha="center", va="center", zorder=8
        )


def server_figure(
    best: Int[np.ndarray, "rows cols"],
    names: Sequence[str],
    overlap: Float[np.ndarray, "rows cols"],
    site: SceneRaster,
    *,
    scene: Scene | None = None,
) -> Figure:
    """Likeliest server in colours, and beside it the probability of overlap.

    Args:
        best: index into `names`; -1 where there is no service.
        names: radio cells.
        overlap: probability of overlap.
        site: grid and outdoor mask.
        scene: draws true outlines of buildings.
    """
    west, south, east, north = site.grid.bounds_m
    sheet = _Sheet.lay_out(1, 2, WIDTH_IN, (north - south) / (east - west))
    figure = Figure(figsize=(sheet.width_in, sheet.height_in))
    axes = figure.add_axes(sheet.panel(0, 0))
    colours = ListedColormap(["#f0f0ee", *(_SERVERS[k % len(_SERVERS)] for k in range(len(names)))])
    shown = np.ma.masked_where(~site.free, best + 1)
    axes.imshow(
        shown,
        origin="lower",
        extent=(west, east, south, north),
        cmap=colours.with_extremes(bad=BUILDING),
        norm=Normalize(-0.5, len(names) + 0.5),
        interpolation="nearest",
    )
    if scene is not None:
        _draw_buildings(axes, scene, site.grid.bounds_m)
    _set_view(axes, site.grid.bounds_m)
    axes.set_title("Likeliest server", **_title())
    _name_axes(axes, east=True, north=True)
    handles = [
        Line2D([], [], marker="s", ls="", color=colours(k + 1), ms=6, label=name)
        for k, name in enumerate(names)
    ]
    handles.append(Line2D([], [], marker="s", ls="", color=colours(0), ms=6, label="no service"))
    legend = figure.add_axes(sheet.bar(0, 2))
    legend.axis("off")
    legend.legend(
        handles=handles, fontsize=7, loc="center", ncols=min(7, len(handles)), frameon=False
    )
    second = figure.add_axes(sheet.panel(0, 1))
    panel = Panel("Probability of overlap", "probability", overlap)
    norm = Normalize(0.0, 1.0)
    _draw_panel(second, panel, site, scene, norm)
    _name_axes(second, east=True, north=False)
    bar = figure.add_axes(sheet.bar(1, 2))
    _colour_bar(figure, bar, "probability", norm, KINDS["probability"].label)
    return figure


def _set_view(axes: Axes, view_m: tuple[float, float, float, float]) -> None:
    west, south, east, north = view_m
    axes.set_xlim(west, east)
    axes.set_ylim(south, north)
    axes.set_aspect("equal")


def _draw_scale_bar(axes: Axes) -> None:
    """A bar of a round length, about a fifth of the panel, in place of ticks."""
    (west, east), (south, north) = axes.get_xlim(), axes.get_ylim()
    fifth = (east - west) / 5.0
    power = 10.0 ** np.floor(np.log10(fifth))
    length = max(factor * power for factor in (1.0, 2.0, 5.0) if factor * power <= fifth * 1.3)
    left, low = west + 0.05 * (east - west), south + 0.05 * (north - south)
    axes.plot([left, left + length], [low, low], color=INK, lw=2.5, solid_capstyle="butt", zorder=7)
    axes.annotate(
        f"{length:g} m",
        (left + 0.5 * length, low),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        color=INK,
        zorder=7,
    )
    axes.set_xticks([])
    axes.set_yticks([])


def _name_axes(axes: Axes, *, east: bool, north: bool) -> None:
    axes.tick_params(labelbottom=east, labelleft=north)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("east [m]" if east else "", fontsize=8, color=QUIET)
    axes.set_ylabel("north [m]" if north else "", fontsize=8, color=QUIET)
    axes.tick_params(labelsize=7, colors=QUIET, length=2.5, width=0.5)
    for spine in axes.spines.values():
        spine.set(color="#b6bbc3", linewidth=0.6)


def _quieten(axes: Axes) -> None:
    axes.tick_params(labelsize=7.5, colors=QUIET, length=2.5, width=0.5)
    for side, spine in axes.spines.items():
        spine.set(color="#b6bbc3", linewidth=0.6, visible=side in ("left", "bottom"))


def _colour_bar(figure: Figure, axes: Axes, kind: KindName, norm: Normalize, label: str) -> None:
    rule = KINDS[kind]
    ends = "neither" if rule.limits else "max" if rule.from_zero else "both"
    mappable = ScalarMappable(norm, colormaps[rule.colours])
    bar = figure.colorbar(mappable, cax=axes, orientation="horizontal", extend=ends)
    _quieten_bar(bar, label)
    if kind == "los":
        bar.set_ticks([0.0, 1.0], labels=["no", "yes"])
    elif kind == "angle":
        bar.set_ticks([-180, -90, 0, 90, 180])
    elif kind == "probability":
        bar.ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _quieten_bar(bar: Any, label: str) -> None:  # noqa: ANN401 - matplotlib exports no type for it
    bar.set_label(label, fontsize=8, color=QUIET)
    bar.ax.tick_params(labelsize=7.5, colors=QUIET, length=2, width=0.5)
    bar.outline.set(linewidth=0.4, edgecolor="#b6bbc3")
