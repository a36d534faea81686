import numpy as np
import pytest
from scipy.integrate import trapezoid

from hertzmap.core.errors import DataError
from hertzmap.core.types import AntennaPattern, Transmitter
from hertzmap.propagation.antennas import gain_dbi, read_pattern

HORIZON = np.pi / 2


def an_antenna(kind, **turned):
    return Transmitter((0.0, 0.0, 10.0), pattern=AntennaPattern(kind), **turned)


def towards(transmitter, azimuth_deg, zenith_deg):
    directions = np.broadcast_arrays(np.deg2rad(azimuth_deg), np.deg2rad(zenith_deg))
    return gain_dbi(transmitter, np.atleast_1d(directions[0]), np.atleast_1d(directions[1]))


def test_isotropic_is_nought_everywhere():
    assert np.all(gain_dbi(an_antenna("isotropic"), np.zeros((3, 4)), np.ones((3, 4))) == 0)


def test_the_sector_has_its_standard_beam():
    sector = an_antenna("sector", yaw_rad=np.deg2rad(30))
    assert towards(sector, 30, 90)[0] == pytest.approx(8.0)
    assert towards(sector, [30 - 32.5, 30 + 32.5], 90) == pytest.approx([5.0, 5.0])
    assert towards(sector, 30, [57.5, 122.5]) == pytest.approx([5.0, 5.0])
    assert towards(sector, 210, 90)[0] == pytest.approx(8.0 - 30.0)


def test_a_downtilt_is_strongest_below_the_horizon():
    sector = an_antenna("sector", yaw_rad=1.0, pitch_rad=np.deg2rad(10))
    zenith = np.deg2rad(np.arange(60, 121))
    gain = gain_dbi(sector, np.full(61, 1.0), zenith)
    assert np.rad2deg(zenith[np.argmax(gain)]) == pytest.approx(100)


def test_roll_turns_the_beam_about_its_axis():
    pattern = AntennaPattern(
        "table", tuple(np.linspace(0, -35, 36)), tuple(np.linspace(0, -70, 36)), 5.0
    )
    upright = Transmitter((0.0, 0.0, 1.0), pattern=pattern)
    rolled = Transmitter((0.0, 0.0, 1.0), pattern=pattern, roll_rad=np.pi / 2)
    # A quarter roll brings the antenna's left side to the top.
    assert towards(rolled, 0, 70) == pytest.approx(towards(upright, 20, 90))


def test_the_dipole_radiates_all_its_power():
    zenith = np.linspace(0, np.pi, 2001)
    gain = 10 ** (gain_dbi(an_antenna("dipole"), np.zeros(2001), zenith) / 10)
    assert trapezoid(gain * np.sin(zenith), zenith) / 2 == pytest.approx(1.0, abs=0.005)
    assert 10 * np.log10(gain.max()) == pytest.approx(2.15, abs=0.01)
    assert np.all(np.isfinite(gain))


def test_yaw_turns_the_map_and_full_turns_change_nothing():
    azimuth = np.linspace(-np.pi, np.pi, 31)
    zenith = np.full(31, 1.7)
    plain = gain_dbi(an_antenna("sector", pitch_rad=0.1), azimuth, zenith)
    turned = gain_dbi(an_antenna("sector", pitch_rad=0.1, yaw_rad=0.6), azimuth + 0.6, zenith)
    wound = gain_dbi(an_antenna("sector", pitch_rad=0.1), azimuth + 2 * np.pi, zenith)
    assert turned == pytest.approx(plain) and wound == pytest.approx(plain)


def write_pattern(path, horizontal, vertical, gain="GAIN 15.0 dBi"):
    lines = ["NAME test", "FREQUENCY 2100", gain, "TILT ELECTRICAL", "HORIZONTAL 360"]
    lines += [f"{angle} {loss}" for angle, loss in enumerate(horizontal)]
    lines += ["VERTICAL 360"]
    lines += [f"{angle:.1f}\t{loss}" for angle, loss in enumerate(vertical)]
    path.write_text("\n".join(lines))
    return path


def test_a_file_pattern_keeps_both_cuts_and_its_hands(tmp_path):
    angle = np.arange(360)
    off_axis = np.minimum(angle, 360 - angle)
    horizontal = 20 * off_axis / 180 + np.where(angle == 90, 3.0, 0.0)  # a dent to the RIGHT
    vertical = 20 * off_axis / 180 + np.where(angle == 30, 2.0, 0.0)  # a dent BELOW
    pattern = read_pattern(write_pattern(tmp_path / "a.msi", horizontal, vertical))
    site = Transmitter((0.0, 0.0, 10.0), pattern=pattern)
    assert pattern.peak_dbi == 15.0
    assert towards(site, -angle.astype(float), 90) == pytest.approx(15 - horizontal)
    assert towards(site, 0, 90 + np.arange(0.0, 90)) == pytest.approx(15 - vertical[:90])
    assert towards(site, 180, 90 + np.arange(89.0)) == pytest.approx(15 - vertical[180:91:-1])


def test_a_gain_without_unit_is_over_a_dipole(tmp_path):
    for line, dbi in (("GAIN 10", 12.15), ("GAIN 10 dBd", 12.15), ("GAIN 10 dBi", 10.0)):
        path = write_pattern(tmp_path / "b.msi", [0] * 360, [0] * 360, line)
        assert read_pattern(path).peak_dbi == pytest.approx(dbi)


def test_a_broken_file_is_named_with_its_line(tmp_path):
    with pytest.raises(DataError, match="cannot read"):
        read_pattern(tmp_path / "missing.msi")
    with pytest.raises(DataError, match="line 365"):
        read_pattern(write_pattern(tmp_path / "c.msi", [0] * 359, [0] * 360))
    with pytest.raises(DataError, match=r"line 105: expected '99 attenuation'"):
        values = ["x" if angle == 99 else 0 for angle in range(360)]
        read_pattern(write_pattern(tmp_path / "d.msi", values, [0] * 360))
    with pytest.raises(DataError, match="no GAIN"):
        read_pattern(write_pattern(tmp_path / "e.msi", [0] * 360, [0] * 360, "NOTE"))
    with pytest.raises(DataError, match="GAIN must be in dBi or dBd"):
        read_pattern(write_pattern(tmp_path / "f.msi", [0] * 360, [0] * 360, "GAIN 5 dB"))
    (tmp_path / "g.msi").write_text("NAME x\nGAIN 3 dBi\n")
    with pytest.raises(DataError, match="no HORIZONTAL 360"):
        read_pattern(tmp_path / "g.msi")
