import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from hertzmap.apps.cli import app

rasterio = pytest.importorskip("rasterio")
RUNNER = CliRunner()


def run(*arguments):
    return RUNNER.invoke(app, [str(argument) for argument in arguments])


def done(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    return result


def refused(*arguments):
    """The message of a command that ends in one clear error."""
    result = run(*arguments)
    assert result.exit_code == 2 and "Traceback" not in result.stderr
    assert result.stderr.count("error:") == 1 and result.stdout == ""
    return " ".join(result.stderr.partition("error:")[2].split())


@pytest.fixture
def reports_csv(tmp_path, lonlat_of):
    """Forty reports around the houses, as a table."""
    draw = np.random.default_rng(3)
    places = draw.uniform(-20.0, 20.0, (40, 2))
    lonlat = lonlat_of(places)
    table = pd.DataFrame(
        {"lon": lonlat[:, 0], "lat": lonlat[:, 1], "rsrp_dbm": -80.0 - places[:, 0], "pci": 7}
    )
    path = tmp_path / "reports.csv"

    def write(change=lambda t: t):
        change(table).to_csv(path, index=False)
        return path

    write()
    return write


def test_importing_the_command_line_loads_no_framework():
    code = "import sys, hertzmap.apps.cli; assert not {'torch', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_methods_lists_every_estimator_with_its_presets():
    text = done("methods").stdout
    assert "kriging" in text and "as_published" in text and "radiodiff_inv2" in text


def test_scene_writes_what_its_summary_names(tiny_osm, tmp_path):
    result = done("scene", tiny_osm, "--raster", 2, "--out", tmp_path, "--json", "-")
    summary = json.loads(result.stdout)
    assert summary["buildings"] == 9 and summary["heights_from"] == {"levels": 9}
    assert summary["crs"] == "EPSG:32632" and "OpenStreetMap" in summary["attribution"]
    assert all(Path(path).stat().st_size > 100 for path in summary["files"].values())
    with rasterio.open(summary["files"]["raster"]) as file:
        heights, outdoors = file.read()
    assert heights.max() > 6 and ((heights > 0) == (outdoors == 0)).all()


def test_scene_reads_a_part(tiny_osm, tmp_path):
    place = ("--centre", 8.6, 49.4, "--radius", 6)
    result = done("scene", tiny_osm, *place, "--out", tmp_path, "--json", tmp_path / "s.json")
    assert result.stdout == ""
    assert json.loads((tmp_path / "s.json").read_text())["buildings"] == 1


def test_simulated_reports_lead_back_to_the_simulated_map(tiny_osm, tmp_path):
    place = ("--at-local", "0,8", "--height", 6, "--spacing", 1)
    noise = ("--reports", "--kp", 0.3, "--sigma-db", 1, "--drift-m", 0.3)
    simulated = tmp_path / "sim"
    done("simulate", tiny_osm, *place, *noise, "--out", simulated, "--json", simulated / "s.json")
    summary = json.loads((simulated / "s.json").read_text())
    assert summary["reports"] > 300 and summary["made_by"]["seed"] == "0"
    with np.load(simulated / "maps.npz") as maps:
        assert maps["path_gain_db"].shape[0] == 1 and maps["free"].any()
    reports = simulated / "reports.csv"
    grid = ("--spacing", 1, "--margin", 0, "--reference-dbm", 0)
    result = done(
        "estimate", tiny_osm, reports, "-m", "kriging", *grid, "--out", tmp_path, "--json", "-"
    )
    found = json.loads(result.stdout)
    assert found["method"] == "kriging:tuned" and found["cell"] is None
    with (
        rasterio.open(found["files"]["map"]) as estimate,
        rasterio.open(simulated / "tx1.tif") as t,
    ):
        assert estimate.crs == t.crs
        rows, cols = estimate.shape
        first = t.index(estimate.bounds.left + 0.5, estimate.bounds.top - 0.5)
        truth = t.read(1)[first[0] : first[0] + rows, first[1] : first[1] + cols]
        gap = estimate.read(1) - truth
        assert estimate.descriptions[2] == "probability_above_-100_dbm"
    assert np.sqrt(np.nanmean(gap**2)) < 6.0
    page = (tmp_path / "report.html").read_text()
    assert "Kriging (tuned)" in page and "OpenStreetMap" in page


def test_an_estimate_moves_reports_and_says_where_to_measure_next(tiny_osm, tmp_path, reports_csv):
    grid = ("--spacing", 2, "--margin", 0, "--drop-outside")
    result = done(
        "estimate",
        tiny_osm,
        reports_csv(),
        "-m",
        "kriging",
        *grid,
        "--out",
        tmp_path,
        "--json",
        "-",
    )
    found = json.loads(result.stdout)
    moved = pd.read_csv(found["files"]["reports"])
    assert len(moved) <= 40 and {"lon", "lat", "std_m", "information_nats"} <= set(moved.columns)
    places = pd.read_csv(found["files"]["next_places"])
    assert places["rank"].tolist() == list(range(1, len(places) + 1))
    assert (np.diff(places["variance_left"].to_numpy()) <= 0).all()
    assert found["transmitters"] == []


def test_network_maps_every_radio_cell(tiny_osm, tmp_path, reports_csv, lonlat_of):
    def two_cells(table):
        other = table.assign(pci=9, rsrp_dbm=-160.0 - table.rsrp_dbm)
        lon, lat = lonlat_of(np.zeros((1, 2)))[0]  # in the middle house
        indoors = table.iloc[:25].assign(pci=5, lon=lon, lat=lat)
        return pd.concat([table, other, indoors, table.iloc[:4].assign(pci=3)])

    grid = ("--spacing", 2, "--margin", 0, "--drop-outside")
    reports = reports_csv(two_cells)
    result = done(
        "network",
        tiny_osm,
        reports,
        "-m",
        "kriging",
        *grid,
        "--drift-std-m",
        0.2,
        "--out",
        tmp_path,
        "--json",
        "-",
    )
    found = json.loads(result.stdout)
    assert set(found["cells"]) == {"7", "9"} and set(found["left_out"]) == {"3", "5"}
    assert found["left_out"]["3"] == "4 reports, fewer than 20"
    assert "at least 3 are needed" in found["left_out"]["5"]
    assert found["served_share"] > 0.9
    shares = [own["best_server_share"] for own in found["cells"].values()]
    assert sum(shares) == pytest.approx(found["served_share"], abs=0.01)
    with rasterio.open(found["files"]["network"]) as file:
        assert file.descriptions[0] == "best_server_index" and file.count == 7
    assert "Who serves where" in (tmp_path / "report.html").read_text()
    text = refused(
        "network", tiny_osm, reports, "--fewest", 60, "--drop-outside", "--out", tmp_path
    )
    assert "no radio cell" in text and "lower --fewest" in text


def test_evaluate_scores_methods_on_one_truth(tiny_osm, tmp_path):
    world = ("--size", 40, "--spacing", 2, "--kp", 0.3, "--seed", 3)
    methods = ("-m", "kriging", "-m", "nearest:default")
    result = done("evaluate", tiny_osm, *world, *methods, "--out", tmp_path, "--json", "-")
    summary = json.loads(result.stdout)
    assert set(summary["scores"]) == {"kriging:tuned", "nearest:default"}
    assert summary["flags"]["same_engine"] is True
    assert summary["scores"]["kriging:tuned"]["rmse_db"] > 0
    assert "RMSE" in result.stderr and (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="rsrp_dbm"), "has no power column"),
        (lambda t: t.drop(columns="lon"), "has no places"),
        (lambda t: t.assign(rsrp_dbm=[None, *t.rsrp_dbm[1:]]), "in data row 1"),
        (lambda t: t.assign(lat=t.lat + 0.01), "40 of 40 reports lie outside the map"),
        (lambda t: t.assign(rsrp_dbm=[1e-9, *t.rsrp_dbm[1:]]), "look like milliwatts"),
        (lambda t: t.rename(columns={"lon": "lat", "lat": "lon"}), "look swapped"),
        (lambda t: t.rename(columns={"lon": "east_m", "lat": "north_m"}), "as degrees would"),
        (lambda t: t.iloc[:2], "are too few for a map"),
        (lambda t: t.assign(pci=range(40)), "choose one by --cell"),
    ],
)
def test_unusable_reports_end_in_one_message(tiny_osm, tmp_path, reports_csv, change, message):
    out = tmp_path / "out"
    text = refused("estimate", tiny_osm, reports_csv(change), "-m", "kriging", "--out", out)
    assert message in text and not out.exists()


def test_options_that_cannot_be_met_end_in_one_message(tiny_osm, tmp_path, reports_csv):
    table = reports_csv()
    estimate = ("estimate", tiny_osm, table, "--out", tmp_path / "out")
    assert "has no method 'krigging'" in refused(*estimate, "-m", "krigging")
    assert "has no preset 'fast'" in refused(*estimate, "-m", "kriging", "--preset", "fast")
    assert "leave --preset out" in refused(*estimate, "-m", "kriging:tuned", "--preset", "tuned")
    assert "cells of 0.001 m are over" in refused(*estimate, "-m", "kriging", "--spacing", 0.001)
    assert "must be above 0" in refused(*estimate, "-m", "kriging", "--spacing", 0)
    assert "no report of cell 9" in refused(*estimate, "-m", "kriging", "--cell", 9)
    assert "counts in degree" in refused(
        *estimate[:2],
        reports_csv(lambda t: t.rename(columns={"lon": "east_m", "lat": "north_m"})),
        "--reports-crs",
        "EPSG:4326",
    )
    assert "there is no report table" in refused("estimate", tiny_osm, tmp_path / "no.csv")
    assert "does not exist" in refused("scene", tmp_path / "no.osm")
    assert "cannot write" in refused("scene", tiny_osm, "--out", tiny_osm / "below")
    assert "so there is no tile 0" in refused("evaluate", tiny_osm, "-m", "kriging")


def test_transmitters_that_cannot_stand_end_in_one_message(tiny_osm, tmp_path):
    simulate = ("simulate", tiny_osm, "--out", tmp_path / "out")
    assert "no transmitter is given" in refused(*simulate)
    assert "two numbers with a comma" in refused(*simulate, "--at", "8.6")
    assert "inside" in refused(*simulate, "--at-local", "0,0", "--height", 3)
    assert "no propagation parameters" in refused(
        *simulate, "--at-local", "0,8", "--propagation", tmp_path / "no.yaml"
    )
    assert "cannot read the antenna pattern" in refused(
        *simulate, "--at-local", "0,8", "--pattern", tmp_path / "no.msi"
    )
    assert "must be above 0" in refused(*simulate, "--at-local", "0,8", "--carrier-ghz", 0)


def test_propagation_parameters_are_read_from_yaml(tiny_osm, tmp_path):
    path = tmp_path / "street.yaml"
    path.write_text("n_los: 2.2\nlabels: 2\n")
    place = ("--at-local=-8.5,0", "--height", 6, "--spacing", 2, "--propagation", path)
    result = done("simulate", tiny_osm, *place, "--out", tmp_path, "--json", "-")
    assert json.loads(result.stdout)["propagation"]["n_los"] == 2.2
    path.write_text("n_lose: 2.2\n")
    assert "n_lose" in refused("simulate", tiny_osm, *place, "--out", tmp_path)


def test_debug_shows_where_an_error_arose(tmp_path):
    result = run("--debug", "scene", tmp_path / "no.osm")
    assert result.exit_code == 2 and "Traceback" in result.stderr and "error:" in result.stderr


def test_benchmarks_and_training_get_their_options(monkeypatch, tmp_path):
    from hertzmap.benchmarks import campus, maps, propagation, render
    from hertzmap.training import prior

    seen = {}

    def recorder(name, answer):
        def record(*arguments, **options):
            seen[name] = (arguments, options)
            return answer

        return record

    monkeypatch.setattr(maps, "run", recorder("maps", (Path("a.json"),)))
    monkeypatch.setattr(campus, "run", recorder("campus", Path("b.json")))
    monkeypatch.setattr(propagation, "run", recorder("propagation", (Path("c.json"),)))
    monkeypatch.setattr(render, "run", recorder("tables", ()))
    monkeypatch.setattr(prior, "run", recorder("train", tmp_path))
    monkeypatch.setattr(prior, "release", recorder("release", []))
    done("bench", "maps", "--cells", "default kp-0.005", "-m", "kriging:tuned", "--limit", 2)
    done("bench", "campus", "--repeats", 2)
    done("bench", "propagation", "--part", "speed")
    done("bench", "tables")
    done("train", "--out", tmp_path, "--stage", "prior")
    assert seen["maps"][0][0] == ["default", "kp-0.005"]
    assert seen["maps"][0][2] == ["kriging:tuned"] and seen["maps"][0][4] == 2
    assert seen["campus"][1]["repeats"] == 2
    assert seen["propagation"][1]["parts"] == ("speed",)
    assert seen["train"][1]["stages"] == ("prior",) and "tables" in seen
    assert seen["release"][0] == (tmp_path, tmp_path / "weights")
    assert "no training stage 'post'" in refused("train", "--stage", "post")


def test_the_help_keeps_its_units():
    text = " ".join(done("network", "--help").stdout.split())
    assert "Side of a cell [m]." in text or "cell [m]" in text


TINY_DATASET = """
recipe: diffloc-uma
users: 2
fast_users: 1
snapshots: 2
users_per_shard: 2
coverage_dbm: null
"""


def test_simulate_dataset_resumes_and_is_checked(tmp_path):
    config, out = tmp_path / "tiny.yaml", tmp_path / "data"
    config.write_text(TINY_DATASET)
    part = done("simulate", "dataset", config, "--out", out, "--workers", 1, "--shard", "2/2")
    assert "dataset.json" not in {path.name for path in out.iterdir()}
    assert "whole" in part.stderr
    result = done("simulate", "dataset", config, "--out", out, "--workers", 1, "--json", "-")
    summary = json.loads(result.stdout)
    assert summary["whole"] and summary["counts"]["links"] == 3 * 2 * 7 and summary["shards"] == 2
    checked = json.loads(done("dataset", "check", out, "--json", "-").stdout)
    assert checked["problems"] == 0 and checked["shards"] == 2
    chunk = next(path for path in out.glob("shards/00001.zarr/rt/gain/c/**/*") if path.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-1])
    assert "is damaged" in refused("dataset", "check", out)


def test_simulate_dataset_refuses_what_it_does_not_know(tmp_path):
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY_DATASET + "sped: 3\n")
    assert "sped" in refused("simulate", "dataset", config, "--out", tmp_path / "data")
    config.write_text(TINY_DATASET)
    where = ("--out", tmp_path / "data", "--workers", 1)
    assert "i/n" in refused("simulate", "dataset", config, *where, "--shard", "3/2")
    assert "plan.json" in refused("dataset", "check", tmp_path / "nothing")


def test_simulate_needs_no_command_for_a_place(tmp_path):
    plain = run("simulate", tmp_path / "missing.osm")
    named = run("simulate", "place", tmp_path / "missing.osm")
    assert plain.exit_code == named.exit_code == 2 and plain.stderr == named.stderr
    assert "place" in done("simulate", "--help").stdout
