import numpy as np
import pytest

from hertzmap.metrics import calibration as cal


def test_crps_of_a_point_mass_is_the_absolute_error():
    value, mean = np.array([1.0, -2.0, 3.0]), np.array([0.5, -2.0, 7.0])
    np.testing.assert_allclose(cal.crps_gaussian(value, mean, np.zeros(3)), [0.5, 0.0, 4.0])
    one = np.ones(1)
    np.testing.assert_allclose(
        cal.crps_mixture(value, mean[None], np.zeros((1, 3)), one), [0.5, 0.0, 4.0]
    )
    np.testing.assert_allclose(cal.crps_ensemble(value, mean[None]), [0.5, 0.0, 4.0])


def test_crps_of_a_standard_normal_at_its_mean():
    found = cal.crps_gaussian(np.zeros(1), np.zeros(1), np.ones(1))[0]
    assert found == pytest.approx((np.sqrt(2.0) - 1.0) / np.sqrt(np.pi))


def test_the_mixture_is_its_integral():
    draw = np.random.default_rng(0)
    means, spreads = draw.normal(0.0, 3.0, (3, 4)), draw.uniform(0.5, 2.0, (3, 4))
    weight, value = np.array([0.2, 0.5, 0.3]), draw.normal(0.0, 3.0, 4)
    steps = np.linspace(-40.0, 40.0, 40_001)
    for p in range(4):
        column = np.broadcast_to
        below = cal.probability_below(
            steps,
            column(means[:, p : p + 1], (3, len(steps))),
            column(spreads[:, p : p + 1], (3, len(steps))),
            weight,
        )
        integral = np.trapezoid((below - (steps >= value[p])) ** 2, steps)
        found = cal.crps_mixture(value, means, spreads, weight)[p]
        assert found == pytest.approx(integral, abs=2e-3)


def test_a_mixture_of_equals_is_one_gaussian():
    value, mean, spread = np.array([1.0, 4.0]), np.array([0.0, 5.0]), np.array([2.0, 0.5])
    three = cal.crps_mixture(
        value, np.stack([mean] * 3), np.stack([spread] * 3), np.array([0.5, 0.3, 0.2])
    )
    np.testing.assert_allclose(three, cal.crps_gaussian(value, mean, spread), atol=1e-12)


def test_the_fair_ensemble_score_is_its_double_sum():
    members, value = np.random.default_rng(1).normal(size=(7, 5)), np.zeros(5)
    apart = np.abs(members[:, None] - members[None]).sum(axis=(0, 1))
    expected = np.abs(members).mean(axis=0) - apart / (2 * 7 * 6)
    np.testing.assert_allclose(cal.crps_ensemble(value, members), expected)


def test_the_transform_is_uniform_when_the_belief_is_right():
    draw = np.random.default_rng(2)
    means, spreads = draw.normal(0.0, 4.0, (2, 5000)), draw.uniform(0.5, 2.0, (2, 5000))
    weight = np.array([0.7, 0.3])
    which = (draw.random(5000) > 0.7).astype(int)
    at = np.arange(5000)
    value = means[which, at] + spreads[which, at] * draw.standard_normal(5000)
    transform = cal.probability_below(value, means, spreads, weight)
    for level in (0.5, 0.8, 0.95):
        assert cal.coverage(transform, level) == pytest.approx(level, abs=0.03)


def test_the_width_of_a_mixture_holds_its_share():
    means, spreads = np.array([[0.0], [10.0]]), np.ones((2, 1))
    half = np.array([0.5, 0.5])
    width = cal.central_width(means, spreads, half, 0.9)[0]
    assert width == pytest.approx(10.0 + 2.0 * 1.2816, abs=0.01)  # 5 % tails, 10 % of each part
    alone = cal.central_width(means[:1], spreads[:1], np.ones(1), 0.9)[0]
    assert alone == pytest.approx(3.2897, abs=1e-3)


def test_bootstrap_resamples_environments_not_maps():
    value = np.array([0.0] * 50 + [10.0] * 50)
    two = cal.bootstrap(value, np.repeat(["a", "b"], 50))
    assert two == (5.0, 0.0, 10.0)
    many = cal.bootstrap(value, np.arange(100))
    assert many.low > 2.5
    assert many.high < 7.5
    assert many.contains(5.0)
    assert cal.bootstrap(value[:3], np.zeros(3)) == (0.0, 0.0, 0.0)


def test_paired_differences_cancel_what_is_common():
    hard = np.random.default_rng(3).normal(0.0, 10.0, 40)
    found = cal.paired_difference(hard + 1.0, hard, np.arange(40))
    assert found.mean == pytest.approx(1.0)
    assert found.high - found.low < 1e-9


def test_bootstrap_needs_values():
    with pytest.raises(ValueError, match="at least one"):
        cal.bootstrap(np.empty(0), np.empty(0))
