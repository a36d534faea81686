from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import shapely

from hertzmap.core.grid import Grid
from hertzmap.core.types import AntennaPattern, RadioMap, Reports, Scene, SceneRaster, Transmitter

SCENE = Scene(
    footprints=(shapely.box(0.0, 0.0, 4.0, 4.0),),
    height_m=np.array([9.0]),
    height_rule=("height",),
    source_id=("way/1",),
    bounds_m=(0.0, 0.0, 9.0, 9.0),
)
REPORTS = Reports(
    reported_m=np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]),
    power_dbm=np.array([-80.0, -90.0, -100.0]),
    noise_db=np.ones(3),
    drift_cov_m2=np.tile(0.64 * np.eye(2), (3, 1, 1)),
    cell_id=np.array([7, 8, 9]),
)
MAST = Transmitter((0.0, 0.0, 10.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height_m": np.array([9.0, 1.0])}, "heights, rules, ids count"),
        ({"height_rule": ()}, "heights, rules, ids count"),
        ({"materials": ("brick", "glass")}, "materials"),
        ({"height_m": np.array([0.0])}, "above 0"),
        ({"height_m": np.array([np.nan])}, "finite"),
        ({"bounds_m": (0.0, 0.0, 0.0, 9.0)}, "bounds_m is empty"),
    ],
)
def test_a_scene_checks_itself(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SCENE, **change)


def test_a_scene_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        SCENE.name = "other"  # pyright: ignore[reportAttributeAccessIssue]


def test_a_raster_fits_its_grid():
    with pytest.raises(ValueError, match="do not fit the grid"):
        SceneRaster(Grid(3, 4), np.zeros((4, 3)), np.ones((4, 3), dtype=bool))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise_db": -np.ones(3)}, "at least 0"),
        ({"power_dbm": np.array([-80.0, np.nan, np.inf])}, r"power_dbm is not finite .* \[1, 2\]"),
        ({"reported_m": np.full((3, 2), np.nan)}, "reported_m is not finite"),
        ({"drift_cov_m2": np.tile(np.diag([1.0, -1.0]), (3, 1, 1))}, "positive semi-definite"),
        ({"drift_cov_m2": np.tile(np.array([[1.0, 0.5], [0.0, 1.0]]), (3, 1, 1))}, "symmetric"),
    ],
)
def test_reports_check_themselves(change, message):
    with pytest.raises(ValueError, match=message):
        replace(REPORTS, **change)


def test_select_keeps_all_fields_of_the_same_reports():
    part = REPORTS.select(np.array([2, 0]))
    assert len(part) == 2
    assert part.power_dbm.tolist() == [-100.0, -80.0]
    assert part.reported_m.tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert part.cell_id is not None and part.cell_id.tolist() == [9, 7]
    assert part.device_id is None and part.reference_dbm is None
    assert len(REPORTS.select(REPORTS.power_dbm < -200.0)) == 0


def test_reports_have_no_room_for_the_true_place():
    assert not [name for name in vars(REPORTS) if "true" in name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"place_m": (0.0, 0.0, np.nan)}, "three finite metres"),
        ({"carrier_hz": 0.0}, "above 0"),
    ],
)
def test_a_transmitter_checks_itself(change, message):
    with pytest.raises(ValueError, match=message):
        replace(MAST, **change)


@pytest.mark.parametrize(
    ("kind", "gains", "message"),
    [("yagi", (), "must be one of"), ("table", (0.0,) * 3, "at least 4")],
)
def test_a_pattern_checks_itself(kind, gains, message):
    with pytest.raises(ValueError, match=message):
        AntennaPattern(kind, gains, gains)


def test_a_radio_map_needs_a_layer_per_transmitter_and_numbers_where_valid():
    gain, valid = np.full((1, 3, 4), -90.0), np.ones((1, 3, 4), dtype=bool)
    RadioMap(Grid(3, 4), gain, valid, (MAST,))
    with pytest.raises(ValueError, match="do not fit"):
        RadioMap(Grid(3, 4), gain, valid, (MAST, MAST))
    gain[0, 1, 1] = np.nan
    with pytest.raises(ValueError, match="finite where valid"):
        RadioMap(Grid(3, 4), gain, valid, (MAST,))
    valid[0, 1, 1] = False
    RadioMap(Grid(3, 4), gain, valid, (MAST,))
