"""Calibration on ray-traced maps: what is known is recovered, and held-out cities stay out."""

import json
from dataclasses import replace

import numpy as np
import pytest

from hertzmap.benchmarks import calibration, results
from hertzmap.benchmarks.calibration import CalibrationBenchConfig, above_model_db, place, scores
from hertzmap.core.errors import DataError, MissingExtraError
from hertzmap.core.grid import Grid
from hertzmap.core.types import Transmitter
from hertzmap.datasets.raytraced import RayTraced, every
from hertzmap.propagation import sionna_rt
from hertzmap.propagation.calibration import CalibrationConfig, read_calibration
from hertzmap.propagation.dominant_path import DominantPath, Environment
from hertzmap.propagation.parameters import PropagationParameters
from hertzmap.scenes.synthetic import city

TILE = Grid(96, 96, 1.0, (-48.0, -48.0))
TRUE = PropagationParameters(n_los=2.2, n_nlos=3.2, k1=0.8, offset_nlos_db=-4.0)


def seen_of(seed, name, numbers=TRUE, step=3):
    """Maps of the model itself in the place of traced ones: one of each kind of antenna."""
    environment = Environment.prepare(city(seed, size_m=96.0, buildings=8), TILE, margin_m=0.0)
    some = every(environment.site, step)
    outdoors = TILE.centres_m()[environment.site.free]
    found = []
    for index, (antenna, up_m) in enumerate((("street", 4.0), ("roof", 30.0))):
        place_m = outdoors[len(outdoors) // (2 + index)]
        station = Transmitter((float(place_m[0]), float(place_m[1]), up_m))
        fine = DominantPath(environment, numbers, layers="street").trace((station,))
        row, col = np.moveaxis(TILE.cell(some.grid.centres_m()), -1, 0)
        pick = (np.zeros_like(row), row, col)
        valid = fine.valid[pick] & (np.arange(row.size).reshape(row.shape) % 7 > 0)
        assert fine.los is not None
        layers = replace(
            fine,
            grid=some.grid,
            path_gain_db=np.where(valid, fine.path_gain_db[pick], np.nan)[None],
            valid=valid[None],
            los=(fine.los[pick] & valid)[None],
            toa_s=None,
            aoa_rad=None,
            aod_rad=None,
            interaction_loss_db=None,
            transmitters=(station,),
        )
        for number, kind in enumerate(("paths", "rays")):
            made = {"antenna": antenna, "kind": kind}
            traced = RayTraced(name, index + 10 * number, environment.site, layers, made)
            found.append(place(traced, environment))
    return found


def test_a_map_of_the_model_itself_is_met_exactly_on_a_coarser_grid():
    seen = seen_of(4, "here")
    found = scores(seen, TRUE)
    assert found["rmse_db"] < 0.01 and found["reached"] == 1.0
    assert abs(found["los_bias_db"]) < 0.01 > abs(found["nlos_bias_db"])
    assert found["nlos_correlation"] > 0.999
    lifted = scores(seen[:1], replace(TRUE, offset_los_db=5.0))  # roofs have an offset of their own
    assert lifted["los_bias_db"] == pytest.approx(5.0, abs=0.3)
    assert lifted["los_std_db"] < 1.0
    off, model_db = above_model_db(seen[0], TRUE)
    assert off.shape == model_db.shape == seen[0].los.shape == seen[0].observation.gain_db.shape


def test_an_extract_that_is_not_the_traced_one_is_refused():
    (one, *_) = seen_of(4, "here")
    other = Environment.prepare(city(5, size_m=96.0, buildings=8), TILE, margin_m=0.0)
    with pytest.raises(DataError, match="bench ray-traced"):
        place(one.traced, other)


def test_the_benchmark_fits_cities_it_is_not_scored_on(tmp_path, monkeypatch):
    parts = {
        "training": [*seen_of(4, "one"), *seen_of(5, "two")],
        "test": seen_of(7, "four"),
    }
    monkeypatch.setattr(calibration, "load_maps", parts.__getitem__)
    settings = CalibrationBenchConfig(
        rungs=("defaults", "nine numbers"), fit=CalibrationConfig(places=150, rounds=2)
    )
    path = tmp_path / "calibration.json"
    written = calibration.run(path, parts=("model",), config=settings)
    found = results.read(path)

    def mean(method, metric):
        row = found.row(method, metric)
        assert row is not None
        return row.mean

    for part, cities in (("left_out", 2), ("test", 1)):
        row = found.row("rays: nine numbers", f"{part}_nlos_std_db")
        assert row is not None and row.n == cities
        for kind in calibration.KINDS:
            before, after = (mean(f"{kind}: {name}", f"{part}_rmse_db") for name in settings.rungs)
            assert after < 0.5 * before
    assert 0.0 < mean("paths: truth", "left_out_dark_share") < 1.0
    assert found.header["gradients"]["places of antennas"].startswith("none")
    fitted = read_calibration(written[1])
    assert fitted.n_nlos != PropagationParameters().n_nlos
    kept = json.loads(written[1].read_text())
    assert kept["held_out_rmse_db"][1] < kept["held_out_rmse_db"][0]
    assert kept["truth_sha256"] == found.header["truth_sha256"]["paths"]


@pytest.mark.slow
def test_materials_are_recovered_and_the_derivative_is_right():
    try:
        sionna_rt.sionna()
    except MissingExtraError as error:
        pytest.skip(str(error))
    settings = CalibrationBenchConfig(
        material_side_m=48.0, material_spacing_m=12.0, material_rounds=4
    )
    rows = {row.metric: row.mean for row in calibration.material_rows(settings)}
    assert rows["rms_after_db"] < 0.2 * rows["rms_before_db"]
    for metric in [name for name in rows if "_tracer@" in name]:
        other = rows[metric.replace("_tracer@", "_differences@")]
        assert np.isclose(rows[metric], other, rtol=0.05, atol=0.01 * rows["rms_before_db"] ** 2)


def test_in_sight_a_map_by_rays_has_the_gains_by_paths():
    paths, rays, *_ = (one.traced for one in seen_of(4, "here"))
    noisy = replace(rays.radio_map, path_gain_db=rays.radio_map.path_gain_db + 7.0)
    mended = calibration.straight(replace(rays, radio_map=noisy), paths).radio_map
    los = paths.radio_map.los
    assert los is not None and los.any() and not los.all()
    gap_db = mended.path_gain_db - paths.radio_map.path_gain_db
    np.testing.assert_allclose(gap_db[los], 0.0)
    np.testing.assert_allclose(gap_db[mended.valid & ~los], 7.0)
    other = replace(
        paths, radio_map=replace(paths.radio_map, transmitters=(Transmitter((0.0, 0.0, 1.0)),))
    )
    assert calibration.straight(rays, other) is calibration.straight(rays, None) is rays
