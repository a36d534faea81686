from dataclasses import replace

import numpy as np
import pytest

from hertzmap.core.errors import DataError, PropagationError
from hertzmap.core.grid import Grid
from hertzmap.core.types import AntennaPattern, Reports, Transmitter
from hertzmap.propagation.calibration import (
    CalibrationConfig,
    Observation,
    _gather,
    _model_db,
    calibrate,
    error_db,
    read_calibration,
    write_calibration,
)
from hertzmap.propagation.dominant_path import DominantPath, Environment
from hertzmap.propagation.parameters import PropagationParameters
from hertzmap.scenes.synthetic import city

GRID = Grid(64, 64, 2.0, (-64.0, -64.0))
SITES = ((-44.0, -34.0), (0.0, 0.0), (36.0, -24.0), (-28.0, 40.0), (26.0, 32.0))


@pytest.fixture(scope="module")
def environment():
    return Environment.prepare(city(4, size_m=128.0, buildings=14), GRID, margin_m=0.0)


def transmitters(environment, up_m=4.0, sites=SITES, **kinds):
    """Sites moved to the nearest outdoor cell."""
    centres = environment.grid.centres_m()[environment.site.free]
    for place in sites:
        east, north = centres[np.argmin(np.linalg.norm(centres - place, axis=-1))].tolist()
        yield Transmitter((east, north, up_m), **kinds)


def observed(environment, numbers, noise_db=0.0, roof=True, sites=None, **kinds):
    engine = DominantPath(environment, numbers, roof=roof)
    draw = np.random.default_rng(1)
    found = []
    for site in sites or tuple(transmitters(environment, **kinds)):
        gain_db = engine.trace((site,)).path_gain_db[0]
        gain_db = gain_db + draw.normal(0.0, noise_db, gain_db.shape)
        found.append(Observation.of_map(environment, site, gain_db))
    return found


@pytest.mark.parametrize(
    "numbers",
    [
        PropagationParameters(n_los=2.2, waveguide_db=4.0, offset_nlos_db=-3.0, offset_los_db=1.0),
        PropagationParameters(exponent="split", n_bend=1.5),
        PropagationParameters(exponent="single", n_bend=1.5, k0=0.2, w_max=2.0),
        PropagationParameters(roof_law="bends", k0=0.2, offset_roof_db=2.0),
    ],
    ids=["whole", "split", "single", "bends"],
)
@pytest.mark.parametrize("kind", ["isotropic", "sector"])
def test_the_model_of_fixed_routes_is_the_engine(environment, numbers, kind):
    kinds = {"pattern": AntennaPattern(kind), "yaw_rad": 0.7, "pitch_rad": 0.1}
    seen = observed(environment, numbers, **kinds)
    places = _gather(seen, numbers, roof=True)
    off = np.abs(_model_db(places, numbers) - places.gain_db)
    assert len(off) > 5000
    assert np.quantile(off, 0.99) < 0.01


def test_known_numbers_are_recovered_from_a_noisy_map():
    grid = Grid(128, 128, 2.0, (-128.0, -128.0))
    environment = Environment.prepare(city(4, buildings=40), grid, margin_m=0.0)
    places = [(float(east), float(north)) for east in (-90, -30, 30, 90) for north in (-80, 0, 80)]
    sites = tuple(transmitters(environment, sites=places))
    truth = PropagationParameters(n_nlos=3.3, n_bend=2.4, k1=0.8, k2=2.0)
    start = PropagationParameters(n_bend=2.4)
    rules = CalibrationConfig(free=("n_nlos", "k1", "k2"))
    fit = calibrate(observed(environment, truth, 2.0, False, sites), start, rules, roof=False)
    assert fit.parameters.n_nlos == pytest.approx(truth.n_nlos, rel=0.05)
    assert fit.parameters.k1 == pytest.approx(truth.k1, rel=0.05)
    assert fit.parameters.k2 == pytest.approx(truth.k2, rel=0.05)
    assert fit.after_db == pytest.approx(2.0, abs=0.1)
    assert fit.before_db > 2 * fit.after_db


def test_a_held_out_map_is_never_worse_than_by_default(environment):
    seen = observed(environment, PropagationParameters(n_nlos=3.0, k1=2.0, n_bend=1.6), 2.0)
    defaults = PropagationParameters()
    fit = calibrate(seen[:-1], defaults, CalibrationConfig(places=800, rounds=3))
    fitted, unfitted = error_db(seen[-1:], fit.parameters), error_db(seen[-1:], defaults)
    assert fitted[0] < unfitted[0] + 0.2
    assert fitted[0] < 2.5
    untouched = calibrate(observed(environment, defaults), defaults, CalibrationConfig(rounds=2))
    assert untouched.after_db <= 0.2


def test_bounds_hold_and_numbers_that_are_not_free_stay(environment):
    truth = PropagationParameters(n_los=2.9, n_nlos=4.4, offset_los_db=14.0)
    rules = CalibrationConfig(free=("n_los", "n_nlos"), places=300, rounds=2)
    fit = calibrate(observed(environment, truth), config=rules).parameters
    assert fit.n_los <= 3.0 and fit.n_nlos <= 4.5
    assert replace(fit, n_los=2.0, n_nlos=2.8) == PropagationParameters()


def test_reports_count_at_their_cells(environment):
    site = next(transmitters(environment))
    cell = np.argwhere(environment.site.free)[::37]
    place = GRID.place(cell.astype(float)) + 0.3
    place[0] = (-70.0, 3.0)  # off the grid
    count = len(cell)
    reports = Reports(
        place, np.full(count, -80.0), np.zeros(count), np.zeros((count, 2, 2)), reference_dbm=10.0
    )
    seen = Observation.of_reports(environment, site, reports)
    assert np.array_equal(seen.cell, cell[1:])
    assert np.all(seen.gain_db == -90.0)


def test_a_roof_site_is_calibrated_without_street_routes(environment):
    roofs = np.argwhere(~environment.site.free)
    east, north = GRID.place(roofs[len(roofs) // 2].astype(float)).tolist()
    sites = (Transmitter((east, north, 60.0)),)
    truth = PropagationParameters(offset_roof_db=6.0)
    seen = observed(environment, truth, sites=sites)
    fit = calibrate(seen, config=CalibrationConfig(free=("offset_roof_db",), places=500))
    assert fit.parameters.offset_roof_db == pytest.approx(6.0, abs=0.05)


def test_the_file_gives_the_numbers_back(tmp_path, environment):
    numbers = PropagationParameters(k0=0.3, n_bend=2.0)
    fit = calibrate(
        observed(environment, numbers), numbers, CalibrationConfig(free=("k1",), places=50)
    )
    path = tmp_path / "fit" / "numbers.json"
    write_calibration(
        path, fit, environment_class="toy", source="own engine", truth_hash="0" * 64,
        carrier_hz=3.5e9, held_out_before_db=3.0, held_out_after_db=2.0,
    )  # fmt: skip
    assert read_calibration(path) == fit.parameters
    path.write_text("{}")
    with pytest.raises(DataError, match="no calibration"):
        read_calibration(path)


def test_nothing_to_fit_is_refused(environment):
    with pytest.raises(PropagationError, match="nothing to calibrate"):
        calibrate([])
    seen = observed(environment, PropagationParameters())
    with pytest.raises(PropagationError, match="without bounds"):
        calibrate(seen, config=CalibrationConfig(free=("labels",)))
