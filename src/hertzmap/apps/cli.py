"""The command line: options in, one job each, clear errors out. Computing starts in the jobs."""

import logging
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from hertzmap.core.errors import ConfigError, HertzmapError

if TYPE_CHECKING:
    from hertzmap.apps.jobs import Area, Tell
    from hertzmap.datasets.executors import Progress as ShardProgress
    from hertzmap.measurement.sampling import SamplingConfig

_CONSOLE = Console(stderr=True)
"""Progress, results for people, and errors; standard output carries JSON and lists only."""


class _Commands(TyperGroup):
    """Commands whose errors that a user can act on end in one message and exit code 2."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - click's types, which typer may vendor
        """Run the command."""
        try:
            return super().invoke(ctx)
        except HertzmapError as error:
            if ctx.params.get("debug"):
                _CONSOLE.print(traceback.format_exc(), markup=False, highlight=False)
            _CONSOLE.print("[bold red]error:[/] ", end="")
            _CONSOLE.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(2) from error


class _Simulate(TyperGroup):
    """`simulate OSM ...` stands for `simulate place OSM ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - as above
        """Name the usual command where none is named."""
        if args and args[0] not in (*self.commands, "--help"):
            args = ["place", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Commands,
    rich_markup_mode="markdown",  # as markup, units like [m] would vanish from the help
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Radio maps from sparse, noisy, misplaced signal reports and a map of buildings.",
)
bench = typer.Typer(
    rich_markup_mode="markdown",
    no_args_is_help=True,
    help="Benchmarks; resumable, results go to the results folder.",
)
simulation = typer.Typer(
    cls=_Simulate,
    rich_markup_mode="markdown",
    no_args_is_help=True,
    help="Simulate transmitters of a place (`simulate OSM ...`), or a whole dataset.",
)
datasets = typer.Typer(
    rich_markup_mode="markdown", no_args_is_help=True, help="Look after generated datasets."
)

Extract = Annotated[
    Path, typer.Argument(help="OpenStreetMap extract: .osm, .osm.gz, .osm.bz2, .osm.pbf.")
]
Box = Annotated[
    tuple[float, float, float, float] | None,
    typer.Option("--box", help="Part to read: WEST SOUTH EAST NORTH in degrees."),
]
Centre = Annotated[
    tuple[float, float] | None,
    typer.Option("--centre", help="LON LAT of a square part's centre, with --radius."),
]
Radius = Annotated[float | None, typer.Option("--radius", help="Half side of the square part [m].")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of all that is drawn.")]
Json = Annotated[
    Path | None, typer.Option("--json", help="Write the summary as JSON; - for standard output.")
]
Spacing = Annotated[float, typer.Option("--spacing", help="Side of a cell [m].")]
SnrDb = Annotated[float | None, typer.Option("--snr-db", help="Level of the reports' noise [dB].")]
SigmaDb = Annotated[
    float | None,
    typer.Option("--sigma-db", help="Noise of the reports [dB]; wins over --snr-db."),
]
DriftM = Annotated[float, typer.Option("--drift-m", help="Drift of the reports per axis [m].")]
Rate = Annotated[float, typer.Option("--kp", help="Reports per outdoor cell.")]
ReportTableFile = Annotated[Path, typer.Argument(help="Reports: .csv, .csv.gz or .parquet.")]
Method = Annotated[str, typer.Option("--method", "-m", help="Method; see `hertzmap methods`.")]
Preset = Annotated[str | None, typer.Option(help="Preset; the first by default.")]
Margin = Annotated[float, typer.Option(help="Ground around the reports to map [m].")]
NoiseDb = Annotated[float | None, typer.Option(help="Value noise of rows that state none [dB]; 4.")]
DriftStdM = Annotated[
    float | None, typer.Option(help="Drift per axis of rows that state none [m]; 3.")
]
Value = Annotated[str | None, typer.Option(help="Power column, if several.")]
ReportsCrs = Annotated[
    str | None, typer.Option(help="CRS of east_m, north_m; local metres without it.")
]
DropOutside = Annotated[
    bool, typer.Option("--drop-outside", help="Leave out reports outside the map.")
]
Methods = Annotated[
    list[str] | None,
    typer.Option("--method", "-m", help="name:preset[:option=value,...]; repeat for several."),
]


@app.callback()
def main(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Take options that all commands share."""
    del debug  # read by _Commands
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=_CONSOLE, show_path=False)],
    )


@app.command()
def scene(
    osm: Extract,
    box: Box = None,
    centre: Centre = None,
    radius: Radius = None,
    raster: Annotated[
        float | None, typer.Option(help="Also write heights as GeoTIFF, cells of this side [m].")
    ] = None,
    out: Out = Path("out/scene"),
    json_to: Json = None,
) -> None:
    """Read a map extract: summary, GeoJSON, picture, optionally a height raster."""
    from hertzmap.apps import jobs

    with _telling() as tell:
        tell("reading the extract")
        found = jobs.open_scene(osm, _area(box, centre, radius))
        tell("writing")
        summary = jobs.export_scene(found, out, raster_m=raster)
    _finish(summary, json_to)


@app.command()
def export(
    osm: Extract,
    kind: Annotated[
        str, typer.Option("--format", "-f", help="mitsuba (ray tracers) or gltf (viewers).")
    ] = "mitsuba",
    dem: Annotated[
        Path | None, typer.Option(help="GeoTIFF of the bare ground's heights [m]; else flat.")
    ] = None,
    box: Box = None,
    centre: Centre = None,
    radius: Radius = None,
    out: Out = Path("out/export"),
    json_to: Json = None,
) -> None:
    """Write buildings and ground as 3-D meshes: Mitsuba XML with PLY files, or glTF."""
    from hertzmap.apps import jobs
    from hertzmap.apps.export import export as run

    with _telling() as tell:
        tell("reading the extract")
        found = jobs.open_scene(osm, _area(box, centre, radius))
        tell("writing")
        summary = run(found, out, kind=kind, dem=dem)
    _finish(summary, json_to)


@simulation.command("place")
def simulate(
    osm: Extract,
    at: Annotated[
        list[str] | None, typer.Option(help="Transmitter at LON,LAT; repeat for several.")
    ] = None,
    at_local: Annotated[
        list[str] | None, typer.Option(help="Transmitter at local EAST,NORTH [m].")
    ] = None,
    height: Annotated[float, typer.Option(help="Antenna height above ground [m].")] = 10.0,
    carrier_ghz: Annotated[float, typer.Option(help="Carrier frequency [GHz].")] = 3.5,
    pattern: Annotated[
        str, typer.Option(help="isotropic, dipole, sector, or an MSI pattern file.")
    ] = "isotropic",
    azimuth_deg: Annotated[float, typer.Option(help="Boresight, clockwise from north.")] = 0.0,
    tilt_deg: Annotated[float, typer.Option(help="Down-tilt.")] = 0.0,
    reference_dbm: Annotated[
        float | None,
        typer.Option(help="Power per resource element [dBm]; 43 dBm over 100 MHz by default."),
    ] = None,
    propagation: Annotated[
        Path | None, typer.Option(help="YAML file of propagation parameters.")
    ] = None,
    draw_propagation: Annotated[
        bool, typer.Option(help="Draw the propagation parameters by the seed.")
    ] = False,
    spacing: Spacing = 1.0,
    box: Box = None,
    centre: Centre = None,
    radius: Radius = None,
    reports: Annotated[
        bool, typer.Option("--reports", help="Also sample reports of the first transmitter.")
    ] = False,
    kp: Rate = 0.05,
    snr_db: SnrDb = None,
    sigma_db: SigmaDb = 4.0,
    drift_m: DriftM = 3.0,
    out: Out = Path("out/simulate"),
    seed: Seed = 0,
    json_to: Json = None,
) -> None:
    """Simulate path gain and RSRP of transmitters; optionally sample reports."""
    from hertzmap.apps import jobs

    options = jobs.SimulateOptions(
        lonlat=tuple(_pair(text, "--at") for text in at or ()),
        local_m=tuple(_pair(text, "--at-local") for text in at_local or ()),
        height_m=height,
        carrier_hz=1e9 * carrier_ghz,
        pattern=pattern,
        azimuth_deg=azimuth_deg,
        tilt_deg=tilt_deg,
        reference_dbm=jobs.RSRP_REFERENCE_DBM if reference_dbm is None else reference_dbm,
        propagation=propagation,
        draw_propagation=draw_propagation,
        spacing_m=spacing,
        sampling=_sampling(kp, snr_db, sigma_db, drift_m, reference_dbm) if reports else None,
    )
    with _telling() as tell:
        tell("reading the extract")
        found = jobs.open_scene(osm, _area(box, centre, radius))
        summary = jobs.simulate(found, out, options, seed=seed, tell=tell)
    _finish(summary, json_to)


@simulation.command("dataset")
def simulate_dataset(
    config: Annotated[
        Path, typer.Argument(help="YAML file, e.g. configs/datasets/diffloc-uma-small.yaml.")
    ],
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; one for each processor by default.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Address of a Ray cluster, or local; needs the extra `cluster`."),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="Only part i/n of the shards, for jobs of an array.")
    ] = None,
    out: Out = Path("out/dataset"),
    json_to: Json = None,
) -> None:
    """Generate a dataset; run it again to go on after a stop, however sudden."""
    from hertzmap.apps import datasets as job

    with _shards_bar() as tell:
        summary = job.generate(config, out, job.RunOptions(workers, ray, shard), tell)
    _finish(summary, json_to)


@datasets.command("check")
def dataset_check(
    folder: Annotated[Path, typer.Argument(help="Folder of the dataset.")], json_to: Json = None
) -> None:
    """Check hashes, names, units, shapes and ranges of all shards."""
    from hertzmap.apps import datasets as job

    with _telling() as tell:
        tell("checking")
        summary = job.check(folder)
    _finish(summary, json_to)


@app.command()
def estimate(
    osm: Extract,
    reports: ReportTableFile,
    cell: Annotated[int | None, typer.Option(help="Radio cell, if there are several.")] = None,
    method: Method = "combined",
    preset: Preset = None,
    spacing: Spacing = 2.0,
    margin: Margin = 60.0,
    threshold_dbm: Annotated[float, typer.Option(help="Map P(power > this) [dBm].")] = -100.0,
    noise_db: NoiseDb = None,
    drift_std_m: DriftStdM = None,
    value: Value = None,
    reports_crs: ReportsCrs = None,
    reference_dbm: Annotated[
        float | None, typer.Option(help="Power per resource element [dBm], if known.")
    ] = None,
    drop_outside: DropOutside = False,
    box: Box = None,
    centre: Centre = None,
    radius: Radius = None,
    out: Out = Path("out/estimate"),
    seed: Seed = 0,
    json_to: Json = None,
) -> None:
    """Estimate a radio map from measured reports: GeoTIFF, GeoJSON, HTML report."""
    from hertzmap.apps import jobs
    from hertzmap.datasets import interchange

    options = jobs.EstimateOptions(
        method=_with_preset(method, preset),
        spacing_m=spacing,
        margin_m=margin,
        threshold_dbm=threshold_dbm,
        cell=cell,
        noise_db=interchange.NOISE_DB if noise_db is None else noise_db,
        drift_std_m=interchange.DRIFT_STD_M if drift_std_m is None else drift_std_m,
        value=value,
        reports_crs=reports_crs,
        reference_dbm=reference_dbm,
        outside="drop" if drop_outside else "error",
    )
    with _telling() as tell:
        tell("reading the extract")
        found = jobs.open_scene(osm, _area(box, centre, radius))
        summary = jobs.estimate(found, reports, out, options, seed=seed, tell=tell)
    _finish(summary, json_to)


@app.command()
def network(
    osm: Extract,
    reports: ReportTableFile,
    method: Method = "combined",
    preset: Preset = None,
    spacing: Spacing = 2.0,
    margin: Margin = 60.0,
    threshold_dbm: Annotated[float, typer.Option(help="A cell serves above this [dBm].")] = -100.0,
    margin_db: Annotated[
        float, typer.Option(help="Servers this near to the strongest could serve as well [dB].")
    ] = 6.0,
    overlapping: Annotated[int, typer.Option(min=2, help="So many of them are overlap.")] = 3,
    fewest: Annotated[int, typer.Option(min=3, help="Reports a radio cell needs.")] = 20,
    most_cells: Annotated[int, typer.Option(min=1, help="At most so many radio cells.")] = 12,
    noise_db: NoiseDb = None,
    drift_std_m: DriftStdM = None,
    value: Value = None,
    reports_crs: ReportsCrs = None,
    drop_outside: DropOutside = False,
    box: Box = None,
    centre: Centre = None,
    radius: Radius = None,
    out: Out = Path("out/network"),
    seed: Seed = 0,
    json_to: Json = None,
) -> None:
    """Map every radio cell of a table: best server, overlap, a GeoTIFF of each, HTML report."""
    from hertzmap.apps import jobs
    from hertzmap.apps.network import network as run
    from hertzmap.datasets import interchange

    options = jobs.EstimateOptions(
        method=_with_preset(method, preset),
        spacing_m=spacing,
        margin_m=margin,
        threshold_dbm=threshold_dbm,
        noise_db=interchange.NOISE_DB if noise_db is None else noise_db,
        drift_std_m=interchange.DRIFT_STD_M if drift_std_m is None else drift_std_m,
        value=value,
        reports_crs=reports_crs,
        outside="drop" if drop_outside else "error",
    )
    with _telling() as tell:
        tell("reading the extract")
        found = jobs.open_scene(osm, _area(box, centre, radius))
        summary = run(
            found,
            reports,
            out,
            options,
            margin_db=margin_db,
            overlapping=overlapping,
            fewest=fewest,
            most_cells=most_cells,
            seed=seed,
            tell=tell,
        )
    _finish(summary, json_to)


@app.command()
def evaluate(
    osm: Extract,
    method: Methods = None,
    size: Annotated[float, typer.Option(help="Side of the tile [m].")] = 256.0,
    spacing: Spacing = 1.0,
    tile: Annotated[int, typer.Option(min=0, help="Which tile of the extract.")] = 0,
    kp: Rate = 0.05,
    snr_db: SnrDb = 5.0,
    sigma_db: SigmaDb = None,
    drift_m: DriftM = 0.8,
    out: Out = Path("out/evaluate"),
    seed: Seed = 0,
    json_to: Json = None,
) -> None:
    """Score methods on a simulated truth of a real place."""
    from hertzmap.apps import jobs

    chosen = tuple(_with_preset(name, None) for name in method or ("combined", "kriging"))
    options = jobs.EvaluateOptions(
        chosen, size, spacing, tile, _sampling(kp, snr_db, sigma_db, drift_m, None)
    )
    with _telling() as tell:
        tell("reading the extract")
        found = jobs.open_scene(osm, jobs.Area())
        summary = jobs.evaluate(found, out, options, seed=seed, tell=tell)
    _print_scores(summary["scores"])
    _finish(summary, json_to, leave_out=("scores",))


@app.command()
def train(
    out: Out = Path("runs/prior"),
    stage: Annotated[
        list[str] | None, typer.Option(help="backbone, prior or paper; all by default.")
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(help="Instead of the prior: amortised_unet, radiounet, rme_gan, ..."),
    ] = None,
) -> None:
    """Train the diffusion prior or another network; a stopped run goes on where it was."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from hertzmap.apps import jobs, plots
    from hertzmap.training import prior, regression

    stages = ("backbone", "prior", "paper")
    unknown = [name for name in stage or () if name not in stages]
    if unknown:
        msg = f"there is no training stage {unknown[0]!r}; choose of {', '.join(stages)}"
        raise ConfigError(msg)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=_CONSOLE) as bar:
        tasks: dict[str, Any] = {}

        def show(name: str, step: int, steps: int, figures: Mapping[str, float]) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, figures="")
            text = "  ".join(f"{key} {value:.4g}" for key, value in figures.items())
            bar.update(tasks[name], completed=step, total=steps or None, figures=text)

        if network is not None:
            config = regression.default_config(network)
            steps = config.loop.steps
            regression.run(
                out, config, progress=lambda step, figures: show(network, step, steps, figures)
            )
            path = regression.release(out, network, out / "weights")
            _CONSOLE.print(f"weights: {path}, with their card beside them")
            return
        folder = prior.run(out, stages=tuple(stage or stages), progress=show)
    for path in prior.release(folder, folder / "weights"):
        _CONSOLE.print(f"weights: {path}, with their card beside them")
        if path.stem != "prior":  # the other one was trained without the transmitter
            continue
        picture = folder / f"{path.stem}.png"
        plots.save(jobs.prior_picture(path, folder / "validation"), picture)
        _CONSOLE.print(f"what they make of the validation cities: {picture}")


@bench.command("maps")
def bench_maps(
    cells: Annotated[str | None, typer.Option(help="Names of table cells, by blanks.")] = None,
    method: Methods = None,
    maps_per_city: Annotated[int | None, typer.Option(min=1)] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many worlds.")] = None,
    quick: Annotated[
        bool, typer.Option(help="Two worlds a cell, one report seed, without the slow methods.")
    ] = False,
    split: Annotated[str, typer.Option(help="test or validation.")] = "test",
    seeds: Annotated[int | None, typer.Option(help="At most so many report seeds.")] = None,
    lpips: Annotated[
        Path | None, typer.Option(help="Also LPIPS, by these weights of AlexNet; choose an --out.")
    ] = None,
    out: Out = Path("results/tables"),
) -> None:
    """Estimators on simulated truth: the paper's tables."""
    from hertzmap.benchmarks import maps

    chosen = cells.split() if cells else None
    if quick:
        limit, seeds, method = limit or 2, seeds or 1, method or list(maps.QUICK)
    _list(maps.run(chosen, out, method or None, maps_per_city, limit, split, seeds, lpips))


@bench.command("mismatch")
def bench_mismatch(
    cases: Annotated[str | None, typer.Option(help="Names of cases, by blanks.")] = None,
    method: Methods = None,
    maps_per_city: Annotated[int | None, typer.Option(min=1)] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many worlds.")] = None,
    split: Annotated[str, typer.Option(help="test or validation.")] = "test",
    out: Out = Path("results/mismatch"),
) -> None:
    """Estimators where something is unlike what they assume."""
    from hertzmap.benchmarks import maps
    from hertzmap.benchmarks.tables import CASES

    chosen = cases.split() if cases else list(CASES)
    _list(maps.run(chosen, out, method or None, maps_per_city, limit, split))


@bench.command("campus")
def bench_campus(
    method: Methods = None,
    repeats: Annotated[int, typer.Option(min=1, help="Random splits.")] = 10,
    cells: Annotated[int, typer.Option(min=1, help="Radio cells with most reports.")] = 4,
    out: Out = Path("results/campus"),
) -> None:
    """Estimators on measured reports that they did not see."""
    from hertzmap.benchmarks import campus

    _list((campus.run(out, method or None, repeats=repeats, cells=cells),))


@bench.command("utah")
def bench_utah(
    method: Methods = None,
    repeats: Annotated[int, typer.Option(min=1, help="Random splits.")] = 3,
    receivers: Annotated[int, typer.Option(min=1, help="Receivers with most reports.")] = 4,
    out: Out = Path("results/mismatch"),
) -> None:
    """Estimators on measured reports of a place without a map of buildings."""
    from hertzmap.benchmarks import campus

    _list((campus.run_utah(out, method or None, repeats=repeats, receivers=receivers),))


@bench.command("propagation")
def bench_propagation(
    part: Annotated[list[str] | None, typer.Option(help="speed, fit; both by default.")] = None,
    out: Out = Path("results/propagation"),
) -> None:
    """Speed and fit of the propagation engine."""
    from hertzmap.benchmarks import propagation

    with _telling() as tell:
        written = propagation.run(out, parts=tuple(part or ("speed", "fit")), progress=tell)
    _list(written)


@bench.command("ray-traced")
def bench_ray_traced(
    part: Annotated[
        list[str] | None, typer.Option(help="training (calibration), test; both by default.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the maps; the package's own by default.")
    ] = None,
    maps_per_city: Annotated[int, typer.Option(min=1, help="Maps of each test city.")] = 1,
) -> None:
    """Make the shipped ray-traced maps that are not there yet (extra rt; minutes each)."""
    from hertzmap.benchmarks import ray_traced

    parts = tuple(part or ("training", "test"))
    with _telling() as tell:
        written = ray_traced.run(out, parts=parts, maps_per_city=maps_per_city, progress=tell)
    _list(written)


@bench.command("calibration")
def bench_calibration(out: Out = Path("results/data")) -> None:
    """Dominant paths and materials fitted to ray-traced maps, scored on cities left out."""
    from hertzmap.benchmarks import calibration

    with _telling() as tell:
        written = calibration.run(out / "calibration.json", progress=tell)
    _list(written)


@bench.command("speed")
def bench_speed(
    method: Methods = None,
    repeats: Annotated[int, typer.Option(min=1, help="Counted runs of each.")] = 3,
    out: Out = Path("results/speed"),
) -> None:
    """Time and memory of the estimators side by side; run it alone."""
    from hertzmap.benchmarks import speed

    _list((speed.run(out, method or None, repeats),))


@bench.command("knobs")
def bench_knobs(
    method: Methods = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many worlds.")] = 6,
    out: Out = Path("results/knobs"),
) -> None:
    """Accuracy and time of the estimators over their cost settings, at the default cell."""
    from hertzmap.benchmarks import maps

    _list(maps.run(["default"], out, method or list(maps.KNOBS), None, limit, "test", 1))


@bench.command("data")
def bench_data(
    folder: Annotated[
        list[Path] | None, typer.Argument(help="Folders of generated datasets.")
    ] = None,
    kill: Annotated[int, typer.Option(min=0, help="Kill generations so often.")] = 0,
    executors: Annotated[
        bool, typer.Option("--executors", help="Compare one process, two, and two Ray workers.")
    ] = False,
    config: Annotated[Path, typer.Option(help="What --kill and --executors generate.")] = Path(
        "configs/datasets/diffloc-uma-scatter.yaml"
    ),
    out: Out = Path("results/data"),
    images: Annotated[Path, typer.Option(help="Folder of the pictures.")] = Path("docs/images"),
) -> None:
    """Figures of datasets: time, size, links, splits, taps; kills; executors."""
    from hertzmap.apps import dataset_plots, plots
    from hertzmap.benchmarks import data
    from hertzmap.datasets.reader import Dataset

    written = []
    with _telling() as tell:
        for one in folder or ():
            written.append(data.run(one, out, tell))
            dataset = Dataset(one)
            picture = images / f"{written[-1].stem}.png"
            plots.save(dataset_plots.dataset_figure(dataset), picture)
            written.append(picture)
        if kill:
            tell(f"killing {kill} times")
            written.append(data.run_kills(config, kill, out))
        if executors:
            written.append(data.run_executors(config, out, tell=tell))
    _list(tuple(written))


@bench.command("figures")
def bench_figures(
    results: Annotated[Path, typer.Option(help="Folder of the result files.")] = Path("results"),
    out: Out = Path("docs/images"),
) -> None:
    """Draw PSNR and SSIM of all methods over report rate, SNR and drift, from the result files."""
    from hertzmap.apps import plots
    from hertzmap.benchmarks import render

    written = []
    for metric, label in (("psnr_db", "PSNR [dB], free cells"), ("ssim", "SSIM, free cells")):
        factors, curves = render.sweeps(results, metric)
        written.append(out / f"sweep-{metric.removesuffix('_db')}.png")
        plots.save(plots.sweep_figure(factors, curves, label), written[-1])
    _list(tuple(written))


@bench.command("tables")
def bench_tables() -> None:
    """Render the documents' tables from the result files."""
    from hertzmap.benchmarks import render

    _list(render.run())


@app.command()
def demo(
    out: Out = Path("demo-out"),
    method: Annotated[
        str, typer.Option("--method", "-m", help="Method to show.")
    ] = "combined:default",
    seed: Seed = 0,
    json_to: Json = None,
) -> None:
    """Map a held-out district and a measured campus from bundled data; writes report.html."""
    from hertzmap.apps import demo as job

    with _telling() as tell:
        options = job.DemoOptions(ours=_with_preset(method, None))
        summary = job.run(out, seed=seed, options=options, tell=tell)
    _print_scores(summary["district"]["scores"])
    _print_campus(summary["campus"])
    _CONSOLE.print(f"open [bold]{out / 'report.html'}[/] ({summary['seconds']:.0f} s)")
    _write_json(summary, json_to)


@app.command()
def methods() -> None:
    """List the estimators with their presets."""
    import sys

    from hertzmap.core import registry

    table = Table("method", "what it does", "presets", box=None, pad_edge=False)
    for name in registry.names("estimation"):
        method = registry.get("estimation", name)
        line = (method.__doc__ or "").strip().splitlines()[0]
        table.add_row(name, line, ", ".join(sys.modules[method.__module__].PRESETS))
    Console().print(table)


app.add_typer(simulation, name="simulate")
app.add_typer(datasets, name="dataset")
app.add_typer(bench, name="bench")


# --- helpers ------------------------------------------------------------------------------------


@contextmanager
def _telling() -> Iterator["Tell"]:
    """A spinner with the current step; finished steps stay as lines."""
    with _CONSOLE.status("starting") as status:
        last: list[str] = []

        def tell(step: str) -> None:
            if last:
                _CONSOLE.print(f"[dim]· {escape(last.pop())}[/]", highlight=False)
            last.append(step)
            status.update(escape(step))

        yield tell
        if last:
            _CONSOLE.print(f"[dim]· {escape(last.pop())}[/]", highlight=False)


@contextmanager
def _shards_bar() -> Iterator[Callable[["ShardProgress"], None]]:
    """A bar over shards with the time that is left."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("shards"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=_CONSOLE) as bar:
        task = bar.add_task("shards", total=None, left="")

        def tell(state: "ShardProgress") -> None:
            left = "" if state.eta_s is None else f"about {state.eta_s:.0f} s left"
            bar.update(task, completed=state.done, total=state.total, left=left)

        yield tell


def _area(
    box: tuple[float, float, float, float] | None,
    centre: tuple[float, float] | None,
    radius: float | None,
) -> "Area":
    from hertzmap.apps.jobs import Area

    return Area(box, centre, radius)


def _pair(text: str, option: str) -> tuple[float, float]:
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError as error:
        msg = f"{option} needs two numbers with a comma between, e.g. 8.69,49.41; got {text!r}"
        raise ConfigError(msg) from error
    return first, second


def _sampling(
    kp: float,
    snr_db: float | None,
    sigma_db: float | None,
    drift_m: float,
    reference_dbm: float | None,
) -> "SamplingConfig":
    from hertzmap.measurement.sampling import SamplingConfig

    return SamplingConfig(
        rate_kp=kp,
        snr_db=snr_db,
        sigma_db=sigma_db,
        drift_m=drift_m,
        reference_dbm=0.0 if reference_dbm is None else reference_dbm,
    )


def _with_preset(method: str, preset: str | None) -> str:
    """``name:preset``: the preset as given, else as named in the method, else the first one."""
    import sys

    from hertzmap.core import registry

    name, _, rest = method.partition(":")
    if rest and preset is not None:
        msg = f"the method {method!r} already names its preset; leave --preset out"
        raise ConfigError(msg)
    chosen = registry.get("estimation", name)
    if rest:
        return method
    return f"{name}:{preset or next(iter(sys.modules[chosen.__module__].PRESETS))}"


def _finish(
    summary: dict[str, Any], json_to: Path | None, *, leave_out: tuple[str, ...] = ()
) -> None:
    """Print a summary for people and write it for programs."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")
    for key, value in summary.items():
        if key not in (*leave_out, "made_by", "files"):
            table.add_row(f"[dim]{key.replace('_', ' ')}[/]", escape(_readable(value)))
    for name, path in summary.get("files", {}).items():
        table.add_row(f"[dim]file: {name}[/]", escape(path))
    _CONSOLE.print(table)
    _write_json(summary, json_to)


def _readable(value: object) -> str:
    if isinstance(value, dict) and all(isinstance(inner, int) for inner in value.values()):
        return ", ".join(f"{inner} {key}" for key, inner in value.items()) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_readable(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(_readable(inner) for inner in value)
    return "-" if value is None else str(value)


def _write_json(summary: dict[str, Any], json_to: Path | None) -> None:
    if json_to is None:
        return
    from hertzmap.datasets.interchange import as_json, write_json

    if str(json_to) == "-":
        print(as_json(summary))
    else:
        write_json(json_to, summary)


def _print_scores(scores: Mapping[str, Mapping[str, float]]) -> None:
    from hertzmap.apps.pages import score_table

    content = score_table(scores)
    table = Table(title="Simulated truth, outdoor cells", box=SIMPLE, padding=0)
    for name in content.head:
        table.add_column(escape(name.replace(" interval holds", "")), justify="right")
    for row in content.rows:
        table.add_row(*row)
    _CONSOLE.print(table)


def _print_campus(campus: Mapping[str, Any]) -> None:
    from hertzmap.apps.pages import display_name

    cells = list(campus["reports"])
    title = "Campus: RMSE at left-out places, dB"
    table = Table("method", *(f"cell {cell}" for cell in cells), title=title, box=SIMPLE)
    for name, scores in campus["scores"].items():
        table.add_row(display_name(name), *(f"{scores[cell]['rmse_db']:.2f}" for cell in cells))
    _CONSOLE.print(table)


def _list(paths: tuple[Path, ...]) -> None:
    for path in paths:
        _CONSOLE.print(f"wrote {path}", highlight=False)
