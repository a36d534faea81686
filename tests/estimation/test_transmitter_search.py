"""Law 21: supposed transmitters are weighed as the linear Gaussian model demands."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hertzmap.core.grid import Grid
from hertzmap.diffusion.denoisers import MapUNet, UNetConfig
from hertzmap.estimation._transmitter_search import (
    TERMS,
    SearchSite,
    TermPrior,
    TransmitterSearch,
    basis,
    free_cells,
    lattice,
    linear_evidence,
)
from hertzmap.scenes.wayfinding import transmitter_planes

TINY = UNetConfig(
    patch=4, widths=(16, 16), condition_widths=(8, 8), embedding=16, heads=2, groups=4
)
GRID = Grid(32, 32, 2.0, (10.0, -20.0))
FREE = np.ones(GRID.shape, bool)
FREE[12:20, 14:22] = False


COUNT = len(TERMS)
PRIOR = TermPrior(np.zeros(COUNT), 0.06**2 * np.eye(COUNT))


def known_network():
    """A network whose mean map is grey = 0.85 - 0.7 distance - 0.2 detour, planes as given."""
    torch.manual_seed(0)
    network = MapUNet(TINY).eval()
    area = TINY.patch**2
    assert network.head.bias is not None
    with torch.no_grad():
        for term, value in ((0, 2.0 * 0.85 - 1.0), (2, -1.4), (3, -0.4)):
            network.head.bias[term * area : (term + 1) * area] = value
    return network


def term_prior(draw, terms=COUNT, scale=0.06):
    spread = scale * draw.standard_normal((terms, terms))
    covariance = spread @ spread.T / terms + 0.2 * scale**2 * np.eye(terms)
    return TermPrior(0.5 * scale * draw.standard_normal(terms), covariance)


def log_normal(gap, variance):
    return -0.5 * (gap**2 / variance + np.log(2.0 * np.pi * variance))


def linear_problem(seed, points=12, terms=4):
    draw = np.random.default_rng(seed)
    return (
        draw.standard_normal(points),
        draw.uniform(0.05, 2.0, points),
        draw.standard_normal((points, terms)),
        term_prior(draw, terms, scale=1.0),
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), points=st.integers(1, 30), terms=st.integers(1, 8))
def test_evidence_is_the_dense_marginal_likelihood(seed, points, terms):
    residual, variance, matrix, prior = linear_problem(seed, points, terms)
    value, mean = linear_evidence(residual, variance, matrix, prior)
    covariance = np.diag(variance) + matrix @ prior.covariance @ matrix.T
    gap = residual - matrix @ prior.mean
    _, log_volume = np.linalg.slogdet(2.0 * np.pi * covariance)
    dense = -0.5 * (gap @ np.linalg.solve(covariance, gap) + log_volume)
    np.testing.assert_allclose(value, dense, rtol=1e-9, atol=1e-9)
    gain = prior.covariance @ matrix.T
    posterior = prior.mean + gain @ np.linalg.solve(covariance, gap)
    np.testing.assert_allclose(mean, posterior, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_temperature_is_the_power_of_the_likelihood(temperature):
    residual, variance, matrix, prior = linear_problem(3, points=8, terms=1)
    value, _ = linear_evidence(residual, variance, matrix, prior, temperature)
    deviation = float(np.sqrt(prior.covariance[0, 0]))
    b = prior.mean[0] + np.linspace(-12.0, 12.0, 20_001) * deviation
    log_likelihood = log_normal(residual[:, None] - matrix * b, variance[:, None])
    log_prior = log_normal(b - prior.mean[0], deviation**2)
    weight = np.exp(log_likelihood.sum(axis=0) / temperature + log_prior)
    np.testing.assert_allclose(value, np.log(np.trapezoid(weight, b)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_order_of_reports_does_not_matter(temperature):
    residual, variance, matrix, prior = linear_problem(5, points=40)
    order = np.random.default_rng(1).permutation(40)
    first, mean = linear_evidence(residual, variance, matrix, prior, temperature)
    second, again = linear_evidence(
        residual[order], variance[order], matrix[order], prior, temperature
    )
    np.testing.assert_allclose(second, first, rtol=1e-12)
    np.testing.assert_allclose(again, mean, rtol=1e-9)


def searcher(grey, noise, *, prior=PRIOR, model_std=0.02, temperature=1.0):
    return TransmitterSearch(
        known_network(),
        grey,
        noise,
        prior,
        model_std=model_std,
        temperature=temperature,
        seed=0,
    )


def known_map(place):
    planes = transmitter_planes(FREE, GRID, place)
    return 0.85 - 0.7 * planes[0].astype(float) - 0.2 * planes[1]


def reports(place, points=60, noise_std=0.02, offset=0.0, seed=2):
    draw = np.random.default_rng(seed)
    cell = draw.choice(np.flatnonzero(FREE), points, replace=False)
    noise = np.full(points, noise_std)
    grey = known_map(place).ravel()[cell] + offset + noise * draw.standard_normal(points)
    return cell, grey, noise


def test_the_mean_map_is_what_the_network_says():
    places = [(20.0, 0.0), (60.0, 30.0)]
    search = searcher(np.zeros(1), np.ones(1))
    site = SearchSite(GRID, FREE, np.zeros(1, np.int64))
    maps = search.mean_maps(site, np.stack([transmitter_planes(FREE, GRID, p) for p in places]))
    for found, place in zip(maps, places, strict=True):
        np.testing.assert_allclose(found, known_map(place), atol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 0.3])
@pytest.mark.parametrize("place", [(20.0, -4.0), (58.5, 33.0), (0.0, -30.0)])
def test_the_true_place_wins(place, offset):
    cell, grey, noise = reports(place, offset=offset)
    search = searcher(grey, noise, prior=PRIOR.with_offset_std(0.25 if offset else 0.0))
    places = np.concatenate([np.array([place]), lattice(GRID, 8.0, 16.0)])
    found = search.score(SearchSite(GRID, FREE, cell), places)
    best = max(found, key=lambda evidence: evidence.log_evidence)
    assert np.hypot(*(np.array(best.place_m) - place)) < 8.0
    assert found[0].log_evidence > best.log_evidence - 5.0
    assert found[0].coefficient[0] == pytest.approx(offset, abs=0.05)


def test_neither_batches_nor_the_order_of_reports_change_the_evidence():
    cell, grey, noise = reports((20.0, -4.0))
    places = lattice(GRID, 16.0, 16.0)
    order = np.random.default_rng(3).permutation(len(cell))
    first = searcher(grey, noise).score(SearchSite(GRID, FREE, cell), places, batch=16)
    shuffled = searcher(grey[order], noise[order])
    second = shuffled.score(SearchSite(GRID, FREE, cell[order]), places, batch=5)
    np.testing.assert_allclose(
        [e.log_evidence for e in second], [e.log_evidence for e in first], rtol=1e-4, atol=1e-3
    )
    assert [e.place_m for e in first] == [(p[0], p[1]) for p in places]


def test_regions_of_the_posterior_cover_as_often_as_they_say():
    draw = np.random.default_rng(4)
    places = lattice(GRID, 9.0, 0.0)
    cell = draw.choice(np.flatnonzero(FREE), 25, replace=False)
    site = SearchSite(GRID, FREE, cell)
    prior = term_prior(draw).with_offset_std(0.25)
    search = searcher(np.zeros(25), np.full(25, 0.1), model_std=0.0)
    planes = np.stack([transmitter_planes(FREE, GRID, (p[0], p[1])) for p in places])
    mean = search.mean_maps(site, planes).reshape(len(places), -1)[:, cell].astype(float)
    seen_m = GRID.centres_m().reshape(-1, 2)[cell]
    terms = np.stack(
        [
            basis(stack.reshape(4, -1)[:, cell], seen_m - p, level).T
            for stack, p, level in zip(planes, places, mean, strict=True)
        ]
    ).astype(float)
    trials, covered = 150, 0
    for _ in range(trials):
        true = draw.integers(len(places))
        unknown = draw.multivariate_normal(prior.mean, prior.covariance)
        grey = mean[true] + terms[true] @ unknown + 0.1 * draw.standard_normal(25)
        score = np.array(
            [
                linear_evidence(grey - m, search.variance, t, prior)[0]
                for m, t in zip(mean, terms, strict=True)
            ]
        )
        weight = np.exp(score - score.max())
        weight /= weight.sum()
        order = np.argsort(-weight)
        size = 1 + np.searchsorted(np.cumsum(weight[order]), 0.9)
        # the last place of the region counts by the share that is needed of it
        inside = list(order[:size]).index(true) if true in order[:size] else size
        surplus = weight[order[:size]].sum() - 0.9
        last = 1.0 - surplus / weight[order[size - 1]]
        covered += 1.0 if inside < size - 1 else last if inside == size - 1 else 0.0
    assert abs(covered / trials - 0.9) < 3.5 * np.sqrt(0.09 / trials)


def test_an_unknown_link_budget_widens_the_offset_alone():
    wider = PRIOR.with_offset_std(0.25)
    change = wider.covariance - PRIOR.covariance
    assert change[0, 0] == pytest.approx(0.25**2)
    assert np.count_nonzero(change) == 1
    assert TERMS[0] == "offset"
    np.testing.assert_array_equal(wider.mean, PRIOR.mean)


def test_terms_turn_with_the_compass():
    place = tuple(GRID.centres_m()[10, 10])
    planes = transmitter_planes(FREE, GRID, (float(place[0]), float(place[1])))
    terms = basis(planes, GRID.centres_m() - place, known_map((float(place[0]), float(place[1]))))
    assert terms.shape == (COUNT, *GRID.shape)
    np.testing.assert_array_equal(terms[TERMS.index("offset")], 1.0)
    east, north = terms[TERMS.index("cosine")], terms[TERMS.index("sine")]
    np.testing.assert_allclose([east[10, 20], north[10, 20]], [1.0, 0.0], atol=1e-6)
    np.testing.assert_allclose([east[20, 10], north[20, 10]], [0.0, 1.0], atol=1e-6)


def test_the_lattice_covers_the_map_evenly():
    places = lattice(GRID, 8.0, 0.0)
    assert len(places) == 64
    assert GRID.contains(places).all()
    gaps = np.hypot(*(GRID.centres_m().reshape(-1, 1, 2) - places).transpose(2, 0, 1))
    assert gaps.min(axis=1).max() <= 4.0 * np.sqrt(2.0)


def test_the_ring_lies_off_the_map_within_its_reach():
    inner = len(lattice(GRID, 8.0, 0.0))
    ring = lattice(GRID, 8.0, 32.0)[inner:]
    assert len(ring) > 0
    assert not GRID.contains(ring).any()
    west, south, east, north = GRID.bounds_m
    assert ((ring >= [west - 32.0, south - 32.0]) & (ring <= [east + 32.0, north + 32.0])).all()


def test_candidates_can_be_kept_out_of_buildings():
    places = lattice(GRID, 4.0, 0.0, FREE)
    cell = GRID.cell(places)
    assert FREE[cell[:, 0], cell[:, 1]].all()
    assert len(places) < len(lattice(GRID, 4.0, 0.0))


def test_a_place_in_a_wall_is_read_at_the_nearest_free_cell():
    centres = GRID.centres_m()
    places = np.array([centres[13, 18], centres[5, 5], centres[0, 0] - 50.0])
    cell = free_cells(GRID, FREE, places)
    assert FREE.ravel()[cell].all()
    assert cell[0] == 11 * GRID.cols + 18
    assert cell[1] == 5 * GRID.cols + 5
    assert cell[2] == 0
