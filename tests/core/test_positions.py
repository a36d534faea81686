import numpy as np
import pytest

from hertzmap.core.posteriors import PositionPosterior


def normal(std=(3.0, 1.0)):
    return PositionPosterior(np.array([[10.0, -5.0]]), np.zeros(1), np.diag(np.square(std))[None])


def test_moments_are_those_of_the_mixture():
    place = np.array([[0.0, 0.0], [4.0, 0.0]])
    belief = PositionPosterior(place, np.log([0.25, 0.75]), np.tile(np.eye(2), (2, 1, 1)))
    np.testing.assert_allclose(belief.mean_m(), [3.0, 0.0])
    np.testing.assert_allclose(belief.covariance(), [[1.0 + 0.1875 * 16.0, 0.0], [0.0, 1.0]])
    drawn = belief.sample(20_000, seed=1)
    np.testing.assert_allclose(np.cov(drawn.T), belief.covariance(), atol=0.15)


def test_the_median_withstands_a_far_candidate():
    place = np.array([[0.0, 0.0], [0.2, 0.0], [100.0, 0.0]])
    belief = PositionPosterior(place, np.log([0.4, 0.3, 0.3]), np.tile(np.eye(2), (3, 1, 1)))
    assert np.hypot(*belief.median_m()) < 1.0 < np.hypot(*belief.mean_m())


def test_density_integrates_to_one():
    axis = np.linspace(-10.0, 10.0, 201)
    east, north = np.meshgrid(10.0 + axis, -5.0 + axis)
    density = np.exp(normal().log_density(np.stack([east.ravel(), north.ravel()], axis=-1)))
    assert density.sum() * 0.1**2 == pytest.approx(1.0, abs=2e-3)


def test_the_region_holds_its_share_of_truths():
    belief = normal()
    truths = belief.sample(400, seed=7)
    inside = np.mean([belief.credibility(one) < 0.9 for one in truths])
    assert inside == pytest.approx(0.9, abs=0.045)


def test_the_area_of_a_normal_region_is_known():
    exact = np.pi * 3.0 * 1.0 * -2.0 * np.log(0.1)
    assert normal().region_area_m2(0.9) == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize(
    "parts",
    [
        (np.array([[np.nan, 0.0]]), np.zeros(1), np.eye(2)[None]),
        (np.zeros((1, 2)), np.zeros(1), np.zeros((1, 2, 2))),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts):
    with pytest.raises(ValueError, match="PositionPosterior"):
        PositionPosterior(*parts)


def test_a_region_of_all_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        normal().region_area_m2(1.0)
