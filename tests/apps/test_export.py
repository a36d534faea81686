import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hertzmap.apps.cli import app

rasterio = pytest.importorskip("rasterio")
RUNNER = CliRunner()


def run(*arguments):
    return RUNNER.invoke(app, ["export", *(str(argument) for argument in arguments)])


def done(*arguments):
    result = run(*arguments, "--json", "-")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def dem(tmp_path, hamlet):
    """Ground that rises by 10 m from west to east, 200 m above the sea."""
    west, north = hamlet.origin_m[0] - 200.0, hamlet.origin_m[1] + 200.0
    heights = np.tile(200.0 + np.arange(40) * 0.25, (40, 1)).astype(np.float32)
    profile = {"driver": "GTiff", "width": 40, "height": 40, "count": 1, "dtype": "float32"}
    place = rasterio.Affine(10.0, 0, west, 0, -10.0, north)
    with rasterio.open(tmp_path / "dem.tif", "w", crs=hamlet.crs, transform=place, **profile) as f:
        f.write(heights, 1)
    return tmp_path / "dem.tif"


def test_mitsuba_is_written_with_its_record(tiny_osm, tmp_path):
    summary = done(tiny_osm, "--out", tmp_path / "rt")
    assert summary["buildings"] == 9 and summary["format"] == "mitsuba"
    files = {name: Path(path) for name, path in summary["files"].items()}
    assert set(files) == {"scene", "record", "buildings-concrete", "ground"}
    assert files["scene"] == tmp_path / "rt" / "scene.xml"
    assert all(path.stat().st_size > 100 for path in files.values())
    record = json.loads(files["record"].read_text())
    assert record["crs"] == "EPSG:32632" and "OpenStreetMap" in record["attribution"]
    assert record["meshes"]["buildings-concrete"]["triangles"] == 9 * 12


def test_gltf_stands_on_a_dem(tiny_osm, tmp_path, dem):
    summary = done(tiny_osm, "-f", "gltf", "--dem", dem, "--out", tmp_path)
    assert summary["files"] == {"scene": str(tmp_path / "hamlet.glb")}
    assert summary["terrain"]["source"] == "dem.tif" and summary["terrain"]["relief_m"] > 2.0
    assert 200.0 <= summary["terrain"]["datum_m"] < 210.0
    assert (tmp_path / "hamlet.glb").read_bytes()[:4] == b"glTF"


def test_what_is_wrong_is_said(tiny_osm, tmp_path):
    result = run(tiny_osm, "-f", "obj", "--out", tmp_path)
    assert result.exit_code == 2 and "choose from mitsuba, gltf" in result.stderr
    result = run(tiny_osm, "--dem", tmp_path / "none.tif", "--out", tmp_path)
    assert result.exit_code == 2 and "GeoTIFF of heights" in " ".join(result.stderr.split())
