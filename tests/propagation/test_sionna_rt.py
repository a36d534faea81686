"""Laws of the ray tracer, and one test for each pitfall of Sionna's arguments.

Most tests share numbers of rays and receivers, since each pair compiles kernels of its own.
"""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import shapely

from hertzmap.core.channels import DIFFRACTED, REFLECTED, Channels
from hertzmap.core.errors import ConfigError, MissingExtraError, PropagationError
from hertzmap.core.grid import Grid
from hertzmap.core.types import AntennaPattern, Scene, Terrain, Transmitter
from hertzmap.core.units import SPEED_OF_LIGHT_M_S, wavelength_m
from hertzmap.measurement.csi import Sounding, frequency_response
from hertzmap.propagation import sionna_rt
from hertzmap.propagation.antennas import gain_dbi
from hertzmap.propagation.arrays import PanelArray, port_gains
from hertzmap.propagation.ray_budget import RayBudget, SionnaConfig, expected_hits
from hertzmap.propagation.sionna_rt import ISOTROPIC, SionnaMaps, SionnaScene

try:
    sionna_rt.sionna()
except MissingExtraError as error:  # raised at import: the machine has no ray tracer
    pytest.skip(str(error), allow_module_level=True)

PLAIN = RayBudget(10_000, False)
CONFIG = SionnaConfig(
    channels=PLAIN, path_map=PLAIN, radio_map=RayBudget(1_000_000, False), max_paths=20_000
)
BENT = replace(CONFIG, channels=RayBudget(10_000, True))
HOUSES = (shapely.box(-30, 10, 0, 30), shapely.box(10, -30, 30, 0), shapely.box(-20, -25, -8, -8))
STREET = Scene(
    HOUSES,
    np.array([12.0, 15.0, 9.0]),
    ("height",) * 3,
    ("way/1", "way/2", "way/3"),
    (-40.0, -40.0, 40.0, 40.0),
)
STATIONS = (
    Transmitter((-36.0, 2.0, 6.0), 3.5e9, name="west"),
    Transmitter((5.0, 36.0, 6.0), 3.5e9, name="north"),
)
GRID = Grid(4, 4, 20.0, (-40.0, -40.0))
UES = np.random.default_rng(7).uniform([-38, -38, 1.0], [38, 38, 3.0], size=(16, 3))


@pytest.fixture(scope="module")
def free_space() -> SionnaScene:
    return SionnaScene.load(None, CONFIG)


@pytest.fixture(scope="module")
def street() -> SionnaScene:
    return SionnaScene.of(STREET, CONFIG)


@pytest.fixture(scope="module")
def traced(street) -> Channels:
    return street.channels(STATIONS, UES)


def _friis_db(distance_m, carrier_hz=3.5e9):
    return 20 * np.log10(wavelength_m(carrier_hz) / (4 * np.pi * distance_m))


def _indoors(places_m):
    return shapely.intersects_xy(shapely.union_all(HOUSES), places_m[..., 0], places_m[..., 1])


def test_free_space_is_friis_and_the_delay_is_length_over_c(free_space):
    distance = np.geomspace(1.0, 1000.0, 16)
    ue_m = np.stack([distance, np.zeros(16), np.full(16, 10.0)], axis=1)
    for carrier_hz in (0.9e9, 3.5e9, 28e9):
        found = free_space.channels((Transmitter((0.0, 0.0, 10.0), carrier_hz),), ue_m)
        np.testing.assert_allclose(
            found.path_gain_db[:, 0], _friis_db(distance, carrier_hz), atol=0.01
        )
        np.testing.assert_allclose(found.delay_s, distance / SPEED_OF_LIGHT_M_S, rtol=1e-6)
        assert not found.depth.any()
        assert not found.kind.any()


def test_flat_ground_gives_two_rays():
    bare = Scene((), np.empty(0), (), (), (-10.0, -60.0, 310.0, 60.0))
    distance = np.linspace(20.0, 300.0, 16)
    ue_m = np.stack([distance, np.zeros(16), np.full(16, 1.5)], axis=1)
    found = SionnaScene.of(bare, CONFIG).channels((Transmitter((0.0, 0.0, 10.0)),), ue_m)
    assert len(found.delay_s) == 32
    wavelength, ghz = wavelength_m(3.5e9), 3.5
    direct, bounced = np.hypot(distance, 8.5), np.hypot(distance, 11.5)
    permittivity = 15.0 * ghz**-0.1 - 1j * 0.035 * ghz**1.63 * 60 * wavelength  # P.2040, table 3
    sine, cosine = 11.5 / bounced, distance / bounced
    root = np.sqrt(permittivity - cosine**2)
    for field, reflection in (
        (0, (permittivity * sine - root) / (permittivity * sine + root)),
        (1, (sine - root) / (sine + root)),
    ):
        turn = np.exp(-2j * np.pi * (bounced - direct) / wavelength)
        law = np.abs(1 + reflection * direct / bounced * turn)
        phase = np.exp(-2j * np.pi * np.mod(3.5e9 * found.delay_s, 1.0))
        total = np.abs((found.gain[:, field, field] * phase).reshape(16, 2).sum(axis=1))
        off_nulls = law > 0.3
        assert off_nulls.sum() > 10
        expected_db = _friis_db(direct) + 20 * np.log10(law)
        np.testing.assert_allclose(
            20 * np.log10(total[off_nulls]), expected_db[off_nulls], atol=0.3
        )


def test_sums_of_paths_agree_with_sionnas_own_responses(street):
    near = np.array([[-30.0 + 3 * k, 3.0 + 0.2 * k, 1.5] for k in range(16)])
    ours = street.channels(STATIONS[:1], near)
    frequency = np.linspace(-50e6, 50e6, 33)
    with street.station(STATIONS[0], ISOTROPIC), street.receivers(near):
        solver, _ = sionna_rt.sionna().path_solver()
        theirs = street.solve(solver, CONFIG.channels)
        coefficient, delay_s = theirs.cir(normalize_delays=False, out_type="numpy")
        response = theirs.cfr(frequency, normalize_delays=False, out_type="numpy")
    coefficient, delay_s = coefficient[:, :, 0, :, :, 0], delay_s[:, 0].astype(np.float64)
    near_links = 0
    for link in range(16):
        mine = ours.paths(link)
        carrier = np.exp(-2j * np.pi * np.mod(3.5e9 * ours.delay_s[mine], 1.0))
        waves = np.exp(-2j * np.pi * frequency * ours.delay_s[mine, None])
        total = np.einsum("puv,p,pk->uvk", ours.gain[mine], carrier, waves)
        real = delay_s[link] >= 0
        their_waves = np.exp(-2j * np.pi * frequency * delay_s[link][real, None])
        summed = np.einsum("uvp,pk->uvk", coefficient[link][..., real], their_waves)
        size = np.linalg.norm(total)
        if delay_s[link][real].max() < 1e-7:  # beyond 30 m their carrier phase is off in float32
            assert np.linalg.norm(total - summed) <= 1e-4 * size
            near_links += 1
        assert np.linalg.norm(total - response[link, :, 0, :, 0]) <= 5e-3 * size
    assert near_links > 4


def test_the_phase_slope_of_the_response_is_the_absolute_delay(free_space):
    distance = np.geomspace(5.0, 900.0, 16)
    ue_m = np.stack([distance, np.zeros(16), np.full(16, 2.0)], axis=1)
    found = free_space.channels((Transmitter((0.0, 0.0, 10.0)),), ue_m)
    single = PanelArray(1, 1, (0.0,))
    sounding = Sounding(256, 120e3, 256)
    for link in range(16):
        response = frequency_response(found, port_gains(found, single, single), link, sounding)
        phase = np.unwrap(np.angle(response[0, 0]))
        slope = np.polyfit(sounding.frequency_hz, phase, 1)[0]
        delay_s = np.hypot(distance[link], 8.0) / SPEED_OF_LIGHT_M_S
        assert abs(-slope / (2 * np.pi) - delay_s) < 0.1e-9


def test_line_of_sight_follows_geometry_and_no_path_is_faster_than_light(traced):
    solid = shapely.union_all(HOUSES)
    for snapshot, ue_m in enumerate(UES):
        for number, station in enumerate(STATIONS):
            ray = shapely.LineString([station.place_m[:2], ue_m[:2]])
            clear = not ray.intersects(solid)  # below all roofs
            assert traced.los[snapshot, number] == clear
            mine = traced.paths(2 * snapshot + number)
            length = np.linalg.norm(ue_m - np.array(station.place_m))
            if clear:
                assert np.isclose(traced.delay_s[mine][0], length / SPEED_OF_LIGHT_M_S, rtol=1e-6)
                assert traced.depth[mine][0] == 0
            assert np.all(traced.delay_s[mine] >= length / SPEED_OF_LIGHT_M_S * (1 - 1e-6))


def test_links_are_by_snapshot_and_station_and_paths_by_delay(street, traced):
    assert traced.snapshots == 16
    for number, station in enumerate(STATIONS):
        alone = street.channels((station,), UES)
        np.testing.assert_array_equal(alone.path_gain_db[:, 0], traced.path_gain_db[:, number])
        np.testing.assert_array_equal(alone.first_delay_s[:, 0], traced.first_delay_s[:, number])
    assert (np.diff(traced.link_of_path) >= 0).all()
    inside = np.diff(traced.link_of_path) == 0
    rises = np.diff(traced.delay_s)[inside]
    power = traced.power
    assert (rises >= 0).all()
    assert (np.diff(power)[inside][rises == 0] <= 0).all()
    assert ((traced.kind & REFLECTED) > 0)[traced.depth > 0].all()


def test_a_ue_has_the_same_paths_alone_and_in_a_batch(street, traced):
    for snapshot in (0, 5, 11):
        alone = street.channels(STATIONS, UES[snapshot : snapshot + 1])
        for number in range(2):
            mine, other = alone.paths(number), traced.paths(2 * snapshot + number)
            assert mine.stop - mine.start == other.stop - other.start
            for name in ("gain", "delay_s", "departure_rad", "arrival_rad"):
                a, b = getattr(alone, name)[mine], getattr(traced, name)[other]
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max(initial=0))


def test_the_same_call_gives_the_same_bytes_with_diffraction_too(street):
    bent = SionnaScene.of(STREET, BENT)
    first, second = (bent.channels(STATIONS, UES) for _ in range(2))
    for name in ("offset", "gain", "delay_s", "departure_rad", "arrival_rad", "kind", "depth"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()
    assert ((first.kind & DIFFRACTED) > 0).any()
    lit = np.isfinite(first.path_gain_db).sum()
    assert lit >= np.isfinite(street.channels(STATIONS, UES).path_gain_db).sum()


def test_the_doppler_shift_is_the_speed_towards_the_wave(street, traced):
    speed = np.tile([20.0, -5.0, 0.0], (16, 1))
    moving = street.channels(STATIONS, UES, speed)
    azimuth, zenith = moving.arrival_rad.astype(float).T
    towards = 20.0 * np.cos(azimuth) - 5.0 * np.sin(azimuth)
    law = np.sin(zenith) * towards / wavelength_m(3.5e9)
    np.testing.assert_allclose(moving.doppler_hz, law, atol=1e-3)
    assert not traced.doppler_hz.any()


def test_indoors_is_masked_and_no_ray_passes_a_wall(street):
    inside = np.array([[-15.0, 20.0, 1.5], [20.0, -15.0, 14.0], [20.0, -15.0, 16.0]])
    found = street.channels(STATIONS, inside)
    assert np.isnan(found.path_gain_db[:2]).all()  # in rooms, though the second is in line of sight
    above = Transmitter((20.0, -20.0, 25.0))
    assert np.isfinite(street.channels((above,), inside).path_gain_db[2, 0])  # on the roof
    street.scene = None  # not masked, the rooms are dark still
    try:
        assert np.isnan(street.channels(STATIONS, inside[:2]).path_gain_db).all()
    finally:
        street.scene = STREET


def test_a_path_map_masks_rooms_and_dark_cells_and_knows_delays_and_angles(street):
    layers = street.path_map(STATIONS, GRID)
    assert layers.toa_s is not None and layers.los is not None and layers.aod_rad is not None
    rooms = _indoors(GRID.centres_m())
    assert rooms.any() and not layers.valid[:, rooms].any()
    for layer in (layers.path_gain_db, layers.toa_s, layers.aod_rad):
        np.testing.assert_array_equal(np.isfinite(layer), layers.valid)
    for number, station in enumerate(STATIONS):
        flat = GRID.centres_m() - np.array(station.place_m[:2])
        length = np.hypot(np.linalg.norm(flat, axis=-1), station.place_m[2] - 1.5)
        seen = layers.los[number]
        assert seen.any() and layers.valid[number][seen].all()
        np.testing.assert_allclose(
            layers.toa_s[number][seen], length[seen] / SPEED_OF_LIGHT_M_S, rtol=1e-6
        )
        azimuth = np.arctan2(flat[..., 1], flat[..., 0])
        np.testing.assert_allclose(layers.aod_rad[number][seen], azimuth[seen], atol=1e-4)
    backend = SionnaMaps(street, GRID).trace(STATIONS, workers=2)
    np.testing.assert_array_equal(backend.path_gain_db, layers.path_gain_db)
    none = street.path_map(STATIONS, GRID, np.zeros(GRID.shape, dtype=bool))
    assert not none.valid.any()


def test_patterns_are_ours_in_both_kinds_of_map(free_space):
    station = replace(
        STATIONS[0], pattern=AntennaPattern("sector"), yaw_rad=0.4, pitch_rad=0.2, roll_rad=0.1
    )
    by_paths = free_space.path_map((station,), GRID).path_gain_db[0]
    vector = GRID.centres_m() - np.array(station.place_m[:2])
    flat = np.linalg.norm(vector, axis=-1)
    pattern = gain_dbi(
        station, np.arctan2(vector[..., 1], vector[..., 0]), np.arctan2(flat, -(6.0 - 1.5))
    )
    np.testing.assert_allclose(by_paths, _friis_db(np.hypot(flat, 4.5)) + pattern, atol=0.01)
    fine = Grid(24, 24, 2.0, (-20.0, -24.0))
    rays = free_space.radio_map((station,), fine)
    paths = free_space.path_map((station,), fine)
    away = (rays.path_gain_db - paths.path_gain_db)[0]
    assert rays.valid.all() and abs(np.median(away)) < 0.1 and np.std(away) < 1.0
    for kind in (AntennaPattern("dipole"), AntennaPattern("table", (0.0,) * 4, (0.0,) * 4)):
        with pytest.raises(PropagationError, match="path_map"):
            free_space.radio_map((replace(station, pattern=kind),), fine)


def test_a_radio_map_masks_what_no_ray_hits_and_warns_of_too_few(street, caplog):
    fine = Grid(80, 80, 1.0, (-40.0, -40.0))
    layers = street.radio_map(STATIONS[:1], fine)
    assert not layers.valid[0][_indoors(fine.centres_m())].any()
    assert 0.2 < layers.valid.mean() < 0.9
    assert np.nanmin(layers.path_gain_db) > -150.0
    assert "rays or a coarser grid" in caplog.text
    again = street.radio_map(STATIONS[:1], fine)
    np.testing.assert_array_equal(layers.valid, again.valid)
    both = layers.valid
    np.testing.assert_allclose(
        10 ** (layers.path_gain_db[both] / 10), 10 ** (again.path_gain_db[both] / 10), rtol=1e-5
    )


def test_expected_hits_sum_to_the_rays_that_meet_the_plane():
    wide = Grid(400, 400, 2.0, (-400.0, -400.0))
    hits = expected_hits(Transmitter((0.0, 0.0, 8.0)), wide, 100_000, 1.5)
    assert np.isclose(hits.sum(), 50_000, rtol=0.02)  # half of the sphere, but for the far ones


def test_a_full_block_is_split_and_one_ue_with_too_many_paths_is_refused(traced):
    tight = SionnaScene.of(STREET, replace(CONFIG, max_paths=400))
    found = tight.channels(STATIONS, UES)
    np.testing.assert_array_equal(found.offset, traced.offset)
    np.testing.assert_allclose(found.power, traced.power, rtol=1e-5)
    with pytest.raises(PropagationError, match="max_paths"):
        SionnaScene.of(STREET, replace(CONFIG, max_paths=20)).channels(STATIONS, UES[:1])


def test_numpy_scalars_are_welcome(street, traced):
    numbers = np.array(STATIONS[0].place_m)
    station = Transmitter((numbers[0], numbers[1], numbers[2]), float(np.float64(3.5e9)))
    found = street.channels((station,), UES.astype(np.float32))
    np.testing.assert_allclose(found.path_gain_db[:, 0], traced.path_gain_db[:, 0], atol=1e-3)


def test_a_carrier_outside_a_materials_range_is_refused_by_name(street):
    with pytest.raises(PropagationError, match="medium_dry_ground") as caught:
        street.channels((replace(STATIONS[0], carrier_hz=28e9),), UES)
    assert "1 to 10 GHz" in str(caught.value)


def test_a_station_in_a_building_is_refused(street):
    with pytest.raises(PropagationError, match="inside a building"):
        street.channels((Transmitter((-15.0, 20.0, 5.0)),), UES)


def test_a_config_out_of_range_is_refused_and_blocks_keep_the_memory_bound():
    with pytest.raises(ConfigError, match="depth"):
        SionnaConfig(depth=-1)
    config = SionnaConfig()
    assert config.block(100_000) == 32
    assert config.block(10**9) == 1


def test_on_terrain_places_are_above_the_ground_and_level_planes_are_refused():
    ramp = Grid(12, 12, 10.0, (-60.0, -60.0))
    terrain = Terrain(ramp, 0.2 * (ramp.centres_m()[..., 0] + 60.0))
    bare = Scene((), np.empty(0), (), (), (-40.0, -40.0, 40.0, 40.0))
    scene = SionnaScene.of(bare, CONFIG, terrain=terrain)
    layers = scene.path_map(STATIONS[:1], GRID)
    assert layers.los is not None and layers.toa_s is not None and layers.los.all()
    vector = GRID.centres_m() - np.array(STATIONS[0].place_m[:2])
    rise = 0.2 * vector[..., 0] - (6.0 - 1.5)
    length = np.sqrt((vector**2).sum(axis=-1) + rise**2)
    np.testing.assert_allclose(layers.toa_s[0], length / SPEED_OF_LIGHT_M_S, rtol=1e-5)
    with pytest.raises(PropagationError, match="path_map"):
        scene.radio_map(STATIONS[:1], GRID)


def test_no_depth_is_line_of_sight_alone(traced):
    found = SionnaScene.of(STREET, replace(CONFIG, depth=0)).channels(STATIONS, UES)
    np.testing.assert_array_equal(found.los, traced.los)
    assert len(found.delay_s) == traced.los.sum()


DIGEST = """
import hashlib
import numpy as np
import shapely
from hertzmap.core.types import Scene, Transmitter
from hertzmap.propagation.ray_budget import RayBudget, SionnaConfig
from hertzmap.propagation.sionna_rt import SionnaScene
box = shapely.box(-10, -10, 10, 10)
scene = Scene((box,), np.array([9.0]), ("height",), ("way/1",), (-40.0, -40.0, 40.0, 40.0))
config = SionnaConfig(channels=RayBudget(10_000, True), max_paths=20_000)
ue_m = np.column_stack([np.linspace(-30, 30, 16), np.full(16, 20.0), np.full(16, 1.5)])
found = SionnaScene.of(scene, config).channels((Transmitter((0.0, -30.0, 6.0)),), ue_m)
digest = hashlib.sha256(found.gain.tobytes() + found.delay_s.tobytes()).hexdigest()
"""


def test_another_process_with_one_thread_solves_and_gives_the_same_bytes():
    one = "import drjit\ndrjit.set_thread_count(1)\n"
    done = subprocess.run(
        [sys.executable, "-c", one + DIGEST + "print(digest)"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    here: dict[str, object] = {}
    exec(DIGEST, here)
    assert done.stdout.strip() == here["digest"]
    assert (here["found"].kind & DIFFRACTED).any()  # type: ignore[attr-defined]
