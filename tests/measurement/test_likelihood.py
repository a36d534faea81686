"""Laws 8-12 and 23: the data terms, their gradients, and the places behind the reports."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hertzmap.core.errors import ConfigError, ReportsError
from hertzmap.core.grid import Grid
from hertzmap.measurement.likelihood import (
    TERMS,
    data_term,
    read_nodes,
    responsibilities,
    true_places,
)
from hertzmap.measurement.operator import DriftOperator

GRID = Grid(16, 16)
NAMES = sorted(TERMS)
seeds = st.integers(0, 2**32 - 1)


def as_torch(operator, dtype=torch.float64):
    cell, report = torch.from_numpy(operator.cell), torch.from_numpy(operator.report)
    tap, omega = torch.from_numpy(operator.tap).to(dtype), torch.from_numpy(operator.omega)
    return cell, tap, omega.to(dtype), report


def slope(tensor):
    assert tensor.grad is not None
    return tensor.grad


def scene(seed, deviation=1.0, points=12, **options):
    """A bumpy map, random walls, an operator with reports on free cells, and noisy values."""
    draw = np.random.default_rng(seed)
    free = draw.random(GRID.shape) < 0.75
    x = draw.random(GRID.shape)
    places = GRID.centres_m()[free][draw.choice(free.sum(), points, replace=False)]
    cov = np.tile(np.eye(2) * deviation**2, (points, 1, 1))
    operator = DriftOperator.build(GRID, free, places, cov, **options)
    y = operator.moments(x)[0] + 0.2 * draw.standard_normal(points)
    return free, torch.from_numpy(x), operator, torch.from_numpy(y)


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_torch_reads_what_numpy_reads(seed):
    _, x, operator, y = scene(seed)
    cell, tap, omega, report = as_torch(operator)
    values = read_nodes(x[None], cell, tap)
    np.testing.assert_allclose(values[0], operator.read(x.numpy()), atol=1e-14)
    mean, variance = operator.moments(x.numpy())
    paper = data_term("paper", values, omega, report, operator.count, y, 1.0)[0]
    expected = 0.5 * ((y.numpy() - mean) ** 2 + variance) + 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(paper, expected, atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(seed=seeds, s=st.floats(0.02, 1.0))
def test_without_drift_all_terms_agree(seed, s):
    _, x, operator, y = scene(seed, deviation=0.0)
    cell, tap, omega, report = as_torch(operator)
    values = read_nodes(x[None], cell, tap)
    terms = [data_term(name, values, omega, report, operator.count, y, s) for name in NAMES]
    expected = -torch.distributions.Normal(values[0], s).log_prob(y)
    for term in terms:
        torch.testing.assert_close(term[0], expected, rtol=1e-12, atol=1e-12)


def test_the_limit_of_small_drift_is_no_drift():
    free, x, still, y = scene(3, deviation=0.0)
    cov = np.tile(np.eye(2) * 1e-10, (still.count, 1, 1))
    moving = DriftOperator.build(GRID, free, still.reported_m, cov, q=1)
    for name in ("paper", "moment", "mixture", "blur"):
        limits = []
        for operator in (still, moving):
            cell, tap, omega, report = as_torch(operator)
            values = read_nodes(x[None], cell, tap)
            limits.append(data_term(name, values, omega, report, operator.count, y, 0.1))
        torch.testing.assert_close(limits[0], limits[1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_match_differences(name):
    _, x, operator, y = scene(4, deviation=0.0 if name == "naive" else 1.0)
    cell, tap, omega, report = as_torch(operator)
    s = torch.linspace(0.1, 0.4, operator.count, dtype=torch.float64)

    def loss(maps):
        values = read_nodes(maps, cell, tap)
        return data_term(name, values, omega, report, operator.count, y, s)

    maps = torch.stack([x, x.flip(0)]).requires_grad_()
    assert torch.autograd.gradcheck(loss, maps, eps=1e-6, atol=1e-6, rtol=1e-6)

    mixing = torch.from_numpy(np.random.default_rng(5).normal(0, 0.3, (5, 256)))

    def through_map(seed):
        return loss(torch.sigmoid(seed @ mixing).unflatten(-1, GRID.shape))

    seed = torch.randn(
        2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True
    )
    assert torch.autograd.gradcheck(through_map, seed, eps=1e-6, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_match_their_formulas(name):
    _, x, operator, y = scene(6, deviation=0.0 if name == "naive" else 1.0)
    cell, tap, omega, report = as_torch(operator)
    values = read_nodes(x[None], cell, tap).requires_grad_()
    s, count = 0.15, operator.count
    data_term(name, values, omega, report, count, y, s).sum().backward()
    mean, variance = (torch.from_numpy(part) for part in operator.moments(x.numpy()))
    v, error = values.detach()[0], (y - mean)[report]
    total = s**2 + variance[report]
    gamma = responsibilities(v[None], omega, report, count, y, s)[0]
    expected = {
        "naive": -(y[report] - v) / s**2,
        "blur": -omega * error / s**2,
        "paper": -omega * (y[report] - v) / s**2,
        "moment": omega * (-error / total + (1 / total - error**2 / total**2) * (v - mean[report])),
        "mixture": -gamma * (y[report] - v) / s**2,
    }[name]
    torch.testing.assert_close(slope(values)[0], expected, rtol=1e-10, atol=1e-10)


def test_the_closed_form_is_the_limit_of_many_draws():
    free, rough, operator, y = scene(7, deviation=0.9, points=3, q=4, deviations=5.0)
    east, north = np.moveaxis(GRID.centres_m(), -1, 0)
    x = torch.from_numpy(0.5 + 0.3 * np.sin(0.7 * east) * np.cos(0.5 * north)) + 0.02 * rough
    s, draws = 0.1, 200_000
    mean, variance = operator.moments(x.numpy())
    cov = np.tile(np.eye(2) * 0.81, (3, 1, 1))
    drawn = DriftOperator.draw(
        GRID, free, operator.reported_m, cov, draws=draws, generator=np.random.default_rng(8)
    )
    loss = (y.numpy()[drawn.report] - drawn.read(x.numpy())) ** 2 / (2 * s**2)
    cell, tap, omega, report = as_torch(drawn)
    values = read_nodes(x[None], cell, tap)
    constant = np.log(s) + 0.5 * np.log(2 * np.pi)
    carlo = data_term("paper", values, omega, report, 3, y, s)[0].numpy() - constant
    closed = ((y.numpy() - mean) ** 2 + variance) / (2 * s**2)
    for i in range(3):
        deviation = loss[drawn.report == i].std() / np.sqrt(draws)
        assert abs(carlo[i] - closed[i]) < 4 * deviation + 0.02 * variance[i] / (2 * s**2)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, s=st.floats(0.02, 2.0))
def test_the_paper_bounds_the_exact_likelihood(seed, s):
    _, x, operator, y = scene(seed)
    cell, tap, omega, report = as_torch(operator)

    def gap(contrast):
        values = read_nodes(0.5 + contrast * (x[None] - 0.5), cell, tap)
        paper, mixture = (
            data_term(name, values, omega, report, operator.count, y, s)
            for name in ("paper", "mixture")
        )
        return paper - mixture

    assert (gap(1.0) >= -1e-12).all()
    assert (gap(1e-6) < 1e-4 / s**2).all()


def test_mixture_and_moment_are_densities_with_the_same_moments():
    _, x, operator, _ = scene(9, points=4)
    cell, tap, omega, report = as_torch(operator)
    values, s = read_nodes(x[None], cell, tap), 0.12
    y = torch.linspace(-1.5, 2.5, 4001, dtype=torch.float64)
    mean, variance = operator.moments(x.numpy())
    for name in ("mixture", "moment"):
        many = values.expand(len(y), -1)
        loss = data_term(name, many, omega, report, 4, y[:, None].expand(-1, 4), s)
        density = torch.exp(-loss)
        for i in range(4):
            moments = [torch.trapezoid(density[:, i] * y**k, y).item() for k in range(3)]
            assert moments[0] == pytest.approx(1.0, abs=1e-6)
            assert moments[1] == pytest.approx(mean[i], abs=1e-6)
            assert moments[2] - moments[1] ** 2 == pytest.approx(s**2 + variance[i], abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_single_precision_and_batches_agree_with_double(name):
    _, x, operator, y = scene(10, deviation=0.0 if name == "naive" else 1.5)
    results = {}
    for dtype in (torch.float32, torch.float64):
        cell, tap, omega, report = as_torch(operator, dtype)
        maps = torch.stack([x, x**2, 1 - x]).to(dtype).requires_grad_()
        values = read_nodes(maps, cell, tap)
        loss = data_term(name, values, omega, report, operator.count, y.to(dtype), 0.1)
        loss.sum().backward()
        one = data_term(name, values[1:2], omega, report, operator.count, y.to(dtype), 0.1)
        torch.testing.assert_close(loss[1:2], one)
        assert loss.dtype == slope(maps).dtype == dtype
        results[dtype] = (loss.detach().double(), slope(maps).double())
    for single, double in zip(results[torch.float32], results[torch.float64], strict=True):
        torch.testing.assert_close(single, double, rtol=1e-3, atol=1e-3)


def test_a_value_far_from_every_node_keeps_a_finite_gradient():
    _, x, operator, y = scene(11)
    cell, tap, omega, report = as_torch(operator, torch.float32)
    maps = x[None].float().requires_grad_()
    values = read_nodes(maps, cell, tap)
    loss = data_term("mixture", values, omega, report, operator.count, y.float() + 5.0, 0.01)
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(slope(maps)).all()
    assert slope(maps).abs().max() > 0


@settings(max_examples=20, deadline=None)
@given(seed=seeds, s=st.floats(0.01, 1.0))
def test_responsibilities_sum_to_one_and_a_flat_map_says_nothing(seed, s):
    _, x, operator, y = scene(seed)
    cell, tap, omega, report = as_torch(operator)
    maps = torch.stack([x, torch.full_like(x, 0.4)])
    values = read_nodes(maps, cell, tap)
    gamma = responsibilities(values, omega, report, operator.count, y, s)
    total = torch.zeros(2, operator.count, dtype=torch.float64).index_add(1, report, gamma)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gamma[1], omega, rtol=1e-10, atol=1e-12)
    offset, reported = torch.from_numpy(operator.offset_m), torch.from_numpy(operator.reported_m)
    places = true_places(gamma, omega, report, offset, reported)
    np.testing.assert_allclose(places.place_m[1], operator.mean_place_m, atol=1e-9)
    np.testing.assert_allclose(places.cov_m2[1], operator.place_cov_m2, atol=1e-9)
    torch.testing.assert_close(places.gain_nat[1], torch.zeros(operator.count).double())
    assert (places.gain_nat >= 0).all()


def test_em_on_the_map_never_lowers_the_mixture_likelihood():
    _, x, operator, y = scene(12, points=60)
    cell, tap, omega, report = as_torch(operator)
    matrix = np.zeros((len(operator.omega), 256))
    np.add.at(matrix, (np.arange(len(matrix))[:, None], operator.cell), operator.tap)
    estimate, s, losses = x.clone(), 0.05, []
    for _ in range(6):
        values = read_nodes(estimate[None], cell, tap)
        losses.append(data_term("mixture", values, omega, report, 60, y, s).sum().item())
        root = responsibilities(values, omega, report, 60, y, s)[0].sqrt().numpy()
        target = root * y.numpy()[operator.report]
        solution, *_ = np.linalg.lstsq(root[:, None] * matrix, target, rcond=None)
        estimate = torch.from_numpy(solution).unflatten(0, GRID.shape)
    assert (np.diff(losses) <= 1e-9).all() and losses[-1] < losses[0] - 1


def test_em_on_a_common_bias_finds_it_and_never_lowers_the_likelihood():
    grid = Grid(40, 40)
    free = np.ones(grid.shape, bool)
    east, north = np.moveaxis(grid.centres_m(), -1, 0)
    x = torch.from_numpy(0.5 + 0.25 * np.sin(0.45 * east) + 0.2 * np.cos(0.4 * north))
    draw, bias = np.random.default_rng(13), np.array([0.8, -0.5])
    reported = draw.uniform(8, 32, (200, 2))
    true = reported + bias + 0.5 * draw.standard_normal((200, 2))
    reading = DriftOperator.build(grid, free, true, np.zeros((200, 2, 2))).read(x.numpy())
    y, s = torch.from_numpy(reading + 0.02 * draw.standard_normal(200)), 0.02
    cov = np.tile(np.eye(2) * 0.25, (200, 1, 1))
    guess, losses = np.zeros(2), []
    for _ in range(60):
        operator = DriftOperator.build(grid, free, reported + guess, cov, q=3, deviations=4.0)
        cell, tap, omega, report = as_torch(operator)
        values = read_nodes(x[None], cell, tap)
        losses.append(data_term("mixture", values, omega, report, 200, y, s).sum().item())
        gamma = responsibilities(values, omega, report, 200, y, s)
        offset, places = torch.from_numpy(operator.offset_m), torch.from_numpy(reported)
        found = true_places(gamma, omega, report, offset, places)
        guess = guess + (found.place_m[0] - places).mean(dim=0).numpy()
    assert (np.diff(losses) <= 0.05).all()
    np.testing.assert_allclose(guess, bias, atol=0.2)


def test_a_sharp_edge_tells_where_a_report_was_taken():
    x = np.where(np.arange(16) < 8, 0.2, 0.8) * np.ones((16, 1))
    operator = DriftOperator.build(
        GRID, np.ones(GRID.shape, bool), np.array([[8.0, 8.5]]), np.eye(2)[None], q=4
    )
    cell, tap, omega, report = as_torch(operator)
    values = read_nodes(torch.from_numpy(x)[None], cell, tap)
    gamma = responsibilities(values, omega, report, 1, torch.tensor([0.8]).double(), 0.05)
    offset, reported = torch.from_numpy(operator.offset_m), torch.from_numpy(operator.reported_m)
    places = true_places(gamma, omega, report, offset, reported)
    assert places.place_m[0, 0, 0] > 8.5
    assert places.place_m[0, 0, 1].item() == pytest.approx(8.5, abs=1e-9)
    assert places.cov_m2[0, 0, 0, 0] < 0.6 and places.gain_nat[0, 0] > 0.5


def test_wrong_names_and_naive_with_drift_are_refused():
    _, x, operator, y = scene(14)
    cell, tap, omega, report = as_torch(operator)
    values = read_nodes(x[None], cell, tap)
    with pytest.raises(ConfigError, match="choose one of"):
        data_term("best", values, omega, report, operator.count, y, 0.1)
    with pytest.raises(ReportsError, match="zero drift"):
        data_term("naive", values, omega, report, operator.count, y, 0.1)
