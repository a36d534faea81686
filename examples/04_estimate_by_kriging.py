"""From reports to a map with honest uncertainty, by drift-aware Kriging (needs no weights)."""

import numpy as np

from hertzmap.core.grid import Grid
from hertzmap.core.types import Reports
from hertzmap.estimation.kriging import Kriging
from hertzmap.scenes.raster import rasterize
from hertzmap.scenes.synthetic import city

scene = city(seed=5, size_m=64.0, buildings=4)
site = rasterize(scene, Grid(rows=32, cols=32, spacing_m=2.0, origin_m=(-32.0, -32.0)))

draw = np.random.default_rng(1)
place_m = draw.permutation(site.grid.centres_m()[site.free])[:60]
reports = Reports(
    reported_m=place_m,
    power_dbm=-70.0 - 0.4 * place_m[:, 0] + 3.0 * draw.standard_normal(60),
    noise_db=np.full(60, 3.0),
    drift_cov_m2=np.tile(4.0 * np.eye(2), (60, 1, 1)),  # 2 m per axis
)

posterior = Kriging.from_preset("tuned").estimate(reports, site, seed=0)
mean_dbm, std_db = posterior.mean_dbm()[site.free], posterior.std_db()[site.free]
covered = posterior.coverage_probability(-75.0)[site.free]
print(f"power {mean_dbm.min():.0f} to {mean_dbm.max():.0f} dBm, ± {np.median(std_db):.1f} dB")
print(f"{covered.mean():.0%} of the outdoor area is expected above −75 dBm")
