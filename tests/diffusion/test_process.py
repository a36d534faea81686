"""The process in angle form: conversions undo each other, the schedule keeps its law."""

import math
from itertools import pairwise

import pytest
import torch

from hertzmap.diffusion.process import (
    angles,
    clean_from_velocity,
    mix,
    noise_from_velocity,
    shifted_angle,
    velocity,
)

DOUBLE = torch.float64


def draw(batch=5, side=8):
    generator = torch.Generator().manual_seed(1)
    clean, noise = torch.randn(2, batch, 1, side, side, generator=generator, dtype=DOUBLE)
    angle = torch.linspace(0.2, 0.5 * math.pi, batch, dtype=DOUBLE)
    return clean, noise, angle


def test_velocity_gives_back_clean_sample_and_noise():
    clean, noise, angle = draw()
    state = mix(clean, noise, angle)
    v = velocity(clean, state, angle)
    torch.testing.assert_close(clean_from_velocity(v, state, angle), clean, rtol=0, atol=1e-12)
    torch.testing.assert_close(noise_from_velocity(v, state, angle), noise, rtol=0, atol=1e-12)


def test_velocity_is_the_derivative_of_the_state():
    clean, noise, angle = draw()
    step = 1e-5
    slope = (mix(clean, noise, angle + step) - mix(clean, noise, angle - step)) / (2.0 * step)
    v = velocity(clean, mix(clean, noise, angle), angle)
    torch.testing.assert_close(v, slope, rtol=0, atol=1e-8)


def test_the_process_preserves_variance():
    _, _, angle = draw(batch=1)
    generator = torch.Generator().manual_seed(2)
    clean, noise = torch.randn(2, 1, 100_000, generator=generator, dtype=DOUBLE)
    for phi in (0.1, 0.7, 1.5):
        state = mix(clean, noise, torch.full_like(angle, phi))
        assert abs(float(state.var()) - 1.0) < 0.02


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0, 10.0])
def test_shifted_angles_keep_the_law_of_tangents(shift):
    time = torch.linspace(0.0, 1.0, 101, dtype=DOUBLE)
    angle = shifted_angle(time, shift)
    inner = slice(1, -1)
    expected = shift * torch.tan(0.5 * math.pi * time[inner])
    torch.testing.assert_close(torch.tan(angle[inner]), expected, rtol=1e-12, atol=0)
    assert (angle.diff() > 0).all()


def test_without_a_shift_the_schedule_is_the_cosine_one():
    time = torch.linspace(0.0, 1.0, 11, dtype=DOUBLE)
    torch.testing.assert_close(shifted_angle(time, 1.0), 0.5 * math.pi * time, rtol=0, atol=1e-15)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 3, 50])
def test_a_sampler_s_angles_fall_from_pure_noise_to_none(steps, shift):
    path = angles(steps, shift)
    assert len(path) == steps + 1
    assert path[0] == pytest.approx(0.5 * math.pi, abs=1e-15)
    assert path[-1] == 0.0
    assert all(a > b for a, b in pairwise(path))


def test_a_larger_shift_spends_more_steps_at_high_noise():
    assert all(a < b for a, b in zip(angles(8, 1.0)[1:-1], angles(8, 3.0)[1:-1], strict=True))


def test_no_step_is_no_sampler():
    with pytest.raises(ValueError, match="at least one step"):
        angles(0)
