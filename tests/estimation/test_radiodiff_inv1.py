"""RadioDiff-Inv1 with a denoiser that is exact: independent Gaussian cells."""

import numpy as np
import pytest
import torch

from hertzmap.core.errors import ConfigError
from hertzmap.core.grid import Grid
from hertzmap.core.types import Reports, SceneRaster
from hertzmap.diffusion.denoisers import MapUNet, UNetConfig
from hertzmap.estimation.radiodiff_inv1 import METHOD, PRESETS, RadioDiffInv1Config

TINY = UNetConfig(
    patch=4, widths=(16, 16), condition_widths=(8, 8), embedding=16, heads=2, groups=4
)
MEAN, STD = -0.2, 0.5
"""Of a cell before any report, on the scale of u = 2 grey - 1."""


class GaussianCells(MapUNet):
    """The conditional mean of independent cells, u ~ N(MEAN, STD^2), by eq. of Tweedie."""

    def forward(self, state, angle, planes, scalars, features=None):
        del planes, scalars, features
        cosine, sine = torch.cos(angle)[:, None, None, None], torch.sin(angle)[:, None, None, None]
        gain = STD**2 * cosine / (STD**2 * cosine**2 + sine**2)
        return MEAN + gain * (state - cosine * MEAN)


def site():
    return SceneRaster(Grid(64, 64), np.zeros((64, 64)), np.ones((64, 64), bool))


def estimate(noise_db, **options):
    """Map in u, with exact reports of u = 0.6 in every fourth cell of every fourth row."""
    made = METHOD(RadioDiffInv1Config(**options), GaussianCells(TINY).eval())
    grid = site().grid
    centres = grid.centres_m()[::4, ::4].reshape(-1, 2)
    count = len(centres)
    power = made.scale.to_db(np.full(count, 0.8))
    reports = Reports(
        centres, power, np.full(count, noise_db), np.zeros((count, 2, 2)), reference_dbm=0.0
    )
    posterior = made.estimate(reports, site(), seed=0)
    return 2.0 * (posterior.maps_dbm - made.scale.min_db) / made.scale.span_db - 1.0


@pytest.mark.parametrize("guided", [True, False])
def test_measured_cells_follow_exact_reports_and_others_the_prior(guided):
    found = estimate(0.5, guided=guided, starts=4)
    measured = found[:, ::4, ::4]
    assert np.abs(measured.mean() - 0.6) < 0.1
    others = found[:, 2::4, 2::4]
    assert np.abs(others.mean() - MEAN) < 0.05
    assert np.abs(others.std() - STD) < 0.1


def test_noisy_reports_pull_less():
    exact, noisy = estimate(0.5)[:, ::4, ::4].mean(), estimate(60.0)[:, ::4, ::4].mean()
    assert MEAN < noisy < exact - 0.3


def test_settings_are_checked():
    assert PRESETS["as_published"].steps == 1000 and not PRESETS["as_published"].guided
    with pytest.raises(ConfigError, match="above 0"):
        RadioDiffInv1Config(steps=0)
    with pytest.raises(ConfigError, match="eta"):
        RadioDiffInv1Config(eta=1.5)
