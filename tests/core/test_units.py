import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hertzmap.core.kpi import PowerBudget, rsrp_dbm, snr_db
from hertzmap.core.seeds import generator
from hertzmap.core.units import GreyScale, to_db, to_linear, wavelength_m


@given(st.floats(-200.0, 200.0))
def test_decibels_and_power_ratios_are_inverse(value):
    assert to_db(to_linear(np.array([value])))[0] == pytest.approx(value, abs=1e-9)


def test_no_power_is_minus_infinity_and_a_negative_one_is_refused():
    assert to_db(np.array([0.0]))[0] == -np.inf
    with pytest.raises(ValueError, match="negative"):
        to_db(np.array([-1.0]))


def test_one_gigahertz_is_thirty_centimetres():
    assert wavelength_m(1e9) == pytest.approx(0.2998, abs=1e-4)


@given(st.floats(-147.0, -47.84))
def test_grey_is_reversible_on_the_scale(gain):
    scale = GreyScale()
    assert scale.to_db(scale.to_grey(np.array([gain])))[0] == pytest.approx(gain)


def test_grey_is_clipped_beyond_the_scale():
    assert GreyScale().to_grey(np.array([-300.0, 0.0])).tolist() == [0.0, 1.0]


@given(st.floats(-60.0, 60.0))
def test_a_budget_made_for_a_reference_has_it(reference):
    assert PowerBudget.for_reference(reference).reference_dbm == pytest.approx(reference)


def test_rsrp_and_snr_follow_the_link_budget():
    budget = PowerBudget()
    gain = np.array([-100.0])
    assert rsrp_dbm(gain, budget)[0] == pytest.approx(-100.0 + 43.0 - 10 * np.log10(12 * 273))
    assert budget.noise_dbm == pytest.approx(-173.975 + 10 * np.log10(30e3) + 9.0)
    assert snr_db(gain, budget)[0] == pytest.approx(rsrp_dbm(gain, budget)[0] - budget.noise_dbm)


@pytest.mark.parametrize("change", [{"resource_blocks": 0}, {"load": 1.5}])
def test_a_budget_checks_itself(change):
    with pytest.raises(ValueError, match="PowerBudget"):
        PowerBudget(**change)


def test_a_generator_belongs_to_its_address():
    assert generator(1, 2, 3).random() == generator(1, 2, 3).random()
    draws = {generator(*address).random() for address in [(1, 0), (1, 1), (1, 2), (2, 1), (0, 12)]}
    assert len(draws) == 5
