"""Derivatives of traced maps by materials, checked by finite differences, and the fit."""

from dataclasses import replace

import numpy as np
import pytest
import shapely

from hertzmap.core.errors import MissingExtraError, PropagationError
from hertzmap.core.grid import Grid
from hertzmap.core.types import Scene, Transmitter
from hertzmap.propagation import sionna_rt
from hertzmap.propagation.material_fit import (
    Material,
    calibrate_materials,
    map_error,
    materials,
    set_materials,
)
from hertzmap.propagation.ray_budget import RayBudget, SionnaConfig
from hertzmap.propagation.sionna_rt import SionnaScene

try:
    sionna_rt.sionna()
except MissingExtraError as error:  # raised at import: the machine has no ray tracer
    pytest.skip(str(error), allow_module_level=True)

CANYON = Scene(
    (shapely.box(-40, 6, 40, 16), shapely.box(-40, -16, 40, -6)),
    np.array([15.0, 15.0]),
    ("height",) * 2,
    ("way/1", "way/2"),
    (-40.0, -20.0, 40.0, 20.0),
)
STATION = Transmitter((-30.0, 1.0, 8.0))
GRID = Grid(2, 8, 5.0, (-15.0, -5.0))
GROUND, WALL = "medium_dry_ground-rm", "concrete-rm"


@pytest.fixture(scope="module")
def canyon() -> SionnaScene:
    budget = RayBudget(10_000, False)
    return SionnaScene.of(CANYON, SionnaConfig(depth=2, path_map=budget, max_paths=20_000))


@pytest.fixture(scope="module")
def truth(canyon):
    layers = canyon.path_map((STATION,), GRID)
    assert layers.valid.all()
    return layers


def test_the_slope_by_materials_is_that_of_finite_differences(canyon, truth):
    known = materials(canyon)
    start = {GROUND: Material(8.0, 0.1), WALL: Material(3.5, 0.05)}
    set_materials(canyon, start)
    found = map_error(canyon, truth, (GROUND, WALL))
    assert found.mean_square_db2 > 0.01 and found.cells == 16 and found.share == 1.0
    for name, value in start.items():
        for number, (field, step) in enumerate(
            (("relative_permittivity", 0.02), ("conductivity_s_m", 0.002))
        ):
            errors = []
            for sign in (1.0, -1.0):
                moved = replace(value, **{field: getattr(value, field) + sign * step})
                set_materials(canyon, {name: moved})
                errors.append(map_error(canyon, truth, ()).mean_square_db2)
            set_materials(canyon, {name: value})
            slope = (errors[0] - errors[1]) / (2 * step)
            assert np.isclose(found.slope[name][number], slope, rtol=0.05, atol=1e-4)
    set_materials(canyon, known)
    assert map_error(canyon, truth, ()).mean_square_db2 < 1e-8


def test_the_fit_finds_the_ground_that_made_the_map(canyon, truth):
    known = materials(canyon)
    set_materials(canyon, {GROUND: Material(9.0, 0.27)})
    fit = calibrate_materials(canyon, truth, (GROUND,), rounds=8)
    assert fit.rms_after_db < 0.1 * fit.rms_before_db
    assert fit.before[GROUND].relative_permittivity == pytest.approx(9.0)
    after = fit.after[GROUND].relative_permittivity
    assert after == pytest.approx(known[GROUND].relative_permittivity, rel=0.05)
    assert materials(canyon)[GROUND].relative_permittivity == pytest.approx(after)
    set_materials(canyon, known)


def test_the_place_of_a_station_has_no_slope_and_is_refused(canyon, truth):
    for name in ("transmitter", "place_m"):
        with pytest.raises(PropagationError, match="dominant-path"):
            map_error(canyon, truth, (name,))
        with pytest.raises(PropagationError, match="no material"):
            calibrate_materials(canyon, truth, (name,))
