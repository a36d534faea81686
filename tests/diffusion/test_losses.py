"""The denoising loss is the velocity loss, written with the expected clean sample."""

import math

import torch

from hertzmap.diffusion.losses import denoising_loss
from hertzmap.diffusion.process import mix, velocity

DOUBLE = torch.float64


def draw(batch=4, side=8):
    generator = torch.Generator().manual_seed(3)
    clean, noise, guess = torch.randn(3, batch, 1, side, side, generator=generator, dtype=DOUBLE)
    weight = (torch.rand(batch, 1, side, side, generator=generator, dtype=DOUBLE) < 0.7).double()
    return clean, noise, guess, weight


def mean_square(error, weight):
    return (weight * error**2).flatten(1).sum(1) / weight.flatten(1).sum(1)


def test_at_pure_noise_it_is_the_squared_error():
    clean, noise, guess, weight = draw()
    angle = torch.full((len(clean),), 0.5 * math.pi, dtype=DOUBLE)
    loss = denoising_loss(lambda _state, _angle: guess, clean, noise, angle, weight)
    torch.testing.assert_close(loss, mean_square(guess - clean, weight), rtol=1e-12, atol=0)


def test_it_is_the_squared_error_of_the_velocity():
    clean, noise, guess, weight = draw()
    angle = torch.tensor([0.4, 0.8, 1.2, 1.5], dtype=DOUBLE)
    state = mix(clean, noise, angle)
    error = velocity(guess, state, angle) - velocity(clean, state, angle)
    loss = denoising_loss(lambda _state, _angle: guess, clean, noise, angle, weight)
    torch.testing.assert_close(loss, mean_square(error, weight), rtol=1e-12, atol=0)


def test_its_weight_is_capped_near_the_clean_end():
    clean, noise, guess, weight = draw()
    angle = torch.full((len(clean),), 1e-3, dtype=DOUBLE)
    loss = denoising_loss(lambda _state, _angle: guess, clean, noise, angle, weight)
    torch.testing.assert_close(loss, 10.0 * mean_square(guess - clean, weight), rtol=1e-12, atol=0)


def test_the_denoiser_sees_the_mixed_state_and_its_angle():
    clean, noise, _, weight = draw()
    angle = torch.tensor([0.4, 0.8, 1.2, 1.5], dtype=DOUBLE)
    seen = []

    def denoiser(state, phi):
        seen.append((state, phi))
        return clean

    loss = denoising_loss(denoiser, clean, noise, angle, weight)
    assert torch.equal(seen[0][0], mix(clean, noise, angle))
    assert torch.equal(seen[0][1], angle)
    assert not loss.any()


def test_pixels_without_weight_do_not_count_and_an_empty_sample_is_no_error():
    clean, noise, guess, weight = draw()
    weight[0] = 0.0
    angle = torch.full((len(clean),), 1.0, dtype=DOUBLE)
    spoilt = torch.where(weight > 0, guess, torch.full_like(guess, 1e6))
    first = denoising_loss(lambda _state, _angle: guess, clean, noise, angle, weight)
    second = denoising_loss(lambda _state, _angle: spoilt, clean, noise, angle, weight)
    assert torch.equal(first, second)
    assert float(first[0]) == 0.0
