"""Laws 16 to 19: solvers on Gaussian priors whose denoiser and exact map are known."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hertzmap.core.grid import Grid
from hertzmap.diffusion.process import angles
from hertzmap.diffusion.samplers import SOLVERS, ddim_step, encode, sample
from hertzmap.measurement.likelihood import data_term, read_nodes
from hertzmap.measurement.operator import DriftOperator

DOUBLE = torch.float64


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def gaussian(mean, deviation):
    """E[x | u] for x ~ N(mean, deviation^2) in each pixel."""

    def denoiser(state, angle):
        phi = angle.reshape(-1, 1, 1, 1)
        cos, sin = torch.cos(phi), torch.sin(phi)
        gain = deviation**2 * cos / (deviation**2 * cos**2 + sin**2)
        return mean + gain * (state - cos * mean)

    return denoiser


def correlated(mean, covariance):
    """E[x | u] for x ~ N(mean, covariance) over all pixels."""
    variance, axes = torch.linalg.eigh(covariance)

    def denoiser(state, angle):
        cos, sin = torch.cos(angle)[:, None], torch.sin(angle)[:, None]
        gap = (state.flatten(1) - cos * mean.flatten()) @ axes
        return mean + ((gap * cos * variance / (cos**2 * variance + sin**2)) @ axes.T).reshape(
            state.shape
        )

    return denoiser


def small_network(width=8):
    """A denoiser with activations to store; smooth, so that gradients are exact to rounding."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, width, 3, padding=1), nn.Tanh()]
    for _ in range(3):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.Tanh()]
    network = nn.Sequential(*layers, nn.Conv2d(width, 1, 3, padding=1)).double()
    return lambda state, angle: network(torch.cos(angle).reshape(-1, 1, 1, 1) * state)


@pytest.mark.parametrize(("phi", "phi_next"), [(0.5 * math.pi, 1.2), (1.2, 0.4), (0.4, 0.0)])
def test_a_ddim_step_is_the_step_in_noise_form(phi, phi_next):
    state, denoiser = normal(3, 1, 8, 8), small_network()
    clean = denoiser(state, state.new_full((3,), phi))
    noise = (state - math.cos(phi) * clean) / math.sin(phi)
    # RadioDiff-Inv2, eq. 13, with sqrt(alpha_bar) = cos(phi)
    expected = math.cos(phi_next) * clean + math.sin(phi_next) * noise
    step = ddim_step(denoiser, state, phi, phi_next)
    torch.testing.assert_close(step, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_same_noise_gives_the_same_bits(solver):
    noise, denoiser = normal(2, 1, 8, 8), small_network()
    first = sample(denoiser, noise, angles(4, 3.0), solver=solver)
    assert torch.equal(first, sample(denoiser, noise, angles(4, 3.0), solver=solver))


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_sample_knows_nothing_of_the_others(solver):
    noise, denoiser = normal(3, 1, 8, 8), small_network()
    together = sample(denoiser, noise, angles(3), solver=solver)
    alone = sample(denoiser, noise[1:2], angles(3), solver=solver)
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("solver", "low", "high"), [("ddim", 1.8, 2.1), ("euler", 1.8, 2.1), ("heun", 3.5, 4.2)]
)
def test_a_gaussian_is_recovered_at_the_solver_s_order(solver, low, high):
    mean, deviation = normal(1, 1, 4, 4, seed=2), 0.5
    noise = normal(64, 1, 4, 4)
    exact = mean + deviation * noise
    errors = [
        float((sample(gaussian(mean, deviation), noise, angles(k), solver=solver) - exact).norm())
        for k in (16, 32, 64, 128)
    ]
    for coarse, fine in pairwise(errors):
        assert low <= coarse / fine <= high


def test_samples_of_a_correlated_gaussian_have_its_covariance():
    spread = normal(16, 16, seed=3)
    covariance = spread @ spread.T / 16.0 + 0.1 * torch.eye(16, dtype=DOUBLE)
    mean = normal(1, 1, 4, 4, seed=2)
    drawn = sample(correlated(mean, covariance), normal(20_000, 1, 4, 4), angles(60), solver="heun")
    found = torch.cov(drawn.flatten(1).T)
    assert float((found - covariance).norm() / covariance.norm()) < 0.05


@pytest.mark.parametrize(("solver", "calls"), [("ddim", 5), ("euler", 5), ("heun", 9)])
def test_each_solver_costs_its_number_of_calls(solver, calls):
    seen = []

    def denoiser(state, angle):
        seen.append(float(angle[0]))
        return 0.1 * state

    sample(denoiser, normal(1, 1, 4, 4), angles(5), solver=solver)
    assert len(seen) == calls
    assert min(seen) > 0.0  # the velocity has no meaning without noise


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_encoding_and_sampling_undo_each_other(shift):
    mean, deviation = normal(1, 1, 4, 4, seed=2), 0.5
    clean = mean + deviation * normal(8, 1, 4, 4)
    denoiser = gaussian(mean, deviation)

    def error(steps):
        path = angles(steps, shift)
        return float((sample(denoiser, encode(denoiser, clean, path), path) - clean).std())

    errors = [error(steps) for steps in (8, 32, 128)]
    assert errors[0] > 3.0 * errors[1] > 9.0 * errors[2]
    assert errors[2] < 0.1 * deviation


def test_the_seed_of_an_encoded_sample_is_the_one_that_made_it():
    mean, deviation, noise = normal(1, 1, 4, 4, seed=2), 0.5, normal(8, 1, 4, 4)
    seed = encode(gaussian(mean, deviation), mean + deviation * noise, angles(400))
    torch.testing.assert_close(seed, noise, rtol=0, atol=0.05)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_checkpointed_gradient_is_the_plain_one(solver):
    noise, target, denoiser = normal(2, 1, 8, 8), normal(2, 1, 8, 8, seed=5), small_network()
    gradients = []
    for checkpoint in (False, True):
        seed = noise.clone().requires_grad_()
        clean = sample(denoiser, seed, angles(4, 3.0), solver=solver, checkpoint=checkpoint)
        gradients.append(torch.autograd.grad((clean - target).square().sum(), seed)[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-10)


class LiveStorage(TorchDispatchMode):
    """Remembers every storage made under it; `size()` counts those still alive [bytes]."""

    def __init__(self):
        super().__init__()
        self.made = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.made[storage.data_ptr()] = (StorageWeakRef(storage), storage.nbytes())
        return result

    def size(self):
        return sum(nbytes for ref, nbytes in self.made.values() if not ref.expired())


@pytest.mark.parametrize("solver", SOLVERS)
def test_checkpoints_keep_states_not_activations(solver):
    state_size = 8 * 16 * 16
    denoiser = small_network()

    def kept(steps, checkpoint):
        seed = normal(1, 1, 16, 16).requires_grad_()
        with LiveStorage() as live:
            clean = sample(denoiser, seed, angles(steps), solver=solver, checkpoint=checkpoint)
        size = live.size()
        assert clean.requires_grad
        return size / state_size

    growth = {flag: (kept(10, flag) - kept(4, flag)) / 6.0 for flag in (False, True)}
    assert growth[True] <= 1.5  # one state a step, and a few bytes
    assert growth[False] > 20.0  # at least the activations of four layers of eight channels


def test_an_unknown_solver_is_refused():
    with pytest.raises(ValueError, match="ddim, euler, heun"):
        sample(small_network(), normal(1, 1, 8, 8), angles(2), solver="leapfrog")


@pytest.mark.parametrize(("term", "drift_m"), [("naive", 0.0), ("blur", 1.2)])
@pytest.mark.parametrize(("solver", "steps"), [("ddim", 4), ("heun", 3)])
def test_the_best_seed_of_a_linear_prior_solves_the_ridge_equations(term, drift_m, solver, steps):
    draw = np.random.default_rng(4)
    grid, noise_std, points = Grid(8, 8), 0.3, 30
    free = draw.random(grid.shape) < 0.85
    cells = draw.choice(np.flatnonzero(free), points)
    reported = grid.centres_m().reshape(-1, 2)[cells] + draw.uniform(-0.3, 0.3, (points, 2))
    drift = np.tile(drift_m**2 * np.eye(2), (points, 1, 1))
    operator = DriftOperator.build(grid, free, reported, drift)
    reading = np.zeros((operator.count, 64))  # rows: mean reading of a report
    for taps in range(4):
        np.add.at(
            reading,
            (operator.report, operator.cell[:, taps]),
            operator.omega * operator.tap[:, taps],
        )
    matrix = torch.from_numpy(reading)
    y = torch.from_numpy(draw.standard_normal(operator.count))

    spread = normal(64, 64, seed=3)
    mean, covariance = normal(1, 1, 8, 8, seed=2), spread @ spread.T / 64.0
    denoiser = correlated(mean, covariance)

    def produce(seed):
        return sample(denoiser, seed.reshape(1, 1, 8, 8), angles(steps), solver=solver)

    origin = produce(torch.zeros(64, dtype=DOUBLE)).flatten()
    slope = torch.func.jacrev(lambda z: produce(z).flatten())(torch.zeros(64, dtype=DOUBLE))
    forward = matrix @ slope
    normal_matrix = forward.T @ forward / noise_std**2 + torch.eye(64, dtype=DOUBLE)
    expected = torch.linalg.solve(normal_matrix, forward.T @ (y - matrix @ origin) / noise_std**2)

    seed = torch.zeros(64, dtype=DOUBLE, requires_grad=True)
    search = torch.optim.LBFGS(
        [seed],
        max_iter=300,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        history_size=64,
        line_search_fn="strong_wolfe",
    )
    cell, tap = torch.from_numpy(operator.cell), torch.from_numpy(operator.tap)
    omega, report = torch.from_numpy(operator.omega), torch.from_numpy(operator.report)

    def objective():
        search.zero_grad()
        nodes = read_nodes(produce(seed)[:, 0], cell, tap)
        misfit = data_term(term, nodes, omega, report, operator.count, y[None], noise_std)
        loss = misfit.sum() + 0.5 * seed.square().sum()
        loss.backward()
        return loss

    search.step(objective)
    torch.testing.assert_close(seed.detach(), expected, rtol=0, atol=1e-6)
