import numpy as np

from hertzmap.core.grid import Grid
from hertzmap.core.types import AntennaPattern, Transmitter
from hertzmap.core.units import SPEED_OF_LIGHT_M_S
from hertzmap.propagation.antennas import gain_dbi
from hertzmap.propagation.path_layers import layers_from_paths
from hertzmap.propagation.scatter import ScatterConfig, ScatterWorld

GRID = Grid(3, 4, 5.0)
STATIONS = (
    Transmitter((-30.0, 4.0, 12.0), 3.5e9, AntennaPattern("sector"), yaw_rad=0.3, pitch_rad=0.1),
    Transmitter((40.0, 30.0, 8.0), 2.1e9),
)


def _receivers(cell: np.ndarray) -> np.ndarray:
    places = GRID.centres_m().reshape(-1, 2)[cell]
    return np.column_stack([places, np.full(len(cell), 1.5)])


def test_free_space_layers_are_friis_with_pattern_straight_delay_and_angles():
    cell = np.array([7, 0, 5, 11])
    ue_m = _receivers(cell)
    world = ScatterWorld(ScatterConfig(scatterers=0), seed=0)
    layers = layers_from_paths(world.channels(STATIONS, ue_m), GRID, cell)
    assert layers.toa_s is not None and layers.los is not None
    assert layers.aod_rad is not None and layers.aoa_rad is not None
    for number, station in enumerate(STATIONS):
        vector = ue_m - np.array(station.place_m)
        length = np.linalg.norm(vector, axis=1)
        azimuth = np.arctan2(vector[:, 1], vector[:, 0])
        gain = gain_dbi(station, azimuth, np.arccos(vector[:, 2] / length)) + 20 * np.log10(
            SPEED_OF_LIGHT_M_S / station.carrier_hz / (4 * np.pi * length)
        )
        at = np.unravel_index(cell, GRID.shape)
        np.testing.assert_allclose(layers.path_gain_db[number][at], gain, atol=1e-9)
        np.testing.assert_allclose(layers.toa_s[number][at], length / SPEED_OF_LIGHT_M_S)
        np.testing.assert_allclose(layers.aod_rad[number][at], azimuth)
        back = np.arctan2(-vector[:, 1], -vector[:, 0])
        np.testing.assert_allclose(layers.aoa_rad[number][at], back)
        assert layers.los[number][at].all()
        assert layers.valid[number].sum() == 4
        assert np.isnan(layers.path_gain_db[number][~layers.valid[number]]).all()


def test_the_delay_is_the_earliest_within_25_db_of_the_strongest_and_powers_add():
    cell = np.arange(12)
    world = ScatterWorld(ScatterConfig(scatterers=25), seed=3)
    channels = world.channels(STATIONS, _receivers(cell))
    layers = layers_from_paths(channels, GRID, cell)
    assert layers.toa_s is not None and layers.aod_rad is not None
    for snapshot in cell:
        row, col = divmod(int(snapshot), 4)
        for number, station in enumerate(STATIONS):
            own = channels.paths(int(snapshot) * 2 + number)
            pattern = gain_dbi(station, *channels.departure_rad[own].T)
            power = channels.power[own] * 10 ** (pattern / 10)
            heard = power >= power.max() * 10**-2.5
            assert layers.toa_s[number, row, col] == channels.delay_s[own][heard].min()
            assert (
                layers.aod_rad[number, row, col] == channels.departure_rad[own][power.argmax(), 0]
            )
            total = 10 * np.log10(power.sum())
            assert np.isclose(layers.path_gain_db[number, row, col], total)
